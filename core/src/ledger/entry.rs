use crate::artifact::Digest;
use crate::certificate::Constraint;
use serde::{Deserialize, Serialize};

/// One thing that was done with a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Entry {
    /// A plan is about to be tested on val_calib: written before its labels are read.
    Attempt(Attempt),
    /// What an attempt came to.
    Outcome(Outcome),
    /// A bundle is about to be validated on val_test: written before its labels are read.
    Opening(Opening),
    /// What an opening came to.
    Verdict(Verdict),
    /// Entries before this one are missing: what they were can't be told any more.
    Break(Break),
}

/// A plan that is about to be tested on val_calib.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Counts attempts from 1.
    pub number: u64,
    /// The model file.
    pub model_digest: Digest,
    /// The plan: score, thresholds, order, start, and how attempts are paid for.
    pub plan_digest: Digest,
    /// The bundle's variant, e.g. `fp32`.
    pub variant: String,
    /// Target of the first constraint.
    pub alpha: f64,
    /// What is to be promised.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// Failure probability asked for; none of a promise in expectation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// The level that it is tested at: δ, or less where attempts are spending; none of a promise in expectation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<f64>,
    /// Rows of val_calib.
    pub rows: u64,
    /// Units of val_calib.
    pub units: u64,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// The attempt's number.
    pub attempt: u64,
    /// The policy that was certified; none if nothing was.
    pub policy_digest: Option<Digest>,
}

/// A bundle that is about to be validated on val_test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// Counts openings from 1; the level of the verdict holds for the first.
    pub number: u64,
    /// The bundle.
    pub bundle_digest: Digest,
    /// The level of the verdict, chosen before val_test is opened.
    pub gamma: f64,
}

/// What an opening came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// The opening's number.
    pub opening: u64,
    /// The verdict.
    pub verdict: Ruling,
    /// Answers.
    pub answered: u64,
    /// Wrong ones among them.
    pub errors: u64,
    /// Units of val_test.
    pub units: u64,
    /// Rows of val_test.
    pub rows: u64,
}

/// Whether the promise was kept on val_test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// It was.
    Held,
    /// It wasn't.
    Refuted,
    /// The images are too few to tell.
    Inconclusive,
    /// The promise is an expectation, of which rows allow an estimate and no verdict.
    Estimated,
}

/// Entries before this one are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Break {
    /// How that was seen.
    pub reason: String,
}
