//! The reported probability.

use super::softmax::{sigmoid, softmax_into, softplus};
use serde::{Deserialize, Serialize};

/// Turns raw logits into the probability that is reported. It enters no comparison.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Calibrator {
    /// The softmax of the raw logits.
    None,
    /// softmax(z / t) (Guo et al. 2017).
    Temperature {
        /// Positive.
        t: f64,
    },
    /// Two classes: P(1) = sigmoid(a·s + b) of s = z₁ − z₀ (Platt 1999), a ≥ 0.
    Platt {
        /// Slope.
        a: f64,
        /// Intercept.
        b: f64,
    },
    /// Two classes: logit P(1) = a·ln p − b·ln(1 − p) + c of p = sigmoid(z₁ − z₀) (Kull et al. 2017), a, b ≥ 0.
    Beta {
        /// Weight of ln p.
        a: f64,
        /// Weight of −ln(1 − p).
        b: f64,
        /// Intercept.
        c: f64,
    },
}

/// Why no calibrator could be fitted; the raw softmax is reported instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fallback {
    /// There are no rows.
    NoRows,
    /// All rows have one label.
    OneClass,
    /// A score separates the classes, or every row is right: the likelihood has no maximum.
    Separable,
    /// The best slope is zero or negative: the logits don't rank the labels.
    SlopeNotPositive,
    /// The logits carry nothing, or the optimum lies on the border of the search (temperature e^±16).
    AtBoundary,
    /// The iteration did not end at an optimum.
    NotConverged,
}

impl Calibrator {
    /// Probabilities of one row of finite logits.
    ///
    /// # Panics
    /// If `logits` is empty, or hasn't two entries for the calibrators of two classes.
    pub fn probabilities(&self, logits: &[f32]) -> Vec<f64> {
        let mut out = Vec::with_capacity(logits.len());
        match *self {
            Self::None => softmax_into(logits, 1.0, &mut out),
            Self::Temperature { t } => softmax_into(logits, t, &mut out),
            Self::Platt { .. } | Self::Beta { .. } => {
                assert_eq!(logits.len(), 2, "a calibrator of two classes");
                let logit = self.binary_logit(f64::from(logits[1]) - f64::from(logits[0]));
                out.extend([sigmoid(-logit), sigmoid(logit)]);
            }
        }
        out
    }

    /// Two classes: ln P(1)/P(0) as reported for the margin s = z₁ − z₀.
    pub fn binary_logit(&self, s: f64) -> f64 {
        match *self {
            Self::None => s,
            Self::Temperature { t } => s / t,
            Self::Platt { a, b } => a * s + b,
            Self::Beta { a, b, c } => b * softplus(s) - a * softplus(-s) + c,
        }
    }

    pub(super) fn validate(&self, classes: usize) -> Result<(), String> {
        let fine = match *self {
            Self::None => true,
            Self::Temperature { t } => t.is_finite() && t > 0.0,
            Self::Platt { a, b } => classes == 2 && a.is_finite() && a >= 0.0 && b.is_finite(),
            Self::Beta { a, b, c } => {
                classes == 2 && [a, b].iter().all(|x| x.is_finite() && *x >= 0.0) && c.is_finite()
            }
        };
        if fine {
            return Ok(());
        }
        Err(format!(
            "calibrator {self:?} for {classes} classes: t must be positive, slopes at least 0, all finite, and platt \
             and beta need 2 classes"
        ))
    }
}
