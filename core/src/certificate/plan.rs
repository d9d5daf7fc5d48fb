//! Everything that is fixed before the labels of val_calib are read.

use super::{Attempts, Constraint, GroupRisk, SampleSize, UnitRule, check_level};
use crate::artifact::{Digest, Document};
use crate::policy::{Score, Threshold};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How several thresholds are tested on one val_calib so that, with probability 1 − δ, none is certified wrongly.
///
/// - `fixed_sequence`: from a start chosen on val_select toward laxer thresholds, each at δ, to the first failure. The
///   default: nothing is lost to the number of thresholds, but a bad start loses all.
/// - `multi_start`: several sequences at δ / starts, spread over all thresholds. Worth it where val_select is too small,
///   or too unlike val_calib, for its start to be trusted.
/// - `bonferroni`: every threshold at δ / thresholds. For comparison with tools that do this; Holm is never worse.
/// - `holm`: step-down Bonferroni (Holm 1979). Worth it where risk isn't expected to rise with the answered share at all,
///   so that no order is better than another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Procedure {
    /// One sequence at δ.
    #[default]
    FixedSequence,
    /// Several sequences.
    MultiStart {
        /// How many.
        starts: usize,
    },
    /// All at δ / m.
    Bonferroni,
    /// Step-down Bonferroni.
    Holm,
}

/// What val_select says about one constraint at one threshold, and the power of its test on val_calib.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Cases of val_select that count against it.
    pub errors: u64,
    /// Cases of val_select that it is about.
    pub total: u64,
    /// (errors + ½) / (total + 1).
    pub rate: f64,
    /// Cases to be expected on val_calib: total / all × units, rounded.
    pub calib_total: u64,
    /// The most errors among them with which the test still rejects; none if no count does.
    pub max_errors: Option<u64>,
    /// Probability of at most that many errors at the estimated rate.
    pub power: f64,
    /// The p-value that is expected on val_calib: of rate × `calib_total` errors, rounded.
    pub expected_p: f64,
}

/// One threshold of the plan, with what val_select says about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The stored value that will be compared.
    pub threshold: Threshold,
    /// Answered share of val_select.
    pub coverage: f64,
    /// One for each constraint.
    pub measures: Vec<Measure>,
}

/// `plan.json`: everything that is fixed before the labels of val_calib are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of the format.
    pub schema_version: u32,
    /// What is to be promised, all of it together.
    pub constraints: Vec<Constraint>,
    /// Failure probability asked for.
    pub delta: f64,
    /// Number of this attempt on val_calib, from 1.
    pub attempt: u64,
    /// How attempts are paid for.
    pub attempts: Attempts,
    /// The level at which the tests run; `delta` unless attempts are spending.
    pub level: f64,
    /// How several thresholds are tested.
    pub procedure: Procedure,
    /// Number of classes.
    pub classes: usize,
    /// Seed of the hash that orders rows and keeps one of each unit.
    pub seed: u64,
    /// The score.
    pub score: Score,
    /// val_select.
    pub select: SampleSize,
    /// What will be counted as a draw on val_calib.
    pub unit_rule: UnitRule,
    /// The rate to be controlled where units of val_calib have several rows.
    pub group_risk: GroupRisk,
    /// Units of val_calib that the power was computed for.
    pub calib_units: u64,
    /// The thresholds; for one constraint on errors from strict to lax.
    pub candidates: Vec<Candidate>,
    /// Indices of candidates in the order of the tests; those that aren't in it won't be tested.
    pub order: Vec<usize>,
    /// Positions in `order` where sequences start; none where the procedure has no sequences.
    pub starts: Vec<usize>,
    /// The certified share to be expected, as far as val_select can tell.
    pub expected_coverage: f64,
    /// The splits, where known.
    pub splits_digest: Option<Digest>,
}

impl Plan {
    /// The digest that policy, certificate and ledger refer to: of the document's bytes.
    pub fn digest(&self) -> Digest {
        Digest::of_bytes(&crate::artifact::json::to_bytes(self))
    }

    /// The target of the first constraint.
    ///
    /// # Panics
    /// If there is none; a valid plan has one.
    pub fn alpha(&self) -> f64 {
        self.constraints[0].alpha()
    }

    fn check_constraints(&self) -> Result<(), String> {
        if self.constraints.is_empty() {
            return Err("constraints is empty: nothing would be promised".to_owned());
        }
        self.constraints
            .iter()
            .try_for_each(|constraint| constraint.validate(Some(self.classes)))?;
        let is_usual = matches!(self.constraints[..], [Constraint::SelectiveError { .. }]);
        if self.unit_rule == UnitRule::Betting && !is_usual {
            return Err(
                "unit_rule is betting, which goes with the one constraint selective_error only"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn check_order(&self) -> Result<(), String> {
        let n = self.candidates.len();
        if let Some(j) = self.order.iter().find(|j| **j >= n) {
            return Err(format!("order names candidate {j}, there are {n}"));
        }
        let tests = self.order.len();
        match self.starts.iter().find(|start| **start >= tests) {
            Some(start) => Err(format!("a start is {start}, the order has {tests} tests")),
            None if tests == 0 => Err("order is empty: nothing would be tested".to_owned()),
            None => Ok(()),
        }
    }
}

impl Document for Plan {
    const KIND: &'static str = "plan.json";
    const SCHEMA_VERSION: u32 = 2;

    fn validate(&self) -> Result<(), String> {
        self.check_constraints()?;
        check_level("delta", self.delta)?;
        check_level("level", self.level)?;
        if self.attempt == 0 {
            return Err("attempt is 0, attempts count from 1".to_owned());
        }
        self.check_order()
    }
}
