//! The number that is compared, and what it is compared with.

use super::Calibrator;
use super::exponential::exp_of_nonpositive;
use super::softmax::log_sum_exp;
use serde::{Deserialize, Serialize};

/// What a model says of one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    /// Raw logits, one per class.
    pub logits: &'a [f32],
    /// The output of a learned correctness gate, where the model has one.
    pub gate: Option<f32>,
}

impl<'a> From<&'a [f32]> for Row<'a> {
    fn from(logits: &'a [f32]) -> Self {
        Self { logits, gate: None }
    }
}

impl<'a, const K: usize> From<&'a [f32; K]> for Row<'a> {
    fn from(logits: &'a [f32; K]) -> Self {
        logits[..].into()
    }
}

impl<'a> From<&'a Vec<f32>> for Row<'a> {
    fn from(logits: &'a Vec<f32>) -> Self {
        logits[..].into()
    }
}

/// A fixed function of what the model says; nothing in it was fitted on the certifying rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Score {
    /// z₁ − z₀: two classes only.
    BinaryMargin,
    /// The largest softmax probability of the logits divided by `temperature`.
    MaxProbability {
        /// Fitted on val_select (`T_sel`) or on a half of val_calib that doesn't certify; positive.
        temperature: f64,
    },
    /// The largest logit minus the second largest.
    Margin,
    /// ln Σ exp(z_k), the negative free energy (Liu et al. 2020, 2010.03759).
    Energy,
    /// The model's own estimate that its answer is right: an output beside the logits.
    Gate,
    /// The probability that a calibrator gives to the answer, the class with the largest logit: its largest probability,
    /// unless it reorders the classes, in which case that would be the probability of another answer.
    Calibrated {
        /// Fitted on val_select, or on a half of val_calib that doesn't certify: of the families that are no function of
        /// the largest softmax probability, `vector`, `svs` and `sms`.
        by: Calibrator,
    },
}

impl Score {
    /// The score of one row of finite logits, in the type in which thresholds are compared, here and at run time.
    ///
    /// # Panics
    /// If `logits` is empty or has fewer than two entries for a margin, or if there is no gate for [`Score::Gate`].
    pub fn value<'a>(&self, row: impl Into<Row<'a>>) -> f64 {
        let Row { logits, gate } = row.into();
        match self {
            Self::BinaryMargin => f64::from(logits[1]) - f64::from(logits[0]),
            Self::MaxProbability { temperature } => max_probability(logits, *temperature),
            Self::Margin => margin(logits),
            Self::Energy => log_sum_exp(logits, 1.0),
            Self::Gate => f64::from(gate.expect("a row with a gate")),
            Self::Calibrated { by } => by.probabilities(logits)[super::argmax(logits)],
        }
    }

    pub(super) fn validate(&self, classes: usize) -> Result<(), String> {
        match self {
            Self::BinaryMargin if classes != 2 => Err(format!(
                "score binary_margin needs 2 classes, there are {classes}"
            )),
            Self::MaxProbability { temperature }
                if !(temperature.is_finite() && *temperature > 0.0) =>
            {
                Err(format!(
                    "score.temperature is {temperature}, a positive number is needed"
                ))
            }
            Self::Calibrated { by } => match by {
                Calibrator::Vector { .. } | Calibrator::Svs { .. } | Calibrator::Sms { .. } => {
                    by.validate(classes)
                }
                other => Err(format!(
                    "score.by is {}: vector, svs or sms is needed",
                    other.name()
                )),
            },
            _ => Ok(()),
        }
    }
}

/// 1 / Σ exp((z_j − z_max) / T): one division, so that equal rows give equal bits.
fn max_probability(logits: &[f32], temperature: f64) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let mut sum = 0.0;
    for some in logits.chunks(LANES) {
        // Lanes beyond the last class add zero.
        let mut lanes = [f32::NEG_INFINITY; LANES];
        lanes[..some.len()].copy_from_slice(some);
        let mut exponentials = [0.0; LANES];
        for (e, z) in exponentials.iter_mut().zip(&lanes) {
            *e = exp_of_nonpositive((f64::from(*z) - max) / temperature);
        }
        sum = exponentials.iter().fold(sum, |sum, e| sum + e);
    }
    1.0 / sum
}

/// Classes that are worked on together.
const LANES: usize = 4;

fn margin(logits: &[f32]) -> f64 {
    let best = super::argmax(logits);
    let others = logits.iter().enumerate().filter(|(k, _)| *k != best);
    let second = others.map(|(_, z)| *z).reduce(f32::max);
    f64::from(logits[best]) - f64::from(second.expect("two classes"))
}

/// Which scores are answered. Whole tie groups go together: a score equal to a threshold is answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Threshold {
    /// Answer class 1 if the score is ≥ `high`, class 0 if it is ≤ `low`, defer between.
    TwoSided {
        /// Below `high`.
        low: f64,
        /// Above `low`.
        high: f64,
    },
    /// Answer the class with the largest logit if the score is ≥ `at_least`.
    OneSided {
        /// The smallest answered score.
        at_least: f64,
    },
}

impl Threshold {
    /// The answered class, or nothing to defer; `raw` is the class with the largest logit.
    pub fn answer(&self, score: f64, raw: usize) -> Option<usize> {
        match *self {
            Self::TwoSided { high, .. } if score >= high => Some(1),
            Self::TwoSided { low, .. } if score <= low => Some(0),
            Self::TwoSided { .. } => None,
            Self::OneSided { at_least } => (score >= at_least).then_some(raw),
        }
    }

    pub(super) fn validate(&self, score: &Score) -> Result<(), String> {
        match (self, score) {
            (Self::TwoSided { low, high }, Score::BinaryMargin) => {
                if low.is_finite() && high.is_finite() && low < high {
                    return Ok(());
                }
                Err(format!(
                    "threshold has low {low} and high {high}, finite low < high is needed"
                ))
            }
            (Self::OneSided { at_least }, score) if *score != Score::BinaryMargin => {
                if at_least.is_finite() {
                    return Ok(());
                }
                Err(format!(
                    "threshold.at_least is {at_least}, a finite number is needed"
                ))
            }
            (threshold, score) => Err(format!(
                "threshold {threshold:?} does not go with score {score:?}: binary_margin takes two_sided, \
                 the others take one_sided"
            )),
        }
    }
}
