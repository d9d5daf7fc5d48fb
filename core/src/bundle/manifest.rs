//! The types of `bundle.json`.

use crate::{
    artifact::{Digest, Document},
    certificate::BatchMode,
    config::Phase,
    preprocess::{PixelFormat, PreprocessSpec},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZero,
};

/// `bundle.json`: what the bundle is, and every file that counts, with its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleManifest {
    /// The format's version.
    pub schema_version: u32,
    /// Class names; position `k` is logit `k`.
    pub labels: Vec<String>,
    /// The model's input.
    pub input: InputSpec,
    /// The name of the model's output, logits `[N, K]`.
    pub output: String,
    /// The name of the model's output that says how likely the class is right, `[N]`, if it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gate: Option<String>,
    /// From image bytes to the input.
    pub preprocess: PreprocessSpec,
    /// Golden inputs and outputs.
    pub golden: FileRef,
    /// The model card; absent only after a writer was interrupted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub card: Option<FileRef>,
    /// Licences of weights and data.
    pub licences: Vec<FileRef>,
    /// Metrics that the card shows, by their short names; finite.
    pub metrics: BTreeMap<String, f64>,
    /// The models, by name.
    pub variants: BTreeMap<String, Variant>,
    /// Where the bundle comes from.
    pub provenance: Provenance,
}

/// The models' input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// The tensor's name.
    pub name: String,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Images N per run; none: any number.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub batch: Option<NonZero<usize>>,
    /// How pictures are given.
    #[serde(skip_serializing_if = "PixelFormat::is_float32", default)]
    pub pixels: PixelFormat,
}

/// A file of the bundle and its digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// Relative to the bundle, `/`-separated, without `.` or `..`.
    pub path: String,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
}

/// One model of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// The arithmetic: `fp32`, `fp16` or `int8`.
    pub precision: String,
    /// Whether an image's logits may be computed in any batch.
    pub batch_mode: BatchMode,
    /// The ONNX file.
    pub model: FileRef,
    /// The weights that lie outside of the ONNX file, which refers to them by the file's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub data: Option<FileRef>,
    /// How far its outputs are from the trainer's.
    pub parity: FileRef,
    /// How it was made from the float32 model; none of the float32 model itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recipe: Option<FileRef>,
    /// Its own logits of the bundle's golden inputs; without them, those of the bundle are its.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub golden: Option<FileRef>,
    /// The one policy, if it was calibrated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub policy: Option<FileRef>,
    /// The policy's certificate, of the session that it was calibrated through.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub certificate: Option<FileRef>,
    /// The policy's certificates of further sessions: other devices, versions or CPUs.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub sessions: Vec<FileRef>,
}

/// The chain back to the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Of `splits.json`.
    pub splits_digest: Digest,
    /// Of `checkpoint.json`.
    pub checkpoint_digest: Digest,
    /// Of the `checkpoint.json` that its training started from, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_digest: Option<Digest>,
    /// Of the backbone's spec and weights.
    pub backbone_digest: Digest,
    /// Of the resolved configuration, without paths, `calibrate` and `validate`: what decided the model.
    pub config_digest: Digest,
    /// How the model was trained.
    pub phase: Phase,
}

impl BundleManifest {
    /// Every file that counts, sorted by path.
    pub fn files(&self) -> Vec<&FileRef> {
        let variants = self.variants.values().flat_map(|v| {
            [
                Some(&v.model),
                v.data.as_ref(),
                Some(&v.parity),
                v.recipe.as_ref(),
                v.golden.as_ref(),
                v.policy.as_ref(),
                v.certificate.as_ref(),
            ]
            .into_iter()
            .flatten()
            .chain(&v.sessions)
        });
        let mut files: Vec<_> = variants
            .chain([&self.golden])
            .chain(&self.card)
            .chain(&self.licences)
            .collect();
        files.sort();
        files
    }

    /// The digest of the preprocessing, as a [`crate::certificate::Fingerprint`] holds it.
    pub fn preprocessing_digest(&self) -> Digest {
        self.preprocess.digest()
    }
}

impl Document for BundleManifest {
    const KIND: &'static str = "bundle.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        check_labels(&self.labels)?;
        self.preprocess
            .validate()
            .map_err(|error| error.to_string())?;
        let InputSpec { height, width, .. } = self.input;
        let made = self.preprocess.output_size();
        if made != (height, width) {
            return Err(format!(
                "input: {height}x{width} pixels, but `preprocess` makes {}x{}",
                made.0, made.1
            ));
        }
        self.preprocess
            .check_format(self.input.pixels)
            .map_err(|error| format!("input.pixels: {error}"))?;
        check_name("input.name", &self.input.name)?;
        check_name("output", &self.output)?;
        if let Some(gate) = &self.gate {
            check_name("gate", gate)?;
        }
        if let Some((name, value)) = self.metrics.iter().find(|(_, value)| !value.is_finite()) {
            return Err(format!("metrics.{name}: {value} is not finite"));
        }
        if self.variants.is_empty() {
            return Err("variants: there is none".to_owned());
        }
        self.variants
            .iter()
            .try_for_each(|(name, variant)| check_variant(name, variant))?;
        check_paths(&self.files())
    }
}

fn check_labels(labels: &[String]) -> Result<(), String> {
    if labels.len() < 2 {
        return Err(format!(
            "labels: {} given, a classifier has at least 2",
            labels.len()
        ));
    }
    let distinct: BTreeSet<_> = labels.iter().collect();
    if distinct.len() != labels.len() {
        return Err("labels: a name occurs twice".to_owned());
    }
    labels
        .iter()
        .try_for_each(|label| check_name("labels", label))
}

fn check_name(field: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(format!("{field}: {name:?} is not a name"));
    }
    Ok(())
}

fn check_variant(name: &str, variant: &Variant) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(format!(
            "variants: {name:?} is not a name of letters, digits, `-`, `_` and `.`"
        ));
    }
    if variant.policy.is_some() != variant.certificate.is_some() {
        return Err(format!(
            "variants.{name}: a policy and its certificate come together"
        ));
    }
    check_name("precision", &variant.precision)
}

/// Lexical: every path stays below the bundle, whatever is on the disk, and no two roles share a file.
fn check_paths(sorted: &[&FileRef]) -> Result<(), String> {
    for file in sorted {
        let path = &file.path;
        let forbidden = |c: char| c == '\\' || c == ':' || c.is_control();
        let step = |part: &str| matches!(part, "" | "." | "..");
        if path.contains(forbidden) || path.split('/').any(step) {
            return Err(format!("{path:?} is not a relative path inside the bundle"));
        }
        if path == super::MANIFEST {
            return Err(format!("{path:?} can't list itself"));
        }
    }
    match sorted.windows(2).find(|pair| pair[0].path == pair[1].path) {
        Some(pair) => Err(format!("{:?} is listed twice", pair[0].path)),
        None => Ok(()),
    }
}
