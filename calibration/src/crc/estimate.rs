use crate::binomial;
use crate::error::{Error, Result};
use crate::rows::TestRows;
use crate::scored::{Count, Scored};
use crate::verdict::{Opening, Validation};
use serde::{Deserialize, Serialize};
use stage1_core::artifact::{Digest, Document};
use stage1_core::certificate::{Certificate, Guarantee, SampleSize};
use stage1_core::ledger::LedgerState;
use stage1_core::policy::{Policy, Score, Threshold};

/// `validation.json` of a promise in expectation: an estimate, and no verdict. The promise is about the average of many
/// calibrations; the rate of this one is above α about as often as below, so that no val_test could refute the promise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// Version of the format: that of [`Validation`].
    pub schema_version: u32,
    /// Always [`Guarantee::Expectation`].
    pub guarantee: Guarantee,
    /// The most wrong answers among selected images, on average over calibrations.
    pub alpha: f64,
    /// val_test.
    pub test: SampleSize,
    /// Units that are selected.
    pub selected: u64,
    /// Units that are answered.
    pub answered: u64,
    /// Wrong ones among them.
    pub errors: u64,
    /// errors / selected: what the promise is about; none if nothing was selected.
    pub rate: Option<f64>,
    /// Its two-sided 95 % interval.
    pub interval: (f64, f64),
    /// errors / answered; none if nothing was answered. Nothing was promised of it.
    pub risk: Option<f64>,
    /// Its two-sided 95 % interval.
    pub risk_interval: (f64, f64),
    /// Answered share of the units.
    pub coverage: f64,
    /// Number of this opening of val_test, from 1.
    pub opening: u64,
    /// The bundle, or what stands for it.
    pub subject_digest: Digest,
    /// The splits, where known.
    pub splits_digest: Option<Digest>,
    /// The ledger of val_test when this was written; none for logits without splits.
    pub test_ledger: Option<LedgerState>,
}

impl Document for Estimate {
    const KIND: &'static str = Validation::KIND;
    const SCHEMA_VERSION: u32 = Validation::SCHEMA_VERSION;

    fn validate(&self) -> std::result::Result<(), String> {
        let counts = [
            self.errors,
            self.answered,
            self.selected,
            self.test.counted(),
        ];
        if counts.is_sorted() && self.opening > 0 && self.guarantee == Guarantee::Expectation {
            return Ok(());
        }
        Err(format!(
            "errors, answered, selected and units are {counts:?} at opening {} with guarantee {:?}: each must not exceed the \
             next, openings count from 1, and the guarantee is expectation",
            self.opening, self.guarantee
        ))
    }
}

/// Answers val_test by a policy of kind `scrc`, and estimates the rate that its certificate is about; one row of each unit.
///
/// # Errors
/// [`Error::NotExpectation`] for any other policy, [`Error::Classes`] or [`Error::NoGate`].
pub fn estimate(
    policy: &Policy,
    certificate: &Certificate,
    test: &TestRows,
    opening: Opening,
) -> Result<Estimate> {
    let (Some(from), Guarantee::Expectation) = (policy.selected_from, certificate.guarantee) else {
        return Err(Error::NotExpectation);
    };
    if policy.classes != test.classes() {
        return Err(Error::Classes {
            what: "val_test",
            got: test.classes(),
            want: policy.classes,
        });
    }
    if policy.score == Score::Gate && !test.0.kept.has_gate() {
        return Err(Error::NoGate { what: "val_test" });
    }
    let rows = Scored::new(&test.0.kept, &policy.score);
    let selected = rows.selective(Threshold::OneSided { at_least: from }).total;
    let Count { errors, total } = rows.selective(policy.threshold);
    let rate = |of: u64| (of > 0).then(|| errors as f64 / of as f64);
    let interval = |of: u64| binomial::clopper_pearson(errors, of, 0.05);
    Ok(Estimate {
        schema_version: Estimate::SCHEMA_VERSION,
        guarantee: Guarantee::Expectation,
        alpha: certificate.alpha,
        test: test.size(),
        selected,
        answered: total,
        errors,
        rate: rate(selected),
        interval: interval(selected),
        risk: rate(total),
        risk_interval: interval(total),
        coverage: total as f64 / rows.values.len().max(1) as f64,
        opening: opening.number,
        subject_digest: opening.subject_digest,
        splits_digest: certificate.splits_digest,
        test_ledger: opening.ledger,
    })
}
