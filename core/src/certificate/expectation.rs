//! Promises in expectation: selective conformal risk control of answers.
//!
//! An image is *selected* if its score reaches a value that val_select fixed; of selected images those are *answered*
//! whose score reaches the threshold that val_calib chose. What is promised is about both.

use super::{Guarantee, NotCertifiedReason, SampleSize, check_level};
use crate::artifact::{Digest, Document};
use crate::policy::Score;
use serde::{Deserialize, Serialize};

/// One threshold, with what val_select says about it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectationCandidate {
    /// The smallest answered score.
    pub at_least: f64,
    /// Answered share of val_select.
    pub coverage: f64,
    /// Wrong answers on val_select.
    pub errors: u64,
    /// Answers on val_select.
    pub answered: u64,
}

/// `plan.json` of a promise in expectation: everything that is fixed before the labels of val_calib are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectationPlan {
    /// Version of the format: that of [`Plan`](super::Plan).
    pub schema_version: u32,
    /// Always [`Guarantee::Expectation`].
    pub guarantee: Guarantee,
    /// The most wrong answers among selected images, on average.
    pub alpha: f64,
    /// Number of this attempt on val_calib, from 1.
    pub attempt: u64,
    /// Number of classes.
    pub classes: usize,
    /// Seed of the hash that orders rows and keeps one of each unit.
    pub seed: u64,
    /// The score that selects and answers.
    pub score: Score,
    /// val_select.
    pub select: SampleSize,
    /// Units of val_calib that the selection was chosen for.
    pub calib_units: u64,
    /// The thresholds from strict to lax; the last one answers whatever is selected.
    pub candidates: Vec<ExpectationCandidate>,
    /// The answered share to be expected, as far as val_select can tell.
    pub expected_coverage: f64,
    /// The splits, where known.
    pub splits_digest: Option<Digest>,
}

impl ExpectationPlan {
    /// The smallest score that is selected.
    ///
    /// # Panics
    /// If there is no threshold; a valid plan has one.
    pub fn selected_from(&self) -> f64 {
        self.candidates.last().expect("a threshold").at_least
    }
}

impl Document for ExpectationPlan {
    const KIND: &'static str = "plan.json";
    const SCHEMA_VERSION: u32 = super::Plan::SCHEMA_VERSION;

    fn validate(&self) -> Result<(), String> {
        check_expectation(self.guarantee)?;
        check_level("alpha", self.alpha)?;
        if self.attempt == 0 {
            return Err("attempt is 0, attempts count from 1".to_owned());
        }
        let falls = |pair: &[ExpectationCandidate]| pair[0].at_least > pair[1].at_least;
        if self.candidates.is_empty() || !self.candidates.windows(2).all(falls) {
            return Err(
                "candidates must be thresholds from strict to lax, at least one".to_owned(),
            );
        }
        Ok(())
    }
}

/// The evidence for a promise in expectation, on one row of each unit of val_calib.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedRisk {
    /// The smallest score that is selected.
    pub selected_from: f64,
    /// Units that are selected, answered or not.
    pub selected: u64,
    /// Wrong answers among them.
    pub errors: u64,
    /// (errors + 1) / (selected + 1), at most α. It isn't the upper bound of an interval.
    pub bound: f64,
}

impl ExpectedRisk {
    pub(super) fn check(&self, alpha: f64, answered: u64, errors: u64) -> Result<(), String> {
        let bound = (self.errors + 1) as f64 / (self.selected + 1) as f64;
        if self.errors != errors || answered > self.selected {
            return Err(format!(
                "expected has {} errors among {} selected units, the certificate {errors} among {answered} answers",
                self.errors, self.selected
            ));
        }
        // α·(selected + 1) may round down where both are equal as decimals.
        if (self.bound - bound).abs() <= 1e-12 && bound <= alpha * (1.0 + 1e-12) {
            return Ok(());
        }
        Err(format!(
            "expected.bound is {}, ({} + 1) / ({} + 1), at most alpha {alpha}, is needed",
            self.bound, self.errors, self.selected
        ))
    }
}

/// `not-certified.json` of a promise in expectation. There is never a fallback threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotControlled {
    /// Version of the format: that of [`NotCertified`](super::NotCertified).
    pub schema_version: u32,
    /// Always [`Guarantee::Expectation`].
    pub guarantee: Guarantee,
    /// Why.
    pub reason: NotCertifiedReason,
    /// The most wrong answers among selected images that were to be promised, on average.
    pub alpha: f64,
    /// Number of this attempt on val_calib, from 1.
    pub attempt: u64,
    /// val_calib.
    pub calib: SampleSize,
    /// Units of it that are selected.
    pub selected: u64,
    /// Answers among them at the strictest threshold.
    pub answered: u64,
    /// Wrong ones among these.
    pub errors: u64,
    /// Selected units that are needed if none is answered wrongly: the least m with 1 ≤ α·(m + 1).
    pub needed_selected_if_no_error: u64,
    /// Of `plan.json`.
    pub plan_digest: Digest,
    /// The splits, where known.
    pub splits_digest: Option<Digest>,
}

impl Document for NotControlled {
    const KIND: &'static str = "not-certified.json";
    const SCHEMA_VERSION: u32 = super::NotCertified::SCHEMA_VERSION;

    fn validate(&self) -> Result<(), String> {
        check_expectation(self.guarantee)?;
        check_level("alpha", self.alpha)?;
        self.calib.check(self.errors, self.answered)?;
        self.calib.check(self.answered, self.selected)
    }
}

fn check_expectation(guarantee: Guarantee) -> Result<(), String> {
    match guarantee {
        Guarantee::Expectation => Ok(()),
        Guarantee::Pac => Err("guarantee is pac, which has another form".to_owned()),
    }
}
