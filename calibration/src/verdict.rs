//! The verdict on val_test: did the certified risk hold where nothing was chosen?

use crate::binomial;
use crate::error::{Error, Result, level};
use crate::rows::TestRows;
use serde::{Deserialize, Serialize};
use stage1_core::artifact::{Digest, Document};
use stage1_core::certificate::{Certificate, SampleSize};
use stage1_core::ledger::LedgerState;
use stage1_core::policy::{Outcome, Policy};

/// The level γ of each side of the verdict.
pub const GAMMA: f64 = 0.05;

/// HELD, REFUTED, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// "The risk is at least α" is rejected at level γ.
    Held,
    /// "The risk is at most α" is rejected at level γ.
    Refuted,
    /// Neither is.
    Inconclusive,
}

/// Where the observed rate lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// Errors/answers ≤ α.
    AtOrBelowTarget,
    /// Errors/answers > α.
    AboveTarget,
    /// Nothing was answered.
    NothingAnswered,
}

/// How far the rows could decide, whatever came of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// val_calib's smoothed risk (errors + ½) / (answered + 1): what was expected of val_test.
    pub expected_risk: f64,
    /// P(HELD) at that risk, with the rows answered here.
    pub held: f64,
    /// P(REFUTED) if the risk were 1.5·α.
    pub refuted_at_1_5_alpha: f64,
    /// P(REFUTED) if the risk were 2·α.
    pub refuted_at_2_alpha: f64,
    /// Answered units from which on P(HELD) stays at 80 % at the expected risk; none if it isn't below α.
    pub answered_for_80_percent: Option<u64>,
    /// The same in units of val_test, at the share answered here; none also if nothing was answered.
    pub units_for_80_percent: Option<u64>,
}

/// `validation.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// Version of the format.
    pub schema_version: u32,
    /// The verdict.
    pub verdict: Verdict,
    /// Where the observed rate lies.
    pub observed: Observed,
    /// Target risk.
    pub alpha: f64,
    /// Level of each side.
    pub gamma: f64,
    /// val_test.
    pub test: SampleSize,
    /// Units answered.
    pub answered: u64,
    /// Wrong ones among them.
    pub errors: u64,
    /// answered / units.
    pub coverage: f64,
    /// errors / answered; none if nothing was answered.
    pub risk: Option<f64>,
    /// Two-sided 95 % Clopper–Pearson interval of the risk.
    pub interval: (f64, f64),
    /// P(Bin(answered, α) ≤ errors): small if the risk is below α.
    pub p_held: f64,
    /// P(Bin(answered, α) ≥ errors): small if the risk is above α.
    pub p_refuted: f64,
    /// How far the rows could decide.
    pub power: Power,
    /// Number of this opening of val_test, from 1: the level holds for the first only.
    pub opening: u64,
    /// The bundle, or what stands for it.
    pub subject_digest: Digest,
    /// The splits, where known.
    pub splits_digest: Option<Digest>,
    /// The ledger of val_test when this was written; none for logits without splits.
    pub test_ledger: Option<LedgerState>,
}

impl Document for Validation {
    const KIND: &'static str = "validation.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        if self.errors <= self.answered && self.answered <= self.test.units && self.opening > 0 {
            return Ok(());
        }
        Err(format!(
            "{} errors of {} answered of {} units at opening {}: each must not exceed the next, openings count from 1",
            self.errors, self.answered, self.test.units, self.opening
        ))
    }
}

/// What the verdict is about and the circumstances that are recorded with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Opening {
    /// The bundle, or the policy where there is none.
    pub subject_digest: Digest,
    /// Number of this opening of val_test, from 1.
    pub number: u64,
    /// The ledger of val_test.
    pub ledger: Option<LedgerState>,
}

/// Answers val_test by `policy` and compares the errors with `certificate`'s promise; `gamma` is usually [`GAMMA`].
///
/// # Errors
/// [`Error::Level`], [`Error::Classes`], or [`Error::Row`] for a row that can't be decided.
pub fn validate(
    policy: &Policy,
    certificate: &Certificate,
    test: &TestRows,
    gamma: f64,
    opening: Opening,
) -> Result<Validation> {
    level("gamma", gamma)?;
    let (answered, errors) = count(policy, test)?;
    let alpha = certificate.alpha;
    let counted = judge(errors, answered, alpha, gamma);
    Ok(Validation {
        schema_version: Validation::SCHEMA_VERSION,
        verdict: counted.verdict,
        observed: observed(errors, answered, alpha),
        alpha,
        gamma,
        test: test.size(),
        answered,
        errors,
        coverage: if answered == 0 {
            0.0
        } else {
            answered as f64 / test.size().units as f64
        },
        risk: (answered > 0).then(|| errors as f64 / answered as f64),
        interval: binomial::clopper_pearson(errors, answered, 0.05),
        p_held: counted.p_held,
        p_refuted: counted.p_refuted,
        power: power(certificate, answered, test.size().units, gamma),
        opening: opening.number,
        subject_digest: opening.subject_digest,
        splits_digest: certificate.splits_digest,
        test_ledger: opening.ledger,
    })
}

fn count(policy: &Policy, test: &TestRows) -> Result<(u64, u64)> {
    let rows = test.0.labelled();
    if policy.classes != rows.classes {
        return Err(Error::Classes {
            what: "val_test",
            got: rows.classes,
            want: policy.classes,
        });
    }
    let (mut answered, mut errors) = (0, 0);
    for row in 0..rows.n() {
        let decision = policy
            .decide(rows.row(row))
            .map_err(|source| Error::Row { row, source })?;
        if let Outcome::Answer { label } = decision.outcome {
            answered += 1;
            errors += u64::from(label != rows.labels[row]);
        }
    }
    Ok((answered, errors))
}

/// A verdict and its two p-values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// P(Bin(answered, α) ≤ errors).
    pub p_held: f64,
    /// P(Bin(answered, α) ≥ errors).
    pub p_refuted: f64,
}

/// The verdict on `errors` wrong of `answered` answers against the target `alpha`, each side at level `gamma`.
pub fn judge(errors: u64, answered: u64, alpha: f64, gamma: f64) -> Judged {
    let p_held = binomial::cdf(errors, answered, alpha);
    let p_refuted = binomial::survival(errors, answered, alpha);
    let verdict = if p_held <= gamma {
        Verdict::Held
    } else if p_refuted <= gamma {
        Verdict::Refuted
    } else {
        Verdict::Inconclusive
    };
    Judged {
        verdict,
        p_held,
        p_refuted,
    }
}

fn observed(errors: u64, answered: u64, alpha: f64) -> Observed {
    match answered {
        0 => Observed::NothingAnswered,
        n if errors as f64 / n as f64 <= alpha => Observed::AtOrBelowTarget,
        _ => Observed::AboveTarget,
    }
}

fn power(certificate: &Certificate, answered: u64, units: u64, gamma: f64) -> Power {
    let alpha = certificate.alpha;
    let expected_risk = (certificate.errors as f64 + 0.5) / (certificate.answered as f64 + 1.0);
    let refuted =
        |times: f64| binomial::refuted_power(answered, alpha, gamma, (times * alpha).min(1.0));
    let needed = binomial::rows_for_held(alpha, gamma, expected_risk);
    let in_units =
        |n: u64| (answered > 0).then(|| (n as f64 * units as f64 / answered as f64).ceil() as u64);
    Power {
        expected_risk,
        held: binomial::held_power(answered, alpha, gamma, expected_risk),
        refuted_at_1_5_alpha: refuted(1.5),
        refuted_at_2_alpha: refuted(2.0),
        answered_for_80_percent: needed,
        units_for_80_percent: needed.and_then(in_units),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::{PolicyFit, certificate, fit_policy};
    use crate::plan::{Target, plan};
    use crate::rows::{CalibRows, SelectRows};
    use crate::testing::{multi_set, with_error_rate};
    use stage1_core::config::CalibratorChoice;

    #[test]
    fn each_side_is_an_exact_test() {
        let cases = [
            (0, 58, Verdict::Inconclusive),
            (0, 59, Verdict::Held),
            (5, 100, Verdict::Inconclusive),
            (10, 100, Verdict::Refuted),
            (9, 100, Verdict::Inconclusive),
            (30, 1000, Verdict::Held),
            (80, 1000, Verdict::Refuted),
            (0, 0, Verdict::Inconclusive),
            (1, 1, Verdict::Refuted),
        ];
        for (errors, answered, want) in cases {
            let got = judge(errors, answered, 0.05, GAMMA);
            assert_eq!(got.verdict, want, "{errors}/{answered}: {got:?}");
        }
    }

    #[test]
    fn a_policy_is_held_to_its_certificate() {
        let make = |n, stream| multi_set(n, stream);
        let select = SelectRows::new(&make(2000, 1), 1).unwrap();
        let calib = CalibRows::new(&make(2000, 2), 1).unwrap();
        let plan = plan(&select, 2000, &Target::new(0.05, 0.1), None).unwrap();
        let fit = fit_policy(&plan, &calib, CalibratorChoice::Auto).unwrap();
        let PolicyFit::Certified { policy, certified } = fit else {
            panic!("{fit:?}")
        };
        let ledger = LedgerState::Unknown {
            reason: "a test".to_owned(),
        };
        let certificate = certificate(&plan, &policy, &certified, ledger, None);
        let opening = Opening {
            subject_digest: certificate.policy_digest,
            number: 1,
            ledger: None,
        };
        let of = |n: usize| {
            let test = TestRows::new(&make(n, 3), 1).unwrap();
            validate(&policy, &certificate, &test, GAMMA, opening.clone()).unwrap()
        };
        let got = of(40_000);
        got.validate().unwrap();
        assert_eq!(got.verdict, Verdict::Held, "{got:?}");
        assert_eq!(got.observed, Observed::AtOrBelowTarget);
        assert!(got.interval.0 < got.risk.unwrap() && got.risk.unwrap() < got.interval.1);
        assert!(got.power.held > 0.9 && got.power.refuted_at_2_alpha > 0.999);
        let needed = got.power.answered_for_80_percent.unwrap();
        assert!(needed < got.answered && got.power.units_for_80_percent.unwrap() >= needed);

        let none = of(0);
        assert_eq!(none.verdict, Verdict::Inconclusive);
        assert_eq!(none.observed, Observed::NothingAnswered);
        assert_eq!((none.risk, none.interval), (None, (0.0, 1.0)));

        let wrong = TestRows::new(&with_error_rate(3000, 4, 0.3), 1).unwrap();
        let got = validate(&policy, &certificate, &wrong, GAMMA, opening).unwrap();
        assert_eq!(got.verdict, Verdict::Refuted);
    }

    #[test]
    fn the_rate_is_placed_beside_the_target() {
        assert_eq!(observed(5, 100, 0.05), Observed::AtOrBelowTarget);
        assert_eq!(observed(6, 100, 0.05), Observed::AboveTarget);
        assert_eq!(observed(0, 0, 0.05), Observed::NothingAnswered);
    }
}
