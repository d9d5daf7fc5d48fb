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
    /// Whether both tolerances hold.
    pub passed: bool,
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
