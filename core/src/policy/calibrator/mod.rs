//! The reported probability.

mod check;
mod isotonic;
mod scaling;
mod venn_abers;

pub use isotonic::IsotonicCurve;
pub use scaling::Mixture;
pub use venn_abers::VennAbersSteps;

use super::softmax::{
    log_loss_f64, sigmoid, softmax_f64, softmax_into, softmax_log_loss, softplus,
};
use serde::{Deserialize, Serialize};

/// Turns raw logits into the probability that is reported. It enters no comparison.
///
/// In the formulas, z are the logits, s = z₁ − z₀ is the margin of two classes, and K is the number of classes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// softmax(z / t) mixed with the uniform distribution; keeps the order of the classes.
    TsMix(Mixture),
    /// softmax(w ⊙ z + b) (vector scaling, Guo et al. 2017); **may reorder the classes**.
    Vector {
        /// One weight per class.
        weights: Vec<f64>,
        /// One bias per class.
        biases: Vec<f64>,
    },
    /// softmax(w ⊙ L + b) of the centred logarithms L of [`Calibrator::TsMix`]'s probabilities (structured vector
    /// scaling, arXiv 2511.03685); **may reorder the classes**.
    Svs {
        /// What makes L.
        mixture: Mixture,
        /// One weight per class.
        weights: Vec<f64>,
        /// One bias per class.
        biases: Vec<f64>,
    },
    /// softmax(W·L + b) of the same L (structured matrix scaling); **may reorder the classes**.
    Sms {
        /// What makes L.
        mixture: Mixture,
        /// W `[K, K]`, row by row: row k makes the logit of class k.
        matrix: Vec<f64>,
        /// One bias per class.
        biases: Vec<f64>,
    },
    /// Two classes: P(1) = sigmoid(a·s + b), fitted to smoothed targets (Platt 1999); a ≥ 0.
    Platt {
        /// Slope.
        a: f64,
        /// Intercept.
        b: f64,
    },
    /// Two classes: P(1) = sigmoid(a·s + b), fitted to the labels themselves; a ≥ 0.
    Affine {
        /// Slope.
        a: f64,
        /// Intercept.
        b: f64,
    },
    /// Two classes: logit P(1) = a·ln p − b·ln(1 − p) + c of p = sigmoid(s) (Kull et al. 2017), a, b ≥ 0.
    Beta {
        /// Weight of ln p.
        a: f64,
        /// Weight of −ln(1 − p).
        b: f64,
        /// Intercept.
        c: f64,
    },
    /// Two classes: logit P(1) = c₀ + c₁·s + c₂·s². **Not monotone**: beyond its vertex a larger margin reports a
    /// smaller probability.
    Quadratic {
        /// [c₀, c₁, c₂].
        c: [f64; 3],
    },
    /// Two classes: a rising curve through pooled rates; flat in places, so that it makes ties.
    Isotonic(IsotonicCurve),
    /// Two classes: the inductive Venn–Abers predictor; flat in places, so that it makes ties.
    VennAbers(VennAbersSteps),
}

/// Why no calibrator could be fitted; the raw softmax is reported instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fallback {
    /// There are no rows.
    NoRows,
    /// There are too few rows to choose a calibrator by cross-validation.
    TooFewRows,
    /// All rows have one label.
    OneClass,
    /// A class has no row: the likelihood has no maximum.
    ClassWithoutRows,
    /// A score separates the classes, or every row is right: the likelihood has no maximum.
    Separable,
    /// The best slope is zero or negative: the logits don't rank the labels.
    SlopeNotPositive,
    /// The logits take fewer distinct values than the family has parameters.
    TooFewValues,
    /// The family has too many parameters for so many classes.
    TooManyClasses,
    /// The logits carry nothing, or the optimum lies on the border of the search (temperature e^±16).
    AtBoundary,
    /// The iteration did not end at an optimum.
    NotConverged,
}

impl Calibrator {
    /// Probabilities of one row of finite logits, one per class; they sum to one.
    ///
    /// # Panics
    /// If `logits` is empty, or hasn't as many entries as [`Calibrator::validate`] was given classes.
    pub fn probabilities(&self, logits: &[f32]) -> Vec<f64> {
        let mut out = Vec::with_capacity(logits.len());
        match self {
            Self::None => softmax_into(logits, 1.0, &mut out),
            Self::Temperature { t } => softmax_into(logits, *t, &mut out),
            Self::TsMix(mixture) => mixture.probabilities_into(logits, &mut out),
            Self::Vector { .. } | Self::Svs { .. } | Self::Sms { .. } => {
                self.scaled_logits_into(logits, &mut out);
                softmax_f64(&mut out);
            }
            _ => {
                let logit = self.two_class_logit(logits);
                out.extend([sigmoid(-logit), sigmoid(logit)]);
            }
        }
        out
    }

    /// −ln of the probability that is reported for `label`, in nats, without the underflow of taking a logarithm
    /// afterwards.
    ///
    /// # Panics
    /// As [`Calibrator::probabilities`], and if `label` is no class.
    pub fn log_loss(&self, logits: &[f32], label: usize) -> f64 {
        match self {
            Self::None => softmax_log_loss(logits, 1.0, label),
            Self::Temperature { t } => softmax_log_loss(logits, *t, label),
            Self::TsMix(_) => -libm::log(self.probabilities(logits)[label]),
            Self::Vector { .. } | Self::Svs { .. } | Self::Sms { .. } => {
                let mut out = Vec::with_capacity(logits.len());
                self.scaled_logits_into(logits, &mut out);
                log_loss_f64(&out, label)
            }
            _ => {
                let logit = self.two_class_logit(logits);
                softplus(if label == 1 { -logit } else { logit })
            }
        }
    }

    /// Two classes: ln P(1)/P(0) as reported for the margin s = z₁ − z₀; none for the calibrators that aren't functions
    /// of a margin (ts-mix, vector, svs, sms).
    pub fn binary_logit(&self, s: f64) -> Option<f64> {
        Some(match self {
            Self::None => s,
            Self::Temperature { t } => s / t,
            Self::Platt { a, b } | Self::Affine { a, b } => a * s + b,
            Self::Beta { a, b, c } => b * softplus(s) - a * softplus(-s) + c,
            Self::Quadratic { c: [c0, c1, c2] } => c0 + c1 * s + c2 * s * s,
            Self::Isotonic(curve) => logit(curve.probability(s)),
            Self::VennAbers(steps) => logit(steps.probability(s)),
            Self::TsMix(_) | Self::Vector { .. } | Self::Svs { .. } | Self::Sms { .. } => {
                return None;
            }
        })
    }

    fn two_class_logit(&self, logits: &[f32]) -> f64 {
        assert_eq!(logits.len(), 2, "a calibrator of two classes");
        self.binary_logit(f64::from(logits[1]) - f64::from(logits[0]))
            .expect("only calibrators of the margin get here")
    }

    /// The logits whose softmax vector scaling, SVS and SMS report.
    fn scaled_logits_into(&self, logits: &[f32], out: &mut Vec<f64>) {
        match self {
            Self::Vector { weights, biases } => {
                out.clear();
                out.extend(logits.iter().map(|z| f64::from(*z)));
                scaling::by_vector(weights, biases, out);
            }
            Self::Svs {
                mixture,
                weights,
                biases,
            } => {
                mixture.centred_logs_into(logits, out);
                scaling::by_vector(weights, biases, out);
            }
            Self::Sms {
                mixture,
                matrix,
                biases,
            } => {
                mixture.centred_logs_into(logits, out);
                scaling::by_matrix(matrix, biases, out);
            }
            _ => unreachable!("only vector scaling, svs and sms get here"),
        }
    }
}

/// ln p/(1 − p).
fn logit(p: f64) -> f64 {
    libm::log(p / (1.0 - p))
}

#[cfg(test)]
mod tests;
