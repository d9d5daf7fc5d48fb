//! What was promised, on what evidence: the plan, the certificate, and the refusal to certify.

use crate::artifact::{Digest, Document};
use crate::ledger::LedgerState;
use crate::policy::{Score, Threshold};
use serde::{Deserialize, Serialize};

/// The kind of promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Guarantee {
    /// With confidence 1 − δ over the calibration rows, the risk is at most α.
    Pac,
    /// The risk is at most α on average over calibrations; there is no δ.
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

/// What counts as one independent draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnitRule {
    /// Every row is its own unit.
    Rows,
    /// Some units have several rows: one row of each was kept, by seeded hash.
    OnePerUnit,
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

/// Rows and units of one split, and the rule that made draws of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleSize {
    /// The rule.
    pub rule: UnitRule,
    /// Rows given.
    pub rows: u64,
    /// Independent units = rows used.
    pub units: u64,
}

/// One threshold of the plan, with what val_select says about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The stored value that will be compared.
    pub threshold: Threshold,
    /// val_select rows answered.
    pub answered: u64,
    /// Wrong ones among them.
    pub errors: u64,
    /// (errors + ½) / (answered + 1).
    pub risk: f64,
    /// answered / all.
    pub coverage: f64,
    /// Answers to be expected on val_calib: coverage × units, rounded.
    pub calib_answered: u64,
    /// The most errors among them with which the test still rejects; none if no count does.
    pub max_errors: Option<u64>,
    /// Probability of at most that many errors at the estimated risk.
    pub power: f64,
}

/// `plan.json`: everything that is fixed before the labels of val_calib are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of the format.
    pub schema_version: u32,
    /// Target risk.
    pub alpha: f64,
    /// Failure probability asked for.
    pub delta: f64,
    /// Number of this attempt on val_calib, from 1.
    pub attempt: u64,
    /// How attempts are paid for.
    pub attempts: Attempts,
    /// The level at which the tests run; `delta` unless attempts are spending.
    pub level: f64,
    /// Number of classes.
    pub classes: usize,
    /// Seed of the hash that orders rows and keeps one of each unit.
    pub seed: u64,
    /// The score.
    pub score: Score,
    /// val_select.
    pub select: SampleSize,
    /// Units of val_calib that the power was computed for.
    pub calib_units: u64,
    /// Thresholds from strict to lax.
    pub candidates: Vec<Candidate>,
    /// Index of the candidate that is tested first.
    pub start: usize,
    /// The splits, where known.
    pub splits_digest: Option<Digest>,
}

impl Plan {
    /// The digest that policy, certificate and ledger refer to: of the document's bytes.
    pub fn digest(&self) -> Digest {
        Digest::of_bytes(&crate::artifact::json::to_bytes(self))
    }
}

impl Document for Plan {
    const KIND: &'static str = "plan.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        check_level("alpha", self.alpha)?;
        check_level("delta", self.delta)?;
        check_level("level", self.level)?;
        if self.attempt == 0 {
            return Err("attempt is 0, attempts count from 1".to_owned());
        }
        if self.start >= self.candidates.len() {
            let n = self.candidates.len();
            return Err(format!("start is {}, there are {n} candidates", self.start));
        }
        Ok(())
    }
}

/// One test of the planned sequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Index of the plan's candidate.
    pub candidate: usize,
    /// val_calib units answered.
    pub answered: u64,
    /// Wrong ones among them.
    pub errors: u64,
    /// P(Bin(answered, α) ≤ errors); 1 if nothing is answered.
    pub p_value: f64,
    /// Whether p ≤ level, so that the sequence went on.
    pub passed: bool,
}

/// `certificate.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Version of the format.
    pub schema_version: u32,
    /// Kind of promise.
    pub guarantee: Guarantee,
    /// Target risk; the certificate may be used for any larger one.
    pub alpha: f64,
    /// Failure probability asked for.
    pub delta: f64,
    /// Number of this attempt on val_calib, from 1.
    pub attempt: u64,
    /// How attempts are paid for.
    pub attempts: Attempts,
    /// The level at which the tests ran.
    pub level: f64,
    /// val_calib.
    pub calib: SampleSize,
    /// Units answered.
    pub answered: u64,
    /// Wrong ones among them.
    pub errors: u64,
    /// P(Bin(answered, α) ≤ errors).
    pub p_value: f64,
    /// Clopper–Pearson upper bound of the risk at `level`, for this threshold alone.
    pub upper_bound: f64,
    /// answered / units.
    pub coverage: f64,
    /// The tests in their order, up to and including the first that failed.
    pub run: Vec<Step>,
    /// Of `plan.json`.
    pub plan_digest: Digest,
    /// Of `policy.json`.
    pub policy_digest: Digest,
    /// The splits, where known.
    pub splits_digest: Option<Digest>,
    /// The ledger of val_calib when this was issued.
    pub calib_ledger: LedgerState,
    /// What was measured; none for logits that came without their origin.
    pub fingerprint: Option<Fingerprint>,
    /// The promise in words.
    pub statement: String,
    /// What it rests on.
    pub assumptions: Vec<String>,
}

impl Document for Certificate {
    const KIND: &'static str = "certificate.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        check_level("alpha", self.alpha)?;
        check_level("delta", self.delta)?;
        check_level("level", self.level)?;
        check_counts(self.errors, self.answered, self.calib)?;
        if self.p_value.is_nan() || self.p_value > self.level {
            return Err(format!(
                "p_value {} is above level {}",
                self.p_value, self.level
            ));
        }
        Ok(())
    }
}

/// Why there is no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NotCertifiedReason {
    /// val_calib is so small that even without an error nothing could be certified.
    TooFewUnits,
    /// The plan's first threshold answers no unit of val_calib.
    NothingAnswered,
    /// The plan's first threshold failed its test.
    StartNotRejected,
}

/// `not-certified.json`: what was seen, and what it would take. There is never a fallback threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotCertified {
    /// Version of the format.
    pub schema_version: u32,
    /// Why.
    pub reason: NotCertifiedReason,
    /// Target risk.
    pub alpha: f64,
    /// Failure probability asked for.
    pub delta: f64,
    /// Number of this attempt on val_calib, from 1.
    pub attempt: u64,
    /// How attempts are paid for.
    pub attempts: Attempts,
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
    /// Answered units needed if none of them is wrong: ⌈ln level / ln(1 − α)⌉.
    pub needed_answered_if_no_error: u64,
    /// The same in units of val_calib, at the best candidate's coverage; none if it answers nothing.
    pub needed_units_if_no_error: Option<u64>,
    /// Answered units for 80 % power at the best candidate's observed rate; none if that rate is not below α.
    pub needed_answered_at_observed_rate: Option<u64>,
    /// The same in units of val_calib.
    pub needed_units_at_observed_rate: Option<u64>,
    /// Of `plan.json`.
    pub plan_digest: Digest,
    /// The splits, where known.
    pub splits_digest: Option<Digest>,
}

impl Document for NotCertified {
    const KIND: &'static str = "not-certified.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        check_level("alpha", self.alpha)?;
        check_level("delta", self.delta)?;
        check_level("level", self.level)?;
        check_counts(self.best.errors, self.best.answered, self.calib)
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

fn check_counts(errors: u64, answered: u64, sample: SampleSize) -> Result<(), String> {
    let SampleSize { rows, units, .. } = sample;
    if errors <= answered && answered <= units && units <= rows {
        return Ok(());
    }
    Err(format!(
        "{errors} errors of {answered} answered of {units} units of {rows} rows: each must not exceed the next"
    ))
}
