//! The verdict on val_test: did what was certified hold where nothing was chosen?
//!
//! Each constraint has two exact tests: "the rate is at least α" (rejected: it held) and "the rate is at most α" (rejected:
//! it is refuted). HELD needs every constraint to hold at γ; REFUTED one that is refuted at γ/C. Floors on coverage are
//! ceilings on deferrals. Where the certificate came of betting tests and val_test has units of several rows, the same
//! losses are bet on, in either direction.
//!
//! # What a verdict says, and what it doesn't
//!
//! - HELD: were the rate α or more, val_test would look this good in at most a share γ of draws. REFUTED: were it α or
//!   less, it would look this bad in at most γ. INCONCLUSIVE: val_test is too small to tell, which [`Power`] foresees.
//! - *Units and groups.* Draws are units; images of a group count as one, or are bet on together.
//! - *Attempts.* γ holds for the first opening of val_test. Whoever validates until it is HELD has a verdict on nothing:
//!   later openings of another policy are marked exploratory.
//! - *Shift.* A verdict is about images like val_test's.
//!
//! A promise in expectation gets no verdict but an [`Estimate`](crate::crc::Estimate).
//!
//! The tests are exact binomial ones (Clopper & Pearson 1934) and Waudby-Smith & Ramdas's bets (2010.09686); all
//! constraints are HELD together by an intersection–union test (Berger 1982).
//!
//! ```
//! use stage1_calibration::fit::{Circumstances, PolicyFit, certificate, fit_policy};
//! use stage1_calibration::plan::{Target, plan};
//! use stage1_calibration::rows::{CalibRows, SelectRows, TestRows};
//! use stage1_calibration::verdict::{GAMMA, Opening, Verdict, validate};
//! use stage1_core::artifact::Digest;
//! use stage1_core::config::CalibratorChoice;
//! use stage1_core::ledger::LedgerState;
//! use stage1_core::logits::LogitSet;
//!
//! // 300 rows of three classes; every eighth of the unsure ones is wrong.
//! let rows = |first: usize| LogitSet {
//!     classes: 3,
//!     logits: (first..first + 300).flat_map(|i| [(i % 100) as f32 / 10.0, 0.0, 0.0]).collect(),
//!     labels: (first..first + 300).map(|i| i64::from(i % 100 < 40 && i % 8 == 0)).collect(),
//!     ids: (first..first + 300).map(|i| format!("{i}.png")).collect(),
//!     ..LogitSet::default()
//! };
//! let (select, calib) = (SelectRows::new(&rows(0), 7)?, CalibRows::new(&rows(300), 7)?);
//! let plan = plan(&select, 300, &Target::new(0.05, 0.1), None)?;
//! let PolicyFit::Certified { policy, certified, .. } = fit_policy(&plan, &calib, CalibratorChoice::None)? else {
//!     panic!("enough rows")
//! };
//! let ledger = LedgerState::Unknown { reason: "an example".to_owned() };
//! let certificate = certificate(&plan, &policy, &certified, Circumstances::new(ledger, None));
//! let judge = |test: &LogitSet| {
//!     let opening = Opening { subject_digest: Digest::of_bytes(b"a policy"), number: 1, ledger: None };
//!     validate(&policy, &certificate, &TestRows::new(test, 7)?, GAMMA, opening).map(|v| v.verdict)
//! };
//! let mut worse = rows(600);
//! worse.labels.iter_mut().step_by(4).for_each(|label| *label = 2);
//! assert_eq!(judge(&worse)?, Verdict::Refuted);
//! // Twenty rows can't tell.
//! let few: Vec<usize> = (0..20).collect();
//! assert_eq!(judge(&rows(600).subset(&few))?, Verdict::Inconclusive);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::binomial;
use crate::error::{Error, Result, level};
use crate::evidence::Evidence;
use crate::rows::TestRows;
use serde::{Deserialize, Serialize};
use stage1_core::artifact::{Digest, Document};
use stage1_core::certificate::{
    Certificate, Claim, Constraint, ControlledRisk, GroupRisk, SampleSize, TestKind,
};
use stage1_core::ledger::LedgerState;
use stage1_core::policy::{Policy, Score};

/// The level γ of each side of the verdict.
pub const GAMMA: f64 = 0.05;

/// HELD, REFUTED, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// "The rate is at least α" is rejected at level γ, for every constraint.
    Held,
    /// "The rate is at most α" is rejected, for some constraint, at level γ / constraints.
    Refuted,
    /// Neither is.
    Inconclusive,
}

/// Where the observed rate lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// Every constraint's rate is ≤ α.
    AtOrBelowTarget,
    /// Some constraint's rate is > α.
    AboveTarget,
    /// Nothing was answered.
    NothingAnswered,
}

/// How far the rows could decide, whatever came of them. For betting tests, whose power has no formula, these are numbers
/// of the exact test on one row of each unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// val_calib's smoothed rate (errors + ½) / (cases + 1): what was expected of val_test.
    pub expected_risk: f64,
    /// P(HELD) at that rate, with the cases found here; of several constraints together, at least this.
    pub held: f64,
    /// P(REFUTED) if the rate were 1.5·α.
    pub refuted_at_1_5_alpha: f64,
    /// P(REFUTED) if the rate were 2·α.
    pub refuted_at_2_alpha: f64,
    /// Cases from which on P(HELD) stays at 80 % at the expected rate; none if it isn't below α.
    pub answered_for_80_percent: Option<u64>,
    /// The same in units of val_test, at the share found here; none also if there was no case.
    pub units_for_80_percent: Option<u64>,
}

/// One constraint on val_test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What was promised.
    pub constraint: Constraint,
    /// Cases that count against it. With betting tests these are rows: not a guarantee, they ignore groups.
    pub errors: u64,
    /// Cases that it is about.
    pub total: u64,
    /// errors / total; none if there is no case.
    pub rate: Option<f64>,
    /// Two-sided 95 % interval of the rate.
    pub interval: (f64, f64),
    /// Of "the rate is at least α": small if the rate is below α.
    pub p_held: f64,
    /// Of "the rate is at most α": small if the rate is above α.
    pub p_refuted: f64,
    /// How far the rows could decide.
    pub power: Power,
}

/// `validation.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// Version of the format.
    pub schema_version: u32,
    /// The verdict.
    pub verdict: Verdict,
    /// Where the observed rates lie.
    pub observed: Observed,
    /// Target of the first constraint.
    pub alpha: f64,
    /// Level of each side.
    pub gamma: f64,
    /// val_test.
    pub test: SampleSize,
    /// How the p-values came about.
    pub test_kind: TestKind,
    /// One for each constraint of the certificate.
    pub checks: Vec<Check>,
    /// Units answered; rows where betting tests use all of them.
    pub answered: u64,
    /// Wrong ones among them.
    pub errors: u64,
    /// Answered share of the units.
    pub coverage: f64,
    /// errors / answered; none if nothing was answered.
    pub risk: Option<f64>,
    /// Two-sided 95 % interval of the first constraint's rate.
    pub interval: (f64, f64),
    /// The largest of the checks.
    pub p_held: f64,
    /// The smallest of the checks; it refutes at γ / constraints.
    pub p_refuted: f64,
    /// How far the rows could decide about all constraints.
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
    const SCHEMA_VERSION: u32 = 2;

    fn validate(&self) -> Result<(), String> {
        let counted = self.test.counted();
        if self.errors <= self.answered
            && self.answered <= counted
            && self.opening > 0
            && !self.checks.is_empty()
        {
            return Ok(());
        }
        Err(format!(
            "{} errors of {} answered of {counted} at opening {} with {} checks: each must not exceed the next, openings \
             count from 1, and at least one check is needed",
            self.errors,
            self.answered,
            self.opening,
            self.checks.len()
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

/// Answers val_test by `policy` and compares what comes of it with `certificate`'s promises; `gamma` is usually [`GAMMA`].
///
/// # Errors
/// [`Error::Level`], [`Error::Classes`], [`Error::NoGate`], or [`Error::NotExpectation`] for a promise in expectation, which
/// has no claims that rows could refute ([`estimate`](crate::crc::estimate)).
pub fn validate(
    policy: &Policy,
    certificate: &Certificate,
    test: &TestRows,
    gamma: f64,
    opening: Opening,
) -> Result<Validation> {
    level("gamma", gamma)?;
    if certificate.claims.is_empty() {
        return Err(Error::NotExpectation);
    }
    check_rows(policy, test)?;
    let rows = Rows {
        evidence: Evidence::new(
            &test.0,
            &policy.score,
            certificate.calib.rule,
            group_risk(certificate.risk),
        ),
        policy,
        size: test.0.size(certificate.calib.rule),
        gamma,
        constraints: certificate.claims.len(),
    };
    let checks: Vec<Check> = certificate
        .claims
        .iter()
        .map(|claim| rows.check(claim))
        .collect();
    let answered = rows.evidence.answered(policy.threshold);
    let judged = judge(&checks, gamma);
    Ok(Validation {
        schema_version: Validation::SCHEMA_VERSION,
        verdict: judged.verdict,
        observed: observed(&checks, answered.total),
        alpha: certificate.alpha,
        gamma,
        test: rows.size,
        test_kind: rows.size.rule.test(),
        answered: answered.total,
        errors: answered.errors,
        coverage: rows.evidence.coverage(policy.threshold),
        risk: rate(answered.errors, answered.total),
        interval: checks[0].interval,
        p_held: judged.p_held,
        p_refuted: judged.p_refuted,
        power: together(&checks),
        checks,
        opening: opening.number,
        subject_digest: opening.subject_digest,
        splits_digest: certificate.splits_digest,
        test_ledger: opening.ledger,
    })
}

fn check_rows(policy: &Policy, test: &TestRows) -> Result<()> {
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
    Ok(())
}

fn group_risk(risk: ControlledRisk) -> GroupRisk {
    match risk {
        ControlledRisk::Row { max_group_size } | ControlledRisk::WeightedRow { max_group_size } => {
            GroupRisk::Row { max_group_size }
        }
        _ => GroupRisk::Unit,
    }
}

/// val_test, and what it is asked.
struct Rows<'a> {
    evidence: Evidence,
    policy: &'a Policy,
    size: SampleSize,
    gamma: f64,
    constraints: usize,
}

impl Rows<'_> {
    fn check(&self, claim: &Claim) -> Check {
        let (constraint, threshold) = (claim.constraint, self.policy.threshold);
        let tally = self.evidence.tally(constraint, threshold, self.gamma);
        Check {
            constraint,
            errors: tally.errors,
            total: tally.total,
            rate: rate(tally.errors, tally.total),
            interval: self.evidence.interval(tally, threshold, 0.05),
            p_held: tally.p_value,
            p_refuted: self.evidence.refuting_p(constraint, threshold, self.gamma),
            power: self.power(claim, tally.total),
        }
    }

    fn power(&self, claim: &Claim, total: u64) -> Power {
        let (alpha, gamma, units) = (claim.constraint.alpha(), self.gamma, self.size.units);
        let expected_risk = (claim.errors as f64 + 0.5) / (claim.total as f64 + 1.0);
        // Cases in independent units: all of them, or those of one row of each unit.
        let share = total as f64 / self.size.counted().max(1) as f64;
        let cases = (share * units as f64).round() as u64;
        let refuted = |times: f64| {
            let level = gamma / self.constraints as f64;
            binomial::refuted_power(cases, alpha, level, (times * alpha).min(1.0))
        };
        let needed = binomial::rows_for_held(alpha, gamma, expected_risk);
        let in_units =
            |n: u64| (cases > 0).then(|| (n as f64 * units as f64 / cases as f64).ceil() as u64);
        Power {
            expected_risk,
            held: binomial::held_power(cases, alpha, gamma, expected_risk),
            refuted_at_1_5_alpha: refuted(1.5),
            refuted_at_2_alpha: refuted(2.0),
            answered_for_80_percent: needed,
            units_for_80_percent: needed.and_then(in_units),
        }
    }
}

fn rate(errors: u64, total: u64) -> Option<f64> {
    (total > 0).then(|| errors as f64 / total as f64)
}

/// Of one constraint its own; of several at least, or at most, that.
fn together(checks: &[Check]) -> Power {
    let first = checks[0].power;
    let all = checks[1..].iter().map(|check| check.power);
    all.fold(first, |sum, one| {
        let both = |a: Option<u64>, b: Option<u64>| Some(a?.max(b?));
        Power {
            expected_risk: first.expected_risk,
            held: (sum.held + one.held - 1.0).max(0.0),
            refuted_at_1_5_alpha: sum.refuted_at_1_5_alpha.max(one.refuted_at_1_5_alpha),
            refuted_at_2_alpha: sum.refuted_at_2_alpha.max(one.refuted_at_2_alpha),
            answered_for_80_percent: both(sum.answered_for_80_percent, one.answered_for_80_percent),
            units_for_80_percent: both(sum.units_for_80_percent, one.units_for_80_percent),
        }
    })
}

/// A verdict and its two p-values.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Judged {
    verdict: Verdict,
    p_held: f64,
    p_refuted: f64,
}

fn judge(checks: &[Check], gamma: f64) -> Judged {
    let p_held = checks.iter().map(|check| check.p_held).fold(0.0, f64::max);
    let p_refuted = checks
        .iter()
        .map(|check| check.p_refuted)
        .fold(1.0, f64::min);
    let verdict = if p_held <= gamma {
        Verdict::Held
    } else if p_refuted <= gamma / checks.len() as f64 {
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

fn observed(checks: &[Check], answered: u64) -> Observed {
    let is_above = |check: &Check| {
        check
            .rate
            .is_some_and(|rate| rate > check.constraint.alpha())
    };
    if answered == 0 {
        Observed::NothingAnswered
    } else if checks.iter().any(is_above) {
        Observed::AboveTarget
    } else {
        Observed::AtOrBelowTarget
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::{Circumstances, PolicyFit, certificate, fit_policy};
    use crate::plan::{Target, plan};
    use crate::rows::{CalibRows, SelectRows, shape};
    use crate::testing::{binary_set, multi_set, with_error_rate};
    use stage1_core::config::CalibratorChoice;
    use stage1_core::logits::LogitSet;

    /// A constraint of which `errors` of `total` cases went wrong.
    fn check(errors: u64, total: u64, alpha: f64) -> Check {
        Check {
            constraint: Constraint::SelectiveError { alpha },
            errors,
            total,
            rate: rate(errors, total),
            interval: (0.0, 1.0),
            p_held: binomial::cdf(errors, total, alpha),
            p_refuted: binomial::survival(errors, total, alpha),
            power: Power {
                expected_risk: 0.0,
                held: 0.9,
                refuted_at_1_5_alpha: 0.5,
                refuted_at_2_alpha: 0.5,
                answered_for_80_percent: None,
                units_for_80_percent: None,
            },
        }
    }

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
            let got = judge(&[check(errors, answered, 0.05)], GAMMA);
            assert_eq!(got.verdict, want, "{errors}/{answered}: {got:?}");
        }
    }

    #[test]
    fn several_constraints_hold_together_and_one_refutes_at_its_share() {
        let (held, open) = (check(0, 100, 0.05), check(5, 100, 0.05));
        // P(Bin(100, .05) ≥ 10) = .028: enough for γ, not for γ/2.
        let (above, far_above) = (check(10, 100, 0.05), check(12, 100, 0.05));
        let cases = [
            (vec![&held, &held], Verdict::Held),
            (vec![&held, &open], Verdict::Inconclusive),
            (vec![&held, &above], Verdict::Inconclusive),
            (vec![&held, &far_above], Verdict::Refuted),
        ];
        for (checks, want) in cases {
            let checks: Vec<Check> = checks.into_iter().cloned().collect();
            assert_eq!(judge(&checks, GAMMA).verdict, want, "{checks:?}");
        }
        assert!((together(&[held.clone(), open]).held - 0.8).abs() < 1e-12);
        assert_eq!(observed(&[held, above], 100), Observed::AboveTarget);
    }

    struct Promised {
        policy: Policy,
        certificate: Certificate,
    }

    fn promised(target: &Target, select: &LogitSet, calib: &LogitSet) -> Promised {
        let rows = CalibRows::new(calib, 1).unwrap();
        let select = SelectRows::new(select, 1).unwrap();
        let plan = plan(&select, shape(calib), target, None).unwrap();
        let fit = fit_policy(&plan, &rows, CalibratorChoice::Auto).unwrap();
        let PolicyFit::Certified {
            policy, certified, ..
        } = fit
        else {
            panic!("{fit:?}")
        };
        let ledger = LedgerState::Unknown {
            reason: "a test".to_owned(),
        };
        let circumstances = Circumstances::new(ledger, None);
        let certificate = certificate(&plan, &policy, &certified, circumstances);
        certificate.validate().unwrap();
        Promised {
            policy,
            certificate,
        }
    }

    impl Promised {
        fn on(&self, test: &LogitSet) -> Validation {
            let opening = Opening {
                subject_digest: self.certificate.policy_digest,
                number: 1,
                ledger: None,
            };
            let test = TestRows::new(test, 1).unwrap();
            let got = validate(&self.policy, &self.certificate, &test, GAMMA, opening).unwrap();
            got.validate().unwrap();
            got
        }
    }

    #[test]
    fn a_policy_is_held_to_its_certificate() {
        let promised = promised(
            &Target::new(0.05, 0.1),
            &multi_set(2000, 1),
            &multi_set(2000, 2),
        );
        let got = promised.on(&multi_set(40_000, 3));
        assert_eq!(got.verdict, Verdict::Held, "{got:?}");
        assert_eq!(got.observed, Observed::AtOrBelowTarget);
        assert!(got.interval.0 < got.risk.unwrap() && got.risk.unwrap() < got.interval.1);
        assert!(got.power.held > 0.9 && got.power.refuted_at_2_alpha > 0.999);
        let needed = got.power.answered_for_80_percent.unwrap();
        assert!(needed < got.answered && got.power.units_for_80_percent.unwrap() >= needed);

        let none = promised.on(&multi_set(0, 3));
        assert_eq!(none.verdict, Verdict::Inconclusive);
        assert_eq!(none.observed, Observed::NothingAnswered);
        assert_eq!((none.risk, none.interval), (None, (0.0, 1.0)));

        let got = promised.on(&with_error_rate(3000, 4, 0.3));
        assert_eq!(got.verdict, Verdict::Refuted);
    }

    #[test]
    fn groups_are_bet_on_in_either_direction() {
        let grouped = |mut set: LogitSet| {
            set.units = Some((0..set.n() as u64).map(|i| i / 10).collect());
            set
        };
        let (select, calib) = (grouped(multi_set(3000, 1)), grouped(multi_set(3000, 2)));
        let promised = promised(&Target::new(0.1, 0.1), &select, &calib);
        assert_eq!(promised.certificate.test, Some(TestKind::Betting));
        let held = promised.on(&grouped(multi_set(20_000, 3)));
        assert_eq!(
            (held.verdict, held.test_kind),
            (Verdict::Held, TestKind::Betting)
        );
        let (low, high) = held.interval;
        assert!(
            low < held.risk.unwrap() && held.risk.unwrap() < high,
            "{held:?}"
        );
        let refuted = promised.on(&grouped(with_error_rate(5000, 4, 0.4)));
        assert_eq!(refuted.verdict, Verdict::Refuted);
        // Independent rows need no betting.
        assert_eq!(
            promised.on(&multi_set(5000, 3)).test_kind,
            TestKind::Binomial
        );
    }

    #[test]
    fn every_constraint_is_checked() {
        let mut target = Target::new(0.1, 0.1);
        target.constraints.extend([
            Constraint::Fnr {
                alpha: 0.1,
                defer_as_error: false,
            },
            Constraint::Coverage { at_least: 0.3 },
        ]);
        let promised = promised(&target, &binary_set(3000, 1), &binary_set(3000, 2));
        assert_eq!(promised.certificate.claims.len(), 3);
        let got = promised.on(&binary_set(20_000, 3));
        assert_eq!(got.verdict, Verdict::Held, "{got:?}");
        let coverage = &got.checks[2];
        assert_eq!(coverage.total - coverage.errors, got.answered);
    }
}
