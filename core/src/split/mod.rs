//! Which image is for what: training, choices, the certificate, or the verdict.

mod assign;
mod conflicts;
mod content;
mod error;
mod held_out;
mod make;
mod manifest;
mod near;
mod nested;
mod options;
mod order;
mod units;
mod warning;

pub use error::{Error, Result};
pub use held_out::{Admitted, Unlabelled, admit, digests};
pub use make::{inputs_digest, make_splits};
pub use manifest::{SplitManifest, SplitSample};
pub use options::{RatioError, Ratios, SplitOptions};
pub use warning::Warning;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What an image may be used for.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Trains the weights.
    Train,
    /// Chooses: early stopping, score, threshold grid, order, start.
    ValSelect,
    /// Certifies, and fits the reported probability.
    ValCalib,
    /// Gives the verdict.
    ValTest,
}

impl Split {
    /// All four, from the least to the most protected.
    pub const ALL: [Self; 4] = [Self::Train, Self::ValSelect, Self::ValCalib, Self::ValTest];

    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::ValSelect => "val_select",
            Self::ValCalib => "val_calib",
            Self::ValTest => "val_test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
