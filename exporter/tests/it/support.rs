//! What the tests share: sessions, golden backbones, deterministic numbers.

use stage1_core::{
    artifact::tensors::{self, Tensor, TensorFile},
    model::Weights,
    preprocess::{IMAGENET_MEAN, IMAGENET_STD, Normalisation},
};
use stage1_exporter::{Exported, Observed, Runtime, Session};
use stage1_runtime::{OrtSession, SessionOptions, Weights as Beside};
use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

/// A model on ONNX Runtime.
pub(crate) struct Ort(OrtSession);

impl Ort {
    pub(crate) fn new(model: &[u8]) -> Self {
        let options = SessionOptions::default();
        Self(
            OrtSession::from_bytes(model, "exported", &options)
                .expect("ONNX Runtime takes the model"),
        )
    }

    /// As [`Ort::new`], with the weights that lie beside the model.
    pub(crate) fn of(model: &Exported) -> Self {
        let weights = model.data.as_ref().map(|data| Beside {
            name: data.name.clone(),
            bytes: data.bytes.as_slice().into(),
        });
        let session = OrtSession::with_weights(
            &model.model,
            weights,
            "exported",
            &SessionOptions::default(),
        );
        Self(session.expect("ONNX Runtime takes the model"))
    }

    /// Images per run, if that is fixed.
    pub(crate) fn batch(&self) -> Option<usize> {
        self.0.batch()
    }

    /// As [`Ort::outputs`], of a model that takes grey levels.
    pub(crate) fn outputs_of_levels(
        &mut self,
        levels: &[u8],
        shape: [usize; 4],
        names: &[&str],
    ) -> Vec<Vec<f32>> {
        let outputs = self
            .0
            .run_bytes(levels, shape, names)
            .expect("the model runs");
        outputs.into_iter().map(|tensor| tensor.values).collect()
    }

    /// The named outputs' values, of pictures that are normalised.
    pub(crate) fn outputs(
        &mut self,
        pixels: &[f32],
        shape: [usize; 4],
        names: &[&str],
    ) -> Vec<Vec<f32>> {
        let outputs = self
            .0
            .run_normalised(pixels, shape, normalisation(), names)
            .expect("the model runs");
        outputs.into_iter().map(|tensor| tensor.values).collect()
    }
}

impl Session for Ort {
    fn run(
        &mut self,
        pixels: &[f32],
        shape: [usize; 4],
    ) -> Result<Vec<f32>, Box<dyn Error + Send + Sync>> {
        let outputs = self
            .0
            .run_normalised(pixels, shape, normalisation(), &["logits"])?;
        Ok(outputs
            .into_iter()
            .flat_map(|tensor| tensor.values)
            .collect())
    }
}

/// That of ImageNet.
pub(crate) fn normalisation() -> Normalisation {
    Normalisation::new(IMAGENET_MEAN, IMAGENET_STD)
}

/// The repository's own golden backbones.
pub(crate) fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones")
}

impl Observed for Ort {
    fn run(
        &mut self,
        pixels: &[f32],
        shape: [usize; 4],
        outputs: &[&str],
    ) -> Result<Vec<Vec<f32>>, Box<dyn Error + Send + Sync>> {
        Ok(self.outputs(pixels, shape, outputs))
    }
}

/// Opens temporary models, and counts them.
#[derive(Default)]
pub(crate) struct Opener {
    pub(crate) opened: usize,
}

impl Runtime for Opener {
    fn open(
        &mut self,
        model: &Exported,
    ) -> Result<Box<dyn Observed>, Box<dyn Error + Send + Sync>> {
        self.opened += 1;
        Ok(Box::new(Ort::of(model)))
    }
}

/// The names of the repository's golden backbones; at least one of each family.
pub(crate) fn golden_backbones() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(goldens())
        .expect("goldens")
        .map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.into_string().expect("UTF-8")
        })
        .collect();
    names.retain(|name| name != "adapters");
    names.sort();
    for family in ["dinov2", "dinov3", "convnext"] {
        assert!(names.iter().any(|name| name.contains(family)), "{names:?}");
    }
    names
}

/// One of the repository's golden backbones.
pub(crate) fn golden_backbone(name: &str) -> Weights {
    Weights::open(&goldens().join(name)).expect("a golden backbone")
}

/// A golden vision transformer whose blocks from `first` on change nothing: LayerScale multiplies what they would add by 0.
pub(crate) fn with_still_blocks(name: &str, first: usize) -> Weights {
    let golden = goldens().join(name);
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::copy(golden.join("config.json"), dir.path().join("config.json")).expect("copied");
    let file = TensorFile::open(&golden.join("model.safetensors")).expect("golden weights");
    let is_still = |name: &str| {
        let (_, place) = name.split_once("layer.").unwrap_or_default();
        let (block, _) = place.split_once('.').unwrap_or_default();
        name.contains("layer_scale") && block.parse().is_ok_and(|block: usize| block >= first)
    };
    let tensor = |name: String| {
        let (shape, values) = file.f32(&name).expect("a golden tensor");
        let values = match is_still(&name) {
            true => vec![0.0; values.len()],
            false => values,
        };
        (name, Tensor::f32(shape, values))
    };
    let names = file.shapes().expect("golden weights").into_keys();
    let path = dir.path().join("model.safetensors");
    tensors::save(&path, &names.map(tensor).collect(), &BTreeMap::new()).expect("saved");
    Weights::open(dir.path()).expect("a valid backbone")
}

/// `count` numbers in -1..1, the same in every run.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The largest |a - b|, as a share of the largest |b|.
pub(crate) fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let difference = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).abs();
    assert!(a.iter().all(|a| a.is_finite()), "not finite");
    largest(&mut a.iter().zip(b).map(difference))
        / largest(&mut b.iter().map(|b| f64::from(b.abs())))
}
