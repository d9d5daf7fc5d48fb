use crate::{
    artifact::{Digest, Document},
    config::Target,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `recipe.json`: how a variant was made from the float32 model, so that its choices can be read and repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The format's version.
    pub schema_version: u32,
    /// Of the float32 model that it was made from.
    pub source_digest: Digest,
    /// Of the settings that decided it.
    pub settings_digest: Digest,
    /// What it was made for.
    #[serde(default)]
    pub target: Target,
    /// Instruction-set class of the CPU that it was made on and for.
    pub cpu_isa: String,
    /// Bits of an integer weight, the sign among them; none where weights aren't integers.
    pub weight_bits: Option<u8>,
    /// Training images that ranges and choices come from, as `splits.json` names them.
    pub images: Vec<String>,
    /// Root mean square of the logits' error on these images, as a share of that of the logits (each less its image's
    /// mean); none where nothing was chosen by it.
    pub error: Option<f64>,
    /// Layers (of fp16: nodes) in the variant's precision.
    pub lowered: usize,
    /// Layers that stay in float32, with the reason's number: the error that each alone would cause (int8), or its
    /// largest magnitude (fp16).
    pub float32: BTreeMap<String, f64>,
}

impl Document for Recipe {
    const KIND: &'static str = "recipe.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        let numbers = self.float32.values().chain(&self.error);
        match numbers.copied().find(|x| !x.is_finite() || *x < 0.0) {
            Some(x) => Err(format!("{x} is not a finite, non-negative number")),
            None if self.images.is_empty() => Err("images: none was looked at".to_owned()),
            None => Ok(()),
        }
    }
}
