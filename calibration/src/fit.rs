//! From a plan and val_calib to a policy and its certificate.

use crate::calibrate::{self, Selection};
use crate::certify::{Certification, Certified, certify_each, certify_jointly, certify_variant};
use crate::error::Result;
use crate::rows::CalibRows;
use stage1_core::artifact::{Digest, Document, json};
use stage1_core::certificate::{
    Attempts, Certificate, Constraint, Fingerprint, FlipBounds, Guarantee, NotCertified, Plan,
    UnitRule, percent,
};
use stage1_core::config::CalibratorChoice;
use stage1_core::ledger::LedgerState;
use stage1_core::policy::{Policy, Threshold};

/// What comes of a calibration.
#[derive(Debug, Clone, PartialEq)]
pub enum PolicyFit {
    /// A policy, and the evidence for it.
    Certified {
        /// Ready to be saved and applied.
        policy: Policy,
        /// See [`certificate`] for its document.
        certified: Certified,
        /// How the family of the reported probability was chosen; none where the configuration names one.
        selection: Option<Selection>,
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
/// As [`certify`](crate::certify::certify) and [`calibrate::fit`].
pub fn fit_policy(
    plan: &Plan,
    calib: &CalibRows,
    calibrator: CalibratorChoice,
) -> Result<PolicyFit> {
    fit_policy_jointly(plan, &[calib], calibrator)
}

/// As [`fit_policy`], with one threshold for several sessions ([`certify_jointly`]); the reported probability is fitted on
/// the first.
///
/// # Errors
/// As [`certify_jointly`] and [`calibrate::fit`].
pub fn fit_policy_jointly(
    plan: &Plan,
    sessions: &[&CalibRows],
    calibrator: CalibratorChoice,
) -> Result<PolicyFit> {
    fit(
        plan,
        certify_jointly(plan, sessions)?,
        sessions[0],
        calibrator,
    )
}

/// As [`fit_policy_jointly`], with a policy and evidence for each session: all have the same threshold, and each its own
/// reported probability ([`certify_each`]).
///
/// # Errors
/// As [`certify_each`] and [`calibrate::fit`].
pub fn fit_each(
    plan: &Plan,
    sessions: &[&CalibRows],
    calibrator: CalibratorChoice,
) -> Result<Vec<PolicyFit>> {
    let each = certify_each(plan, sessions)?.into_iter().zip(sessions);
    each.map(|(certification, calib)| fit(plan, certification, calib, calibrator))
        .collect()
}

/// A further session's policy with the `threshold` of one that exists ([`certify_variant`]); the reported probability is
/// its own.
///
/// # Errors
/// As [`certify_variant`] and [`calibrate::fit`].
pub fn fit_variant(
    plan: &Plan,
    threshold: Threshold,
    calib: &CalibRows,
    calibrator: CalibratorChoice,
) -> Result<PolicyFit> {
    let certification = certify_variant(plan, threshold, calib)?;
    fit(plan, certification, calib, calibrator)
}

fn fit(
    plan: &Plan,
    certification: Certification,
    calib: &CalibRows,
    calibrator: CalibratorChoice,
) -> Result<PolicyFit> {
    let certified = match certification {
        Certification::NotCertified(not) => return Ok(PolicyFit::NotCertified(not)),
        Certification::Certified(certified) => certified,
    };
    // One row of each unit: each is its own unit here.
    let rows = &calib.0;
    let fit = calibrate::fit(rows.labelled(), None, rows.seed, calibrator)?;
    let mut policy = Policy::new(
        plan.classes,
        plan.score.clone(),
        certified.threshold,
        fit.calibrator,
        certified.plan_digest,
    );
    policy.calibrator_fallback = fit.fallback;
    policy.splits_digest = plan.splits_digest;
    Ok(PolicyFit::Certified {
        policy,
        certified,
        selection: fit.selection,
    })
}

/// What a certificate records beside the evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct Circumstances {
    /// The ledger of val_calib.
    pub calib_ledger: LedgerState,
    /// What was measured; none for logits that came without their origin.
    pub fingerprint: Option<Fingerprint>,
    /// δ of the other certificates that were made on this val_calib and hold with a confidence; those that were tested
    /// together count as one.
    pub beside: Vec<f64>,
    /// The variants that were tested together at this threshold, this one among them; none of one tested alone.
    pub jointly: Vec<String>,
    /// How often the variant differs from float32; none of float32 itself.
    pub flips: Option<FlipBounds>,
    /// The digest of the file of rows that selected and certified, where there are no splits.
    pub used_rows: Option<Digest>,
}

impl Circumstances {
    /// Of the only variant.
    pub fn new(calib_ledger: LedgerState, fingerprint: Option<Fingerprint>) -> Self {
        Self {
            calib_ledger,
            fingerprint,
            beside: Vec::new(),
            jointly: Vec::new(),
            flips: None,
            used_rows: None,
        }
    }

    /// Certificates with a confidence on this val_calib, with this one.
    pub(crate) fn variants(&self) -> u64 {
        1 + self.beside.len() as u64
    }
}

/// The document that says what was promised for `policy`, by which session, on what evidence.
pub fn certificate(
    plan: &Plan,
    policy: &Policy,
    certified: &Certified,
    circumstances: Circumstances,
) -> Certificate {
    Certificate {
        schema_version: Certificate::SCHEMA_VERSION,
        guarantee: Guarantee::Pac,
        alpha: plan.alpha(),
        delta: Some(plan.delta),
        attempt: plan.attempt,
        attempts: plan.attempts,
        level: Some(plan.level),
        procedure: Some(plan.procedure),
        variants: circumstances.variants(),
        jointly: circumstances.jointly.clone(),
        calib: certified.calib,
        risk: certified.risk,
        test: Some(certified.calib.rule.test()),
        claims: certified.claims.clone(),
        expected: None,
        answered: certified.step.answered,
        errors: certified.step.errors,
        p_value: Some(certified.step.p_value),
        upper_bound: Some(certified.upper_bound),
        coverage: certified.coverage,
        run: certified.run.clone(),
        plan_digest: certified.plan_digest,
        policy_digest: Digest::of_bytes(&json::to_bytes(policy)),
        splits_digest: plan.splits_digest,
        statement: statement(plan, &circumstances),
        assumptions: assumptions(plan, certified, &circumstances),
        used_rows: circumstances.used_rows,
        calib_ledger: circumstances.calib_ledger,
        fingerprint: circumstances.fingerprint,
        flips: circumstances.flips,
    }
}

/// The promise, in the words of the binding page.
fn statement(plan: &Plan, circumstances: &Circumstances) -> String {
    let promises: Vec<String> = plan.constraints.iter().map(Constraint::statement).collect();
    let together = if promises.len() > 1 {
        ", all of this together"
    } else {
        ""
    };
    let delta = percent(plan.delta);
    format!(
        "On average over images drawn like those of val_calib, {}{together}; over repeated calibrations at most {delta} of \
         such certificates are wrong.{}{}{} Nothing is said about single images, {}deferred images, or images drawn \
         otherwise.",
        promises.join(", "),
        attempts(plan),
        together_with(&circumstances.jointly),
        several(plan, &circumstances.beside),
        if plan.constraints.iter().any(is_of_class) {
            "other classes, "
        } else {
            "single classes, "
        },
    )
}

fn is_of_class(constraint: &Constraint) -> bool {
    !matches!(
        constraint,
        Constraint::SelectiveError { .. } | Constraint::Coverage { .. }
    )
}

fn attempts(plan: &Plan) -> String {
    let confidence = percent(1.0 - plan.delta);
    match (plan.attempts, plan.attempt) {
        (Attempts::Single, 1) => String::new(),
        (Attempts::Single, j) => format!(
            " This is attempt {j} on this val_calib; the confidence {confidence} holds for one attempt."
        ),
        (Attempts::Spending, j) => format!(
            " This is attempt {j}, tested at level {}; all attempts together hold with confidence {confidence}.",
            plan.level
        ),
    }
}

/// Of variants that share a threshold and its tests.
fn together_with(jointly: &[String]) -> String {
    if jointly.is_empty() {
        return String::new();
    }
    format!(
        " {} were tested together at this threshold: the certificate is wrong if it is so for any of them, and choosing among \
         them costs nothing.",
        jointly.join(" and ")
    )
}

fn several(plan: &Plan, beside: &[f64]) -> String {
    if beside.is_empty() {
        return String::new();
    }
    let spent = plan.delta + beside.iter().sum::<f64>();
    format!(
        " With {} certificates of variants or sessions on this val_calib, all of them hold together with confidence at least {}; \
         choosing one by its speed costs nothing, by its certified coverage it does.",
        beside.len() + 1,
        percent((1.0 - spent).max(0.0))
    )
}

fn assumptions(plan: &Plan, certified: &Certified, circumstances: &Circumstances) -> Vec<String> {
    let mut all = vec![
        "val_calib is a random sample of the images that stage 1 will answer".to_owned(),
        "no row of val_calib was used to train or choose the model, the score, the thresholds or their order".to_owned(),
        units(certified),
    ];
    all.extend(circumstantial(plan.splits_digest, circumstances));
    all
}

/// What any promise made under these circumstances rests on, beside its own assumptions.
pub(crate) fn circumstantial(
    splits_digest: Option<Digest>,
    circumstances: &Circumstances,
) -> Vec<String> {
    let mut all = Vec::new();
    if splits_digest.is_none() {
        all.push(
            "the user divided the rows into val_select and val_calib without looking at them"
                .to_owned(),
        );
    }
    if circumstances.fingerprint.is_none() {
        all.push("the logits come from the session that will answer: none was recorded".to_owned());
    }
    if let LedgerState::Unknown { reason } = &circumstances.calib_ledger {
        all.push(format!(
            "this is the attempt that it says it is: val_calib's ledger is unknown ({reason})"
        ));
    }
    all
}

fn units(certified: &Certified) -> String {
    let (rows, units) = (certified.calib.rows, certified.calib.units);
    let risk = certified.risk.statement();
    match certified.calib.rule {
        UnitRule::OnePerUnit => format!(
            "val_calib's {rows} rows are {units} independent units; one row of each, kept by seeded hash, was counted: {risk}"
        ),
        UnitRule::Betting => format!(
            "val_calib's {rows} rows are {units} independent units, tested by betting on all rows of each: {risk}; counts of \
             rows are not a guarantee, they ignore groups"
        ),
        _ => format!("val_calib's {rows} rows are independent of one another"),
    }
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
            let PolicyFit::Certified {
                policy, certified, ..
            } = fit
            else {
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
            let document = certificate(
                &plan,
                &policy,
                &certified,
                Circumstances::new(unknown, None),
            );
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
                (other.threshold, &other.score),
                (policy.threshold, &policy.score)
            );
            assert_ne!(other.calibrator, policy.calibrator);
        }
    }

    #[test]
    fn later_attempts_are_owned_up_to() {
        let (mut plan, _, _) = calibrated(&multi_set(100, 1), &multi_set(100, 2));
        let unknown = LedgerState::Unknown {
            reason: "a test".to_owned(),
        };
        let alone = Circumstances::new(unknown, None);
        assert!(!statement(&plan, &alone).contains("attempt"));
        plan.attempt = 3;
        assert!(
            statement(&plan, &alone)
                .contains("attempt 3 on this val_calib; the confidence 90 % holds for one attempt")
        );
    }
}
