//! From a plan and val_calib to a policy and its certificate.

use crate::calibrate;
use crate::certify::{Certification, Certified, certify};
use crate::error::Result;
use crate::rows::CalibRows;
use stage1_core::artifact::{Digest, Document, json};
use stage1_core::certificate::{
    Attempts, Certificate, Fingerprint, Guarantee, NotCertified, Plan, UnitRule,
};
use stage1_core::config::CalibratorChoice;
use stage1_core::ledger::LedgerState;
use stage1_core::policy::Policy;

/// What comes of a calibration.
#[derive(Debug, Clone, PartialEq)]
pub enum PolicyFit {
    /// A policy, and the evidence for it.
    Certified {
        /// Ready to be saved and applied.
        policy: Policy,
        /// See [`certificate`] for its document.
        certified: Certified,
    },
    /// No policy: ready to be saved as `not-certified.json`.
    NotCertified(NotCertified),
}

/// Runs the planned tests on val_calib and fits the reported probability there.
///
/// The order of a calibration is: [`plan`](crate::plan::plan) on val_select; write the plan and append the attempt with
/// its digest to val_calib's ledger; then this.
///
/// # Errors
/// As [`certify`] and [`calibrate::fit`].
pub fn fit_policy(
    plan: &Plan,
    calib: &CalibRows,
    calibrator: CalibratorChoice,
) -> Result<PolicyFit> {
    // The rows are units already: one of each was kept.
    let fit = calibrate::fit(calib.0.labelled(), None, calib.0.seed, calibrator)?;
    let certified = match certify(plan, calib)? {
        Certification::NotCertified(not) => return Ok(PolicyFit::NotCertified(not)),
        Certification::Certified(certified) => certified,
    };
    let mut policy = Policy::new(
        plan.classes,
        plan.score,
        certified.threshold,
        fit.calibrator,
        certified.plan_digest,
    );
    policy.calibrator_fallback = fit.fallback;
    policy.splits_digest = plan.splits_digest;
    Ok(PolicyFit::Certified { policy, certified })
}

/// The document that says what was promised for `policy`, by which session, on what evidence.
pub fn certificate(
    plan: &Plan,
    policy: &Policy,
    certified: &Certified,
    calib_ledger: LedgerState,
    fingerprint: Option<Fingerprint>,
) -> Certificate {
    let assumptions = assumptions(plan, certified, &calib_ledger, fingerprint.as_ref());
    Certificate {
        schema_version: Certificate::SCHEMA_VERSION,
        guarantee: Guarantee::Pac,
        alpha: plan.alpha,
        delta: plan.delta,
        attempt: plan.attempt,
        attempts: plan.attempts,
        level: plan.level,
        calib: certified.calib,
        answered: certified.step.answered,
        errors: certified.step.errors,
        p_value: certified.step.p_value,
        upper_bound: certified.upper_bound,
        coverage: certified.coverage,
        run: certified.run.clone(),
        plan_digest: certified.plan_digest,
        policy_digest: Digest::of_bytes(&json::to_bytes(policy)),
        splits_digest: plan.splits_digest,
        calib_ledger,
        fingerprint,
        statement: statement(plan),
        assumptions,
    }
}

/// The promise, in the words of the binding page.
fn statement(plan: &Plan) -> String {
    let (alpha, delta) = (percent(plan.alpha), percent(plan.delta));
    let attempt = match (plan.attempts, plan.attempt) {
        (Attempts::Single, 1) => String::new(),
        (Attempts::Single, j) => {
            format!(
                " This is attempt {j} on this val_calib; the confidence {} holds for one attempt.",
                percent(1.0 - plan.delta)
            )
        }
        (Attempts::Spending, j) => {
            format!(
                " This is attempt {j}, tested at level {}; all attempts together hold with confidence {}.",
                plan.level,
                percent(1.0 - plan.delta)
            )
        }
    };
    format!(
        "On average over images drawn like those of val_calib, the answers of stage 1 are wrong with rate at most {alpha}; \
         over repeated calibrations at most {delta} of such certificates are wrong.{attempt} Nothing is said about single \
         images, single classes, deferred images, or images drawn otherwise."
    )
}

fn assumptions(
    plan: &Plan,
    certified: &Certified,
    ledger: &LedgerState,
    fingerprint: Option<&Fingerprint>,
) -> Vec<String> {
    let units = match certified.calib.rule {
        UnitRule::OnePerUnit => format!(
            "val_calib's {} rows are {} independent units; one row of each, kept by seeded hash, was counted: the rate is that of a random image of a random unit",
            certified.calib.rows, certified.calib.units
        ),
        _ => format!(
            "val_calib's {} rows are independent of one another",
            certified.calib.rows
        ),
    };
    let mut all = vec![
        "val_calib is a random sample of the images that stage 1 will answer".to_owned(),
        "no row of val_calib was used to train or choose the model, the score, the thresholds or their order".to_owned(),
        units,
    ];
    if plan.splits_digest.is_none() {
        all.push(
            "the user divided the rows into val_select and val_calib without looking at them"
                .to_owned(),
        );
    }
    if fingerprint.is_none() {
        all.push("the logits come from the session that will answer: none was recorded".to_owned());
    }
    if let LedgerState::Unknown { reason } = ledger {
        all.push(format!(
            "this is the attempt that it says it is: val_calib's ledger is unknown ({reason})"
        ));
    }
    all
}

fn percent(share: f64) -> String {
    // Twelve digits: 1 − 0.1 shall read 90 %, and 0.0501 stay what it is.
    let text = format!("{:.10}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Target, plan};
    use crate::rows::SelectRows;
    use crate::testing::{binary_set, multi_set, with_error_rate};
    use stage1_core::policy::Outcome;

    fn calibrated(
        select: &stage1_core::logits::LogitSet,
        calib: &stage1_core::logits::LogitSet,
    ) -> (Plan, CalibRows, PolicyFit) {
        let calib = CalibRows::new(calib, 1).unwrap();
        let select = SelectRows::new(select, 1).unwrap();
        let plan = plan(&select, calib.size().units, &Target::new(0.05, 0.1), None).unwrap();
        let fit = fit_policy(&plan, &calib, CalibratorChoice::Auto).unwrap();
        (plan, calib, fit)
    }

    #[test]
    fn the_policy_decides_as_it_was_counted() {
        for make in [multi_set, binary_set] {
            let set = make(2000, 2);
            let (plan, _, fit) = calibrated(&make(2000, 1), &set);
            let PolicyFit::Certified { policy, certified } = fit else {
                panic!("{fit:?}")
            };
            policy.validate().unwrap();
            let (mut answered, mut errors) = (0, 0);
            for i in 0..set.n() {
                if let Outcome::Answer { label } = policy.decide(set.row(i)).unwrap().outcome {
                    answered += 1;
                    errors += u64::from(label as i64 != set.labels[i]);
                }
            }
            assert_eq!(
                (answered, errors),
                (certified.step.answered, certified.step.errors)
            );
            let unknown = LedgerState::Unknown {
                reason: "a test".to_owned(),
            };
            let document = certificate(&plan, &policy, &certified, unknown, None);
            document.validate().unwrap();
            assert!(
                document.statement.contains("at most 5 %")
                    && document.statement.contains("at most 10 %")
            );
            assert_eq!(document.assumptions.len(), 6, "{:?}", document.assumptions);
        }
    }

    #[test]
    fn there_is_no_fallback_threshold() {
        let (_, _, fit) = calibrated(&with_error_rate(500, 1, 0.4), &with_error_rate(500, 2, 0.4));
        assert!(matches!(fit, PolicyFit::NotCertified(_)), "{fit:?}");
    }

    #[test]
    fn the_calibrator_moves_no_decision() {
        let (plan, calib, fit) = calibrated(&binary_set(1500, 1), &binary_set(1500, 2));
        let PolicyFit::Certified { policy, .. } = fit else {
            panic!("{fit:?}")
        };
        for choice in [
            CalibratorChoice::None,
            CalibratorChoice::Beta,
            CalibratorChoice::Temperature,
        ] {
            let PolicyFit::Certified { policy: other, .. } =
                fit_policy(&plan, &calib, choice).unwrap()
            else {
                panic!()
            };
            assert_eq!(
                (other.threshold, other.score),
                (policy.threshold, policy.score)
            );
            assert_ne!(other.calibrator, policy.calibrator);
        }
    }

    #[test]
    fn later_attempts_are_owned_up_to() {
        let (mut plan, _, _) = calibrated(&multi_set(100, 1), &multi_set(100, 2));
        assert!(!statement(&plan).contains("attempt"));
        plan.attempt = 3;
        assert!(
            statement(&plan)
                .contains("attempt 3 on this val_calib; the confidence 90 % holds for one attempt")
        );
    }
}
