//! Backbones to measure speed with.

use stage1_core::{
    artifact::tensors::{self, Tensor},
    model::{BackboneSpec, Weights},
};
use std::{collections::BTreeMap, fs};

/// Weights of this shape, of numbers that mean nothing.
///
/// # Panics
/// When the temporary folder that they go through can't be written.
pub fn random(spec: &BackboneSpec) -> Weights {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 27) as f32 - 0.0625
    };
    let tensors: BTreeMap<_, _> = spec
        .tensors()
        .into_iter()
        .map(|tensor| {
            let values = (0..tensor.shape.iter().product()).map(|_| next()).collect();
            (tensor.name, Tensor::f32(tensor.shape, values))
        })
        .collect();
    let path = dir.path().join("model.safetensors");
    tensors::save(&path, &tensors, &BTreeMap::new()).expect("saved");
    let config = spec.to_hf_config().to_string();
    fs::write(dir.path().join("config.json"), config).expect("written");
    Weights::open(dir.path()).expect("a valid backbone")
}
