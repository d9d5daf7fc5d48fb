//! A DINOv2 inside an ONNX file, as PyTorch exports it, back into a Hugging Face folder.
//!
//! PyTorch keeps the names of biases, norms and embeddings, but stores the weight of a linear layer transposed and under
//! a number: it is found by the `MatMul` that feeds the `Add` of the bias. The position table is split in two.

mod dinov2;
mod error;
mod index;
#[cfg(test)]
mod tests;

pub use error::ImportError;

use crate::Result;
use crate::onnx::ModelProto;
use index::Index;
use prost::Message as _;
use stage1_core::{
    artifact::{self, Digest, atomic, tensors},
    model::{BackboneSpec, Family, Positions, Weights},
};
use std::{collections::BTreeMap, fs, io, path::Path};

/// What an import found.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportReport {
    /// The backbone.
    pub spec: BackboneSpec,
    /// The digest of the ONNX file.
    pub source: Digest,
    /// The digest of spec and weights: what a checkpoint on this backbone will name.
    pub backbone: Digest,
    /// Number of tensors written.
    pub tensors: usize,
    /// Number of values in them.
    pub parameters: usize,
    /// The file's tensors that are no part of the backbone (a decoder, say), sorted.
    pub left_out: Vec<String>,
}

/// Reads the DINOv2 (without registers, MLP blocks) in `onnx` and writes `out/model.safetensors`, then
/// `out/config.json`: a folder without the latter is not finished. Files of those names are replaced.
///
/// # Errors
/// [`ImportError`] names the tensor or node that isn't there or isn't of the expected form;
/// [`crate::Error::Artifact`] when a file can't be read or written.
pub fn import_onnx(onnx: &Path, out: &Path) -> Result<ImportReport> {
    let (model, source) = read(onnx)?;
    let graph = model.graph.unwrap_or_default();
    let backbone = dinov2::find(&Index::new(onnx, &graph))?;
    let used = &backbone.used;
    let names = graph.initializer.iter().map(|tensor| tensor.name());
    let mut left_out: Vec<_> = names
        .filter(|name| !used.contains(*name))
        .map(str::to_owned)
        .collect();
    left_out.sort();
    let config = out.join("config.json");
    remove(&config)?;
    tensors::save(
        &out.join("model.safetensors"),
        &backbone.tensors,
        &BTreeMap::new(),
    )?;
    atomic::write_bytes(&config, &config_json(&backbone.spec))?;
    let (spec, weights) = Weights::open(out)?;
    Ok(ImportReport {
        source,
        backbone: weights.digest(),
        tensors: backbone.tensors.len(),
        parameters: spec.parameter_count(),
        left_out,
        spec,
    })
}

fn read(path: &Path) -> Result<(ModelProto, Digest)> {
    let bytes = fs::read(path).map_err(|source| artifact::Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let model = ModelProto::decode(&*bytes).map_err(|source| ImportError::NotOnnx {
        path: path.to_owned(),
        source,
    })?;
    Ok((model, Digest::of_bytes(&bytes)))
}

fn remove(path: &Path) -> artifact::Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(artifact::Error::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// What transformers' `Dinov2Model.from_pretrained` needs to build this model.
fn config_json(spec: &BackboneSpec) -> Vec<u8> {
    let Positions::Learned { grid, .. } = spec.positions else {
        unreachable!("a DINOv2 has learned positions");
    };
    let config = serde_json::json!({
        "architectures": ["Dinov2Model"],
        "model_type": Family::Dinov2.model_type(),
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "mlp_ratio": ratio(spec.ffn_hidden, spec.hidden),
        "hidden_act": "gelu",
        "use_swiglu_ffn": false,
        "qkv_bias": true,
        "layer_norm_eps": spec.norm_eps,
        "layerscale_value": 1.0,
        "patch_size": spec.patch,
        "image_size": grid * spec.patch,
        "num_channels": 3,
        "apply_layernorm": true,
        // Training's mask token isn't in the file.
        "use_mask_token": false,
        "dtype": "float32",
    });
    let mut bytes = serde_json::to_vec_pretty(&config).expect("plain data has a JSON form");
    bytes.push(b'\n');
    bytes
}

fn ratio(inner: usize, hidden: usize) -> serde_json::Value {
    match inner.is_multiple_of(hidden) {
        true => (inner / hidden).into(),
        false => (inner as f64 / hidden as f64).into(),
    }
}
