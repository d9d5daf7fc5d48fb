//! What was promised, on what evidence: the plan, the certificate, and the refusal to certify.

mod constraint;
mod either;
mod expectation;
mod plan;
mod sample;

pub use constraint::{Constraint, percent};
pub use either::{AnyPlan, AnyRefusal};
pub use expectation::{ExpectationCandidate, ExpectationPlan, ExpectedRisk, NotControlled};
pub use plan::{Candidate, Measure, Plan, Procedure};
pub use sample::{Claim, ControlledRisk, GroupRisk, SampleSize, Tally, TestKind, UnitRule};

use crate::artifact::{Digest, Document};
use crate::ledger::LedgerState;
use crate::policy::Threshold;
use serde::{Deserialize, Serialize};

/// The kind of promise.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Guarantee {
    /// With confidence 1 − δ over the calibration rows, the risk is at most α.
    #[default]
    Pac,
    /// The risk is at most α on average over calibrations; there is no δ, and about every second calibration exceeds α.
    Expectation,
}

/// How repeated attempts on one val_calib are paid for.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Attempts {
    /// Every attempt runs at δ; the confidence 1 − δ holds for one attempt only.
    #[default]
    Single,
    /// Attempt j runs at δ / (j·(j + 1)): all attempts together hold with confidence 1 − δ.
    Spending,
}

impl Attempts {
    /// The level at which attempt `attempt` (from 1) is tested.
    pub fn level(self, delta: f64, attempt: u64) -> f64 {
        match self {
            Self::Single => delta,
            Self::Spending => delta / (attempt as f64 * (attempt as f64 + 1.0)),
        }
    }
}

/// How images were put through the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchMode {
    /// An image's logits don't depend on its batch: any batch size may be used.
    Any,
    /// One image at a time.
    Single,
}

/// What was measured: a session that differs in any of this isn't covered by the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Of the model file.
    pub model_digest: Digest,
    /// Execution provider, e.g. `cpu`.
    pub provider: String,
    /// Its version, e.g. `onnxruntime 1.31.1`.
    pub provider_version: String,
    /// E.g. `fp32`.
    pub precision: String,
    /// Batches used.
    pub batch_mode: BatchMode,
    /// Of the preprocessing.
    pub preprocessing_digest: Digest,
    /// Instruction-set class of the CPU, e.g. `x86_64-avx2`.
    pub cpu_isa: String,
}

/// How often a variant differs from the float32 model, on one row of each unit of val_calib; labels weren't used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlipBounds {
    /// Each bound is exceeded with at most this probability.
    pub delta: f64,
    /// Rows compared.
    pub rows: u64,
    /// Rows whose largest logit is another class's.
    pub labels: u64,
    /// Upper bound of their rate.
    pub labels_bound: f64,
    /// Rows that are answered otherwise, or by one of the two only, at the policy's threshold.
    pub decisions: u64,
    /// Upper bound of their rate, for a threshold that was chosen among the plan's.
    pub decisions_bound: f64,
}

/// One test of the planned sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Index of the plan's candidate.
    pub candidate: usize,
    /// val_calib units answered; rows where betting tests use all of them.
    pub answered: u64,
    /// Wrong ones among them.
    pub errors: u64,
    /// One for each constraint of the plan.
    pub tallies: Vec<Tally>,
    /// The largest of the tallies' p-values: it rejects "some constraint doesn't hold".
    pub p_value: f64,
    /// Whether the procedure rejected that.
    pub passed: bool,
}

/// `certificate.json`. All its claims hold together, or it is wrong; a promise in expectation has no claims but
/// [`ExpectedRisk`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Version of the format.
    pub schema_version: u32,
    /// Kind of promise.
    pub guarantee: Guarantee,
    /// Target of the first claim, or of the promise in expectation; a certificate may be used for any larger one.
    pub alpha: f64,
    /// Failure probability asked for; none of a promise in expectation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// Number of this attempt on val_calib, from 1.
    pub attempt: u64,
    /// How attempts are paid for.
    pub attempts: Attempts,
    /// The level at which the tests ran; none of a promise in expectation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<f64>,
    /// How several thresholds were tested; none of a promise in expectation, which tests none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub procedure: Option<Procedure>,
    /// Certificates of variants that were made on this val_calib, with this one: all of them hold together with
    /// confidence 1 − Σδ. Those that were tested together count as one, promises in expectation don't count.
    pub variants: u64,
    /// The variants that were tested together at this threshold, this one among them: all hold together with confidence
    /// 1 − δ, and `run` has for each threshold the one that did worst. None of one that was tested alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jointly: Vec<String>,
    /// val_calib.
    pub calib: SampleSize,
    /// The rate that is controlled.
    pub risk: ControlledRisk,
    /// How the p-values came about; none of a promise in expectation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<TestKind>,
    /// What is promised with confidence 1 − δ, each with its evidence; nothing of a promise in expectation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Claim>,
    /// The evidence for a promise in expectation; none of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<ExpectedRisk>,
    /// Units answered; rows where betting tests use all of them (not a guarantee: they ignore groups).
    pub answered: u64,
    /// Wrong ones among them.
    pub errors: u64,
    /// The largest of the claims' p-values; none of a promise in expectation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_value: Option<f64>,
    /// The first claim's upper bound at `level`, for this threshold alone; none of a promise in expectation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_bound: Option<f64>,
    /// Answered share of the units; with betting tests of a random image of a random unit.
    pub coverage: f64,
    /// The tests in their order; a promise in expectation has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run: Vec<Step>,
    /// Of `plan.json`.
    pub plan_digest: Digest,
    /// Of `policy.json`.
    pub policy_digest: Digest,
    /// The splits, where known.
    pub splits_digest: Option<Digest>,
    /// Where no splits keep rows apart: of `used-rows.safetensors`, which tells the rows that selected and certified, so that
    /// none of them judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_rows: Option<Digest>,
    /// The ledger of val_calib when this was issued.
    pub calib_ledger: LedgerState,
    /// What was measured; none for logits that came without their origin.
    pub fingerprint: Option<Fingerprint>,
    /// How often the variant says something else than float32; none of float32 itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flips: Option<FlipBounds>,
    /// The promise in words.
    pub statement: String,
    /// What it rests on.
    pub assumptions: Vec<String>,
}

impl Certificate {
    /// The largest rate of wrong answers among answers that is promised; none if that isn't among the claims.
    pub fn selective_error(&self) -> Option<f64> {
        let of = |claim: &Claim| match claim.constraint {
            Constraint::SelectiveError { alpha } => Some(alpha),
            _ => None,
        };
        self.claims.iter().find_map(of)
    }
}

impl Document for Certificate {
    const KIND: &'static str = "certificate.json";
    const SCHEMA_VERSION: u32 = 2;

    fn validate(&self) -> Result<(), String> {
        check_level("alpha", self.alpha)?;
        self.calib.check(self.errors, self.answered)?;
        if self.variants == 0 {
            return Err("variants is 0: this one is among them".to_owned());
        }
        match self.guarantee {
            Guarantee::Pac => self.validate_pac(),
            Guarantee::Expectation => self.validate_expectation(),
        }
    }
}

impl Certificate {
    fn validate_pac(&self) -> Result<(), String> {
        let (Some(delta), Some(level), Some(p_value), Some(_), Some(_)) = (
            self.delta,
            self.level,
            self.p_value,
            self.upper_bound,
            self.procedure,
        ) else {
            return Err(
                "guarantee is pac, which needs delta, level, procedure, p_value and upper_bound"
                    .to_owned(),
            );
        };
        check_level("delta", delta)?;
        check_level("level", level)?;
        self.run
            .iter()
            .try_for_each(|step| step.check(self.calib))?;
        if self.test != Some(self.calib.rule.test()) {
            return Err(format!(
                "test {:?} does not go with unit rule {:?}",
                self.test, self.calib.rule
            ));
        }
        if self.claims.is_empty() || self.expected.is_some() {
            return Err(
                "guarantee is pac, which needs claims, and no `expected`: nothing would be promised"
                    .to_owned(),
            );
        }
        if p_value.is_nan() || p_value > level {
            return Err(format!("p_value {p_value} is above level {level}"));
        }
        Ok(())
    }

    fn validate_expectation(&self) -> Result<(), String> {
        let of_pac = [
            ("delta", self.delta.is_some()),
            ("level", self.level.is_some()),
            ("procedure", self.procedure.is_some()),
            ("test", self.test.is_some()),
            ("p_value", self.p_value.is_some()),
            ("upper_bound", self.upper_bound.is_some()),
            ("claims", !self.claims.is_empty()),
            ("run", !self.run.is_empty()),
        ];
        if let Some((name, _)) = of_pac.iter().find(|(_, is_there)| *is_there) {
            return Err(format!(
                "guarantee is expectation, which has no {name}: nothing is promised with a confidence"
            ));
        }
        match &self.expected {
            Some(_) if self.calib.rule == UnitRule::Betting => {
                Err("unit rule betting goes with guarantee pac only".to_owned())
            }
            Some(expected) => expected.check(self.alpha, self.answered, self.errors),
            None => Err("guarantee is expectation, which needs `expected`".to_owned()),
        }
    }
}

/// Why there is no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NotCertifiedReason {
    /// val_calib, or what is selected of it, is so small that even without an error nothing could be certified.
    TooFewUnits,
    /// The plan's first threshold answers no unit of val_calib.
    NothingAnswered,
    /// The plan's first threshold failed its test; where the procedure has no first one, all of them did.
    StartNotRejected,
    /// This session certifies thresholds, but not that of the policy.
    ThresholdNotRejected,
    /// For a promise in expectation even the strictest planned threshold answers too much wrongly.
    StrictestTooWrong,
}

/// `not-certified.json`: what was seen, and what it would take. There is never a fallback threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotCertified {
    /// Version of the format.
    pub schema_version: u32,
    /// Why.
    pub reason: NotCertifiedReason,
    /// Target of the first constraint.
    pub alpha: f64,
    /// What was to be promised, all of it together.
    pub constraints: Vec<Constraint>,
    /// Failure probability asked for.
    pub delta: f64,
    /// Number of this attempt on val_calib, from 1.
    pub attempt: u64,
    /// How attempts are paid for.
    pub attempts: Attempts,
    /// The variants that were to be certified together at one threshold: of each threshold the counts are those of the one
    /// that did worst. None of one that was tested alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jointly: Vec<String>,
    /// The level at which the test ran.
    pub level: f64,
    /// val_calib.
    pub calib: SampleSize,
    /// The candidate with the smallest p (descriptive: it certifies nothing).
    pub best: Step,
    /// Its threshold.
    pub best_threshold: Threshold,
    /// The tests in their order.
    pub run: Vec<Step>,
    /// Cases (for the selective error: answered units) that are needed if none of them is wrong: ⌈ln level / ln(1 − α)⌉;
    /// with betting tests at least ⌈ln(1 / level) / ln(1 + α)⌉ units. Of several constraints the one that needs most.
    pub needed_answered_if_no_error: u64,
    /// The same in units of val_calib, at the best candidate's share; none if it answers nothing.
    pub needed_units_if_no_error: Option<u64>,
    /// Answered units for 80 % power at the best candidate's observed rate; none if that rate is not below α, and with
    /// betting tests, whose power has no formula.
    pub needed_answered_at_observed_rate: Option<u64>,
    /// The same in units of val_calib; with betting tests about, if wealth grows on as it did.
    pub needed_units_at_observed_rate: Option<u64>,
    /// Of `plan.json`.
    pub plan_digest: Digest,
    /// The splits, where known.
    pub splits_digest: Option<Digest>,
}

impl Document for NotCertified {
    const KIND: &'static str = "not-certified.json";
    const SCHEMA_VERSION: u32 = 2;

    fn validate(&self) -> Result<(), String> {
        check_level("alpha", self.alpha)?;
        check_level("delta", self.delta)?;
        check_level("level", self.level)?;
        self.best.check(self.calib)
    }
}

fn check_level(name: &str, value: f64) -> Result<(), String> {
    if value > 0.0 && value < 1.0 {
        return Ok(());
    }
    Err(format!(
        "{name} is {value}, a number between 0 and 1 is needed"
    ))
}
