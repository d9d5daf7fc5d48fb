use super::Split;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How images are divided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SplitOptions {
    /// Drives every choice; another seed gives other splits.
    pub seed: u64,
    /// The shares of the four splits, in units; unused where the CSV gives all four.
    pub ratios: Ratios,
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self {
            seed: 42,
            ratios: Ratios::default(),
        }
    }
}

/// The shares of the four splits: each above 0, together 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Shares", into = "Shares")]
#[schemars(with = "Shares")]
pub struct Ratios(Shares);

/// The shares as they stand in a file.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Shares {
    /// For training.
    train: f64,
    /// For choices: early stopping, score, threshold grid.
    val_select: f64,
    /// For the certificate.
    val_calib: f64,
    /// For the verdict; three times val_calib lets the verdict be expected to decide.
    val_test: f64,
}

/// The shares aren't ratios.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RatioError {
    /// A share is 0, negative or no number.
    #[error(
        "`{split}` is {got}: every split needs a share above 0 and below 1, or it would be empty"
    )]
    Share {
        /// The split.
        split: Split,
        /// Its share.
        got: f64,
    },
    /// The shares don't add up.
    #[error("train, val_select, val_calib and val_test add up to {sum}, expected 1")]
    Sum {
        /// Their sum.
        sum: f64,
    },
}

impl Ratios {
    /// The shares of train, val_select, val_calib and val_test.
    ///
    /// # Errors
    /// [`RatioError`] for a share outside (0, 1), or a sum that isn't 1 (to 1e-6).
    pub fn new(
        train: f64,
        val_select: f64,
        val_calib: f64,
        val_test: f64,
    ) -> Result<Self, RatioError> {
        Self::try_from(Shares {
            train,
            val_select,
            val_calib,
            val_test,
        })
    }

    /// The share of one split.
    pub fn of(&self, split: Split) -> f64 {
        match split {
            Split::Train => self.0.train,
            Split::ValSelect => self.0.val_select,
            Split::ValCalib => self.0.val_calib,
            Split::ValTest => self.0.val_test,
        }
    }
}

impl Default for Ratios {
    /// As much for the verdict as three times the certificate's share, as its power asks for.
    fn default() -> Self {
        Self(Shares {
            train: 0.5,
            val_select: 0.1,
            val_calib: 0.1,
            val_test: 0.3,
        })
    }
}

impl TryFrom<Shares> for Ratios {
    type Error = RatioError;

    fn try_from(shares: Shares) -> Result<Self, RatioError> {
        let ratios = Self(shares);
        for split in Split::ALL {
            let got = ratios.of(split);
            if !(got > 0.0 && got < 1.0) {
                return Err(RatioError::Share { split, got });
            }
        }
        let sum: f64 = Split::ALL.iter().map(|split| ratios.of(*split)).sum();
        if (sum - 1.0).abs() > 1e-6 {
            // Six decimals: .1 + .2 isn't to be told as .30000000000000004.
            let sum = (sum * 1e6).round() / 1e6;
            return Err(RatioError::Sum { sum });
        }
        Ok(ratios)
    }
}

impl From<Ratios> for Shares {
    fn from(ratios: Ratios) -> Self {
        ratios.0
    }
}
