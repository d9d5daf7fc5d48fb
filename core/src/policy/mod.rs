//! Applying a policy: logits → answer or defer. Fitting one is `stage1-calibration`'s.
//!
//! ```
//! use stage1_core::artifact::Digest;
//! use stage1_core::policy::{Calibrator, Outcome, Policy, Score, Threshold};
//!
//! let policy = Policy::new(
//!     2,
//!     Score::BinaryMargin,
//!     Threshold::TwoSided { low: -1.0, high: 2.0 },
//!     Calibrator::None,
//!     Digest::of_bytes(b"the plan"),
//! );
//! assert_eq!(policy.decide(&[0.0, 2.0])?.outcome, Outcome::Answer { label: 1 });
//! assert_eq!(policy.decide(&[0.0, 1.9])?.outcome, Outcome::Defer);
//! # Ok::<(), stage1_core::policy::PolicyError>(())
//! ```
//!
//! The score and the answered label come from the raw logits and from constants that were fixed before the certifying
//! rows were looked at; the calibrator only shapes the *reported* probability and enters no comparison.

mod calibrator;
mod exponential;
mod score;
mod softmax;

pub use calibrator::{Calibrator, Fallback, IsotonicCurve, Mixture, VennAbersSteps};
pub use exponential::exp_of_nonpositive;
pub use score::{Row, Score, Threshold};
pub use softmax::{log_sum_exp, sigmoid, softmax_into, softplus};

use crate::artifact::{Digest, Document};
use serde::{Deserialize, Serialize};

/// What can be wrong with the logits of one image.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The model and the policy disagree on the number of classes.
    #[error(
        "the policy decides among {want} classes, but the logits have {got}; use the policy of this model's bundle"
    )]
    ClassCount {
        /// Of the policy.
        want: usize,
        /// Of the logits.
        got: usize,
    },
    /// A logit is NaN or infinite: no answer can be derived from it.
    #[error(
        "logit {class} is {value}: a finite number was expected; the image or the model is damaged"
    )]
    NonFinite {
        /// Index of the logit.
        class: usize,
        /// Its value.
        value: f32,
    },
    /// The policy compares a gate, and the model has none.
    #[error(
        "the policy compares the output of a learned gate, which this model does not have; use the policy of this model's \
         bundle, or calibrate with another score"
    )]
    NoGate,
    /// The gate is NaN or infinite.
    #[error("the gate is {value}: a finite number was expected; the image or the model is damaged")]
    NonFiniteGate {
        /// Its value.
        value: f32,
    },
}

/// How the decision is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PolicyKind {
    /// A threshold on a score of the logits.
    Softmax,
    /// A threshold on the output of a learned correctness gate; the label is the class with the largest logit.
    Gate,
    /// Selective conformal risk control: images are selected by a value of the score that val_select fixed, and answered
    /// from a threshold on that val_calib chose. What is promised is an expectation.
    Scrc,
}

impl PolicyKind {
    fn of(score: &Score, selected_from: Option<f64>) -> Self {
        match (score, selected_from) {
            (_, Some(_)) => Self::Scrc,
            (Score::Gate, None) => Self::Gate,
            (_, None) => Self::Softmax,
        }
    }
}

/// `policy.json`: the whole rule that turns logits into a decision. It holds no times, paths or hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Version of the format.
    pub schema_version: u32,
    /// How the decision is made.
    pub kind: PolicyKind,
    /// Number of classes, at least 2.
    pub classes: usize,
    /// The number that is compared.
    pub score: Score,
    /// What it is compared with.
    pub threshold: Threshold,
    /// The smallest score that counts as selected, at most the threshold: of kind `scrc` only. Selected images that aren't
    /// answered are deferred like all others; the promise is about wrong answers among selected images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected_from: Option<f64>,
    /// Shapes the reported probability; enters no comparison.
    pub calibrator: Calibrator,
    /// Why the calibrator is `none` although one was to be fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrator_fallback: Option<Fallback>,
    /// The plan that the threshold was chosen by.
    pub plan_digest: Digest,
    /// The splits that the rows came from, where known.
    pub splits_digest: Option<Digest>,
}

/// What to do with one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Outcome {
    /// Stage 1 answers.
    Answer {
        /// Index of the class.
        label: usize,
    },
    /// Something slower should look.
    Defer,
}

/// A decision and what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// Answer or defer.
    pub outcome: Outcome,
    /// The score that was compared.
    pub score: f64,
    /// The answered label; when deferring, the class with the largest logit (the first of equals).
    pub label: usize,
    /// Calibrated probability of `label`.
    pub probability: f64,
    /// Calibrated probabilities, one per class; they sum to one.
    pub probabilities: Vec<f64>,
}

impl Policy {
    /// A policy of the kind that goes with `score`, without provenance; set the public fields for that.
    pub fn new(
        classes: usize,
        score: Score,
        threshold: Threshold,
        calibrator: Calibrator,
        plan_digest: Digest,
    ) -> Self {
        Self {
            schema_version: Self::SCHEMA_VERSION,
            kind: PolicyKind::of(&score, None),
            classes,
            score,
            threshold,
            selected_from: None,
            calibrator,
            calibrator_fallback: None,
            plan_digest,
            splits_digest: None,
        }
    }

    /// The same as a policy of kind `scrc`, whose images are selected from `selected_from` on.
    #[must_use]
    pub fn selecting(self, selected_from: f64) -> Self {
        Self {
            kind: PolicyKind::Scrc,
            selected_from: Some(selected_from),
            ..self
        }
    }

    /// Decides one image from its raw logits, one per class, and its gate where the policy compares that. The same row
    /// gives the same bits on every platform.
    ///
    /// # Errors
    /// [`PolicyError`] when the number of logits is wrong, one of them isn't finite, or the gate is missing: never an
    /// answer.
    pub fn decide<'a>(&self, row: impl Into<Row<'a>>) -> Result<Decision, PolicyError> {
        let row = row.into();
        self.check(row)?;
        let logits = row.logits;
        let score = self.score.value(row);
        let raw = argmax(logits);
        let answered = self.threshold.answer(score, raw);
        let label = answered.unwrap_or(raw);
        let probabilities = self.calibrator.probabilities(logits);
        Ok(Decision {
            outcome: answered.map_or(Outcome::Defer, |label| Outcome::Answer { label }),
            score,
            label,
            probability: probabilities[label],
            probabilities,
        })
    }

    fn check_gate(&self, gate: Option<f32>) -> Result<(), PolicyError> {
        match (&self.score, gate) {
            (Score::Gate, None) => Err(PolicyError::NoGate),
            (Score::Gate, Some(value)) if !value.is_finite() => {
                Err(PolicyError::NonFiniteGate { value })
            }
            _ => Ok(()),
        }
    }

    /// An answered image is a selected one.
    fn check_selection(&self) -> Result<(), String> {
        match (self.selected_from, self.threshold) {
            (None, _) => Ok(()),
            (Some(from), Threshold::OneSided { at_least }) if from <= at_least => Ok(()),
            (Some(from), threshold) => Err(format!(
                "selected_from is {from}, threshold {threshold:?}: kind scrc needs one_sided from there on"
            )),
        }
    }

    fn check(&self, row: Row<'_>) -> Result<(), PolicyError> {
        self.check_gate(row.gate)?;
        let logits = row.logits;
        if logits.len() != self.classes {
            return Err(PolicyError::ClassCount {
                want: self.classes,
                got: logits.len(),
            });
        }
        match logits.iter().position(|z| !z.is_finite()) {
            None => Ok(()),
            Some(class) => Err(PolicyError::NonFinite {
                class,
                value: logits[class],
            }),
        }
    }
}

impl Document for Policy {
    const KIND: &'static str = "policy.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        if self.classes < 2 {
            return Err(format!(
                "classes is {}, at least 2 are needed",
                self.classes
            ));
        }
        let kind = PolicyKind::of(&self.score, self.selected_from);
        if self.kind != kind {
            return Err(format!(
                "kind is {:?}, score {:?} with selected_from {:?} needs {kind:?}",
                self.kind, self.score, self.selected_from
            ));
        }
        self.check_selection()?;
        self.score.validate(self.classes)?;
        self.threshold.validate(&self.score)?;
        self.calibrator.validate(self.classes)
    }
}

/// The index of the largest value; the first of equals.
///
/// # Panics
/// If `logits` is empty.
pub fn argmax(logits: &[f32]) -> usize {
    let mut best = 0;
    for (i, z) in logits.iter().enumerate() {
        if *z > logits[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests;
