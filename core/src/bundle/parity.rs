use crate::artifact::Document;
use serde::{Deserialize, Serialize};

/// `parity.json`: the exported model against the trainer's own outputs, and against itself in other batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parity {
    /// The format's version.
    pub schema_version: u32,
    /// Reference images compared.
    pub images: usize,
    /// Largest |logit| of the reference: what the errors are measured by.
    pub scale: f64,
    /// Largest |difference| of a logit.
    pub max_abs_error: f64,
    /// Mean |difference|.
    pub mean_abs_error: f64,
    /// The largest `max_abs_error / scale` that passes.
    pub tolerance: f64,
    /// Largest |difference| between an image's logits alone and in a batch, over several batches.
    pub batch_max_abs_error: f64,
    /// The largest `batch_max_abs_error / scale` that passes.
    pub batch_tolerance: f64,
    /// Whether the arg-max agrees on every image.
    pub same_labels: bool,
    /// How often it says something else than the float32 model; none of the float32 model itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flips: Option<FlipRate>,
    /// Whether the tolerances and the largest flip rate hold. A variant other than float32 that depends on its batch
    /// passes, too: it runs one image at a time.
    pub passed: bool,
}

/// Images of val_select, from their bytes, whose largest logit is another class's than the float32 model's. An observed
/// rate: val_select also stopped the training, so that no bound could be read from it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlipRate {
    /// Images compared.
    pub images: u64,
    /// Those that differ.
    pub flips: u64,
    /// The largest rate that passes.
    pub max_rate: f64,
}

impl FlipRate {
    /// The observed rate; 0 without images.
    pub fn rate(&self) -> f64 {
        self.flips as f64 / self.images.max(1) as f64
    }

    /// Whether the rate is within its limit.
    pub fn passed(&self) -> bool {
        self.rate() <= self.max_rate
    }
}

impl Document for Parity {
    const KIND: &'static str = "parity.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        let numbers = [
            ("scale", self.scale),
            ("max_abs_error", self.max_abs_error),
            ("mean_abs_error", self.mean_abs_error),
            ("tolerance", self.tolerance),
            ("batch_max_abs_error", self.batch_max_abs_error),
            ("batch_tolerance", self.batch_tolerance),
        ];
        match numbers.iter().find(|(_, x)| !x.is_finite() || *x < 0.0) {
            Some((name, x)) => Err(format!("{name}: {x} is not a finite, non-negative number")),
            None if self.images == 0 => Err("images: nothing was compared".to_owned()),
            None => Ok(()),
        }
    }
}
