//! The planned sequence on val_calib, and what comes of it.

use crate::binomial;
use crate::error::{Error, Result};
use crate::rows::CalibRows;
use crate::scored::Scored;
use stage1_core::artifact::{Digest, Document};
use stage1_core::certificate::{NotCertified, NotCertifiedReason, Plan, SampleSize, Step};
use stage1_core::policy::Threshold;

/// A threshold whose answers are wrong with rate at most α, with confidence 1 − level.
#[derive(Debug, Clone, PartialEq)]
pub struct Certified {
    /// The laxest threshold that was rejected in sequence.
    pub threshold: Threshold,
    /// Its test.
    pub step: Step,
    /// Clopper–Pearson upper bound of the risk at the plan's level, for this threshold alone.
    pub upper_bound: f64,
    /// Answered share of val_calib's units.
    pub coverage: f64,
    /// The tests in their order, up to and including the first that failed.
    pub run: Vec<Step>,
    /// val_calib.
    pub calib: SampleSize,
    /// Of the plan.
    pub plan_digest: Digest,
}

/// What comes of the planned tests.
#[derive(Debug, Clone, PartialEq)]
pub enum Certification {
    /// A threshold was certified.
    Certified(Certified),
    /// None was; there is no fallback.
    NotCertified(NotCertified),
}

/// Tests the plan's thresholds from its start on: reject "the risk is at least α" while P(Bin(n, α) ≤ k) ≤ level, stop
/// at the first that fails, take the laxest that was rejected.
///
/// # Errors
/// [`Error::OtherRows`] or [`Error::Classes`] when the plan was made for other rows.
pub fn certify(plan: &Plan, calib: &CalibRows) -> Result<Certification> {
    check(plan, calib)?;
    let rows = Scored::new(calib.0.labelled(), plan.score);
    let mut run = Vec::new();
    for candidate in plan.start..plan.candidates.len() {
        let step = test(plan, &rows, candidate);
        let passed = step.passed;
        run.push(step);
        if !passed {
            break;
        }
    }
    let last = run.iter().rev().find(|step| step.passed).cloned();
    Ok(match last {
        Some(step) => Certification::Certified(certified(plan, calib, step, run)),
        None => Certification::NotCertified(not_certified(plan, calib, &rows, run)),
    })
}

fn check(plan: &Plan, calib: &CalibRows) -> Result<()> {
    if calib.classes() != plan.classes {
        return Err(Error::Classes {
            what: "val_calib",
            got: calib.classes(),
            want: plan.classes,
        });
    }
    let (got, got_seed) = (calib.size().units, calib.0.seed);
    if got == plan.calib_units && got_seed == plan.seed {
        return Ok(());
    }
    Err(Error::OtherRows {
        want: plan.calib_units,
        got,
        want_seed: plan.seed,
        got_seed,
    })
}

fn test(plan: &Plan, rows: &Scored, candidate: usize) -> Step {
    let (answered, errors) = rows.count(plan.candidates[candidate].threshold);
    // The p-value of no rows at all is P(Bin(0, α) ≤ 0) = 1.
    let p_value = binomial::cdf(errors, answered, plan.alpha);
    Step {
        candidate,
        answered,
        errors,
        p_value,
        passed: p_value <= plan.level,
    }
}

fn certified(plan: &Plan, calib: &CalibRows, step: Step, run: Vec<Step>) -> Certified {
    Certified {
        threshold: plan.candidates[step.candidate].threshold,
        upper_bound: binomial::upper_bound(step.errors, step.answered, plan.level),
        coverage: step.answered as f64 / calib.size().units as f64,
        step,
        run,
        calib: calib.size(),
        plan_digest: plan.digest(),
    }
}

fn not_certified(plan: &Plan, calib: &CalibRows, rows: &Scored, run: Vec<Step>) -> NotCertified {
    let all = (0..plan.candidates.len()).map(|j| test(plan, rows, j));
    let best = all
        .min_by(|x, y| x.p_value.total_cmp(&y.p_value))
        .expect("a plan has candidates");
    let units = calib.size().units;
    let if_no_error = binomial::min_rows(0, plan.alpha, plan.level);
    let at_rate = match best.answered {
        0 => None,
        n => binomial::rows_for_held(plan.alpha, plan.level, best.errors as f64 / n as f64),
    };
    let in_units =
        |answered: u64| (best.answered > 0).then(|| scale_up(answered, units, best.answered));
    NotCertified {
        schema_version: NotCertified::SCHEMA_VERSION,
        reason: reason(if_no_error, units, &run[0]),
        alpha: plan.alpha,
        delta: plan.delta,
        attempt: plan.attempt,
        attempts: plan.attempts,
        level: plan.level,
        calib: calib.size(),
        best_threshold: plan.candidates[best.candidate].threshold,
        run,
        needed_answered_if_no_error: if_no_error,
        needed_units_if_no_error: in_units(if_no_error),
        needed_answered_at_observed_rate: at_rate,
        needed_units_at_observed_rate: at_rate.and_then(in_units),
        best,
        plan_digest: plan.digest(),
        splits_digest: plan.splits_digest,
    }
}

fn reason(needed: u64, units: u64, first: &Step) -> NotCertifiedReason {
    match first {
        _ if units < needed => NotCertifiedReason::TooFewUnits,
        Step { answered: 0, .. } => NotCertifiedReason::NothingAnswered,
        _ => NotCertifiedReason::StartNotRejected,
    }
}

/// ⌈answered · units / answered_of_them⌉: in integers, because a coverage in floating point may round up.
fn scale_up(answered: u64, units: u64, answered_of_them: u64) -> u64 {
    let product = u128::from(answered) * u128::from(units);
    u64::try_from(product.div_ceil(u128::from(answered_of_them))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Target, plan};
    use crate::rows::SelectRows;
    use crate::testing::{binary_set, multi_set, with_error_rate};

    fn run_on(
        select: &stage1_core::logits::LogitSet,
        calib: &stage1_core::logits::LogitSet,
    ) -> (Plan, Certification) {
        let calib = CalibRows::new(calib, 1).unwrap();
        let select = SelectRows::new(select, 1).unwrap();
        let plan = plan(&select, calib.size().units, &Target::new(0.05, 0.1), None).unwrap();
        let certification = certify(&plan, &calib).unwrap();
        (plan, certification)
    }

    #[test]
    fn the_laxest_threshold_before_the_first_failure_is_taken() {
        for make in [multi_set, binary_set] {
            let (plan, certification) = run_on(&make(2000, 5), &make(2000, 6));
            let Certification::Certified(got) = certification else {
                panic!("{certification:?}")
            };
            let passed: Vec<_> = got.run.iter().take_while(|step| step.passed).collect();
            assert_eq!(passed.first().unwrap().candidate, plan.start);
            assert_eq!(**passed.last().unwrap(), got.step);
            assert_eq!(
                got.run.iter().filter(|step| !step.passed).count(),
                got.run.len() - passed.len()
            );
            assert!(got.run.len() <= passed.len() + 1);
            assert!(got.upper_bound <= 0.05 && got.step.p_value <= 0.1);
        }
    }

    #[test]
    fn no_certificate_tells_what_it_would_take() {
        let (_, certification) = run_on(&multi_set(300, 1), &multi_set(30, 2));
        let Certification::NotCertified(got) = certification else {
            panic!("{certification:?}")
        };
        assert_eq!(got.reason, NotCertifiedReason::TooFewUnits);
        assert_eq!(got.needed_answered_if_no_error, 45);
        got.validate().unwrap();

        let (_, certification) = run_on(
            &with_error_rate(1000, 1, 0.3),
            &with_error_rate(1000, 2, 0.3),
        );
        let Certification::NotCertified(got) = certification else {
            panic!("{certification:?}")
        };
        assert_eq!(got.reason, NotCertifiedReason::StartNotRejected);
        assert_eq!(
            got.needed_answered_at_observed_rate, None,
            "the observed rate is above the target"
        );
        assert!(got.needed_units_if_no_error.unwrap() >= 45);
    }

    #[test]
    fn an_empty_val_calib_certifies_nothing() {
        let (_, certification) = run_on(&multi_set(300, 1), &multi_set(0, 2));
        let Certification::NotCertified(got) = certification else {
            panic!("{certification:?}")
        };
        assert_eq!(
            (got.best.p_value.to_bits(), got.needed_units_if_no_error),
            (1.0_f64.to_bits(), None)
        );
    }

    #[test]
    fn other_rows_than_planned_are_refused() {
        let select = SelectRows::new(&multi_set(300, 1), 1).unwrap();
        let plan = plan(&select, 200, &Target::new(0.05, 0.1), None).unwrap();
        let of = |n, seed| CalibRows::new(&multi_set(n, 2), seed).unwrap();
        assert!(certify(&plan, &of(200, 1)).is_ok());
        assert!(matches!(
            certify(&plan, &of(199, 1)),
            Err(Error::OtherRows {
                want: 200,
                got: 199,
                ..
            })
        ));
        assert!(matches!(
            certify(&plan, &of(200, 2)),
            Err(Error::OtherRows { .. })
        ));
        let binary = CalibRows::new(&binary_set(200, 1), 1).unwrap();
        assert!(matches!(
            certify(&plan, &binary),
            Err(Error::Classes {
                got: 2,
                want: 3,
                ..
            })
        ));
    }
}
