//! What a configuration asks for, whichever kind of promise that is.
//!
//! `calibrate.guarantee: pac` (the default) promises with confidence 1 − δ: [`plan`](crate::plan), [`certify`](crate::certify) and
//! [`verdict`](crate::verdict). `calibrate.guarantee: expectation` promises on average over calibrations:
//! [`crc`](crate::crc). The order of things is the same: plan on val_select, record the plan, then open val_calib.
//!
//! What an expectation doesn't say: that *this* calibration's rate is at most α (in about every second one it isn't), or
//! anything with a confidence. Take it where many calibrations are made, or where a mean is what is paid for.
//!
//! ```
//! use stage1_calibration::promise::{Fit, fit, plan};
//! use stage1_calibration::rows::{CalibRows, SelectRows, shape};
//! use stage1_core::certificate::Guarantee;
//! use stage1_core::config::CalibrateConfig;
//! use stage1_core::logits::LogitSet;
//! use stage1_core::policy::PolicyKind;
//!
//! // 500 rows of three classes; every eighth of the unsure ones is wrong.
//! let rows = |first: usize| LogitSet {
//!     classes: 3,
//!     logits: (first..first + 500).flat_map(|i| [(i % 100) as f32 / 10.0, 0.0, 0.0]).collect(),
//!     labels: (first..first + 500).map(|i| i64::from(i % 100 < 40 && i % 8 == 0)).collect(),
//!     ids: (first..first + 500).map(|i| format!("{i}.png")).collect(),
//!     ..LogitSet::default()
//! };
//! let settings = CalibrateConfig {
//!     guarantee: Guarantee::Expectation,
//!     ..CalibrateConfig::default()
//! };
//! let select = SelectRows::new(&rows(0), 7)?;
//! let calib = CalibRows::new(&rows(500), 7)?;
//! let plan = plan(&select, shape(&rows(500)), &settings, 1, None)?;
//! let Fit::Certified { policy, .. } = fit(&plan, None, &[&calib], settings.calibrator)? else {
//!     panic!("enough rows")
//! };
//! assert_eq!(policy.kind, PolicyKind::Scrc);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::calibrate::{self, Selection};
use crate::certify::Certified;
use crate::crc::answers::{
    AnswersFit, AnswersTarget, Controlled, control_answers, plan_answers, statement, units,
};
use crate::crc::{Estimate, estimate};
use crate::error::{Error, Result};
use crate::fit::{
    Circumstances, PolicyFit, certificate as pac_certificate, circumstantial, fit_policy_jointly,
    fit_variant,
};
use crate::plan::{Target, plan as pac_plan};
use crate::rows::{CalibRows, SelectRows, Shape, TestRows};
use crate::verdict::{GAMMA, Opening, Validation, Verdict, validate};
use serde::{Deserialize, Serialize};
use stage1_core::artifact::{Digest, Document, json};
use stage1_core::certificate::{
    AnyPlan, AnyRefusal, Attempts, Certificate, ExpectationPlan, Guarantee,
};
use stage1_core::config::{CalibrateConfig, CalibratorChoice};
use stage1_core::ledger::{Attempt, LedgerState, Ruling};
use stage1_core::policy::{Policy, Threshold};

/// Why a threshold may be used.
#[derive(Debug, Clone, PartialEq)]
pub enum Proof {
    /// With confidence 1 − δ.
    Pac(Certified),
    /// On average.
    Expectation(Controlled),
}

/// What comes of a calibration.
#[derive(Debug, Clone, PartialEq)]
pub enum Fit {
    /// A policy, and the evidence for it.
    Certified {
        /// Ready to be saved and applied.
        policy: Policy,
        /// See [`certificate`] for its document.
        proof: Proof,
        /// How the family of the reported probability was chosen; none where the configuration names one.
        selection: Option<Selection>,
    },
    /// No policy: ready to be saved as `not-certified.json`.
    NotCertified(AnyRefusal),
}

/// Plans what `settings` ask for in attempt number `attempt`, on val_select, for a val_calib of this shape.
///
/// # Errors
/// As [`plan`](crate::plan::plan) and [`plan_answers`]; [`Error::Contradiction`] for settings of the other kind of promise.
pub fn plan(
    select: &SelectRows,
    calib: Shape,
    settings: &CalibrateConfig,
    attempt: u64,
    splits_digest: Option<Digest>,
) -> Result<AnyPlan> {
    if let Some((key, expected, got)) = settings.contradiction() {
        return Err(Error::Contradiction { key, expected, got });
    }
    Ok(match settings.guarantee {
        Guarantee::Expectation => {
            let target = AnswersTarget {
                alpha: settings.alpha,
                attempt,
                score: settings.score,
            };
            AnyPlan::Expectation(plan_answers(select, calib, &target, splits_digest)?)
        }
        _ => {
            let target = Target::from_config(settings, attempt);
            AnyPlan::Pac(pac_plan(select, calib, &target, splits_digest)?)
        }
    })
}

/// The same plan in another attempt, at the level that it has then.
pub fn again(plan: &AnyPlan, attempt: u64) -> AnyPlan {
    match plan.clone() {
        AnyPlan::Pac(mut plan) => {
            plan.attempt = attempt;
            plan.level = plan.attempts.level(plan.delta, attempt);
            AnyPlan::Pac(plan)
        }
        AnyPlan::Expectation(plan) => AnyPlan::Expectation(ExpectationPlan { attempt, ..plan }),
    }
}

/// What val_calib's ledger records of a plan before a label is looked at.
pub fn attempt(plan: &AnyPlan, model_digest: Digest, variant: String, calib: Shape) -> Attempt {
    let (alpha, constraints, delta, level) = match plan {
        AnyPlan::Pac(plan) => (
            plan.alpha(),
            plan.constraints.clone(),
            Some(plan.delta),
            Some(plan.level),
        ),
        AnyPlan::Expectation(plan) => (plan.alpha, Vec::new(), None, None),
    };
    Attempt {
        number: plan.attempt(),
        model_digest,
        plan_digest: plan.digest(),
        variant,
        alpha,
        constraints,
        delta,
        level,
        rows: calib.rows,
        units: calib.units,
    }
}

/// Finds the threshold on val_calib as planned, and fits the reported probability there. `threshold` is that of a policy
/// that exists, for a further variant; several `sessions` get one threshold together, which is for `pac` only.
///
/// # Errors
/// As [`fit_policy_jointly`], [`fit_variant`], [`control_answers`] and [`calibrate::fit`]; [`Error::Jointly`] for several
/// sessions and a promise in expectation, or none.
pub fn fit(
    plan: &AnyPlan,
    threshold: Option<Threshold>,
    sessions: &[&CalibRows],
    calibrator: CalibratorChoice,
) -> Result<Fit> {
    match (plan, threshold, sessions) {
        (AnyPlan::Pac(plan), Some(threshold), [calib]) => {
            fit_variant(plan, threshold, calib, calibrator).map(of_pac)
        }
        (AnyPlan::Pac(plan), None, _) => fit_policy_jointly(plan, sessions, calibrator).map(of_pac),
        (AnyPlan::Expectation(plan), _, [calib]) => fit_answers(plan, threshold, calib, calibrator),
        _ => Err(Error::Jointly),
    }
}

/// As [`fit`] of several sessions, with a policy and evidence for each: one threshold, certified for all of them together.
///
/// # Errors
/// As [`fit_each`](crate::fit::fit_each); [`Error::Jointly`] for a promise in expectation.
pub fn fit_each(
    plan: &AnyPlan,
    sessions: &[&CalibRows],
    calibrator: CalibratorChoice,
) -> Result<Vec<Fit>> {
    let AnyPlan::Pac(plan) = plan else {
        return Err(Error::Jointly);
    };
    let fits = crate::fit::fit_each(plan, sessions, calibrator)?;
    Ok(fits.into_iter().map(of_pac).collect())
}

fn of_pac(fit: PolicyFit) -> Fit {
    match fit {
        PolicyFit::Certified {
            policy,
            certified,
            selection,
        } => Fit::Certified {
            policy,
            proof: Proof::Pac(certified),
            selection,
        },
        PolicyFit::NotCertified(not) => Fit::NotCertified(AnyRefusal::Pac(not)),
    }
}

fn fit_answers(
    plan: &ExpectationPlan,
    threshold: Option<Threshold>,
    calib: &CalibRows,
    calibrator: CalibratorChoice,
) -> Result<Fit> {
    let controlled = match control_answers(plan, calib, threshold)? {
        AnswersFit::Controlled(controlled) => controlled,
        AnswersFit::NotControlled(not) => {
            return Ok(Fit::NotCertified(AnyRefusal::Expectation(not)));
        }
    };
    // One row of each unit: each is its own unit here.
    let rows = &calib.0;
    let fit = calibrate::fit(rows.labelled(), None, rows.seed, calibrator)?;
    let mut policy = Policy::new(
        plan.classes,
        plan.score.clone(),
        controlled.threshold,
        fit.calibrator,
        controlled.plan_digest,
    )
    .selecting(plan.selected_from());
    policy.calibrator_fallback = fit.fallback;
    policy.splits_digest = plan.splits_digest;
    Ok(Fit::Certified {
        policy,
        proof: Proof::Expectation(controlled),
        selection: fit.selection,
    })
}

/// The document that says what was promised for `policy`, by which session, on what evidence.
///
/// # Errors
/// [`Error::NotExpectation`] when plan and proof are of different kinds.
pub fn certificate(
    plan: &AnyPlan,
    policy: &Policy,
    proof: &Proof,
    circumstances: Circumstances,
) -> Result<Certificate> {
    match (plan, proof) {
        (AnyPlan::Pac(plan), Proof::Pac(certified)) => {
            Ok(pac_certificate(plan, policy, certified, circumstances))
        }
        (AnyPlan::Expectation(plan), Proof::Expectation(controlled)) => {
            Ok(of_answers(plan, policy, controlled, circumstances))
        }
        _ => Err(Error::NotExpectation),
    }
}

fn of_answers(
    plan: &ExpectationPlan,
    policy: &Policy,
    controlled: &Controlled,
    circumstances: Circumstances,
) -> Certificate {
    let mut assumptions = vec![
        "val_calib is a random sample of the images that stage 1 will answer".to_owned(),
        "no row of val_calib was used to train or choose the model, the score, the selection or the thresholds".to_owned(),
        units(controlled),
    ];
    assumptions.extend(circumstantial(plan.splits_digest, &circumstances));
    Certificate {
        schema_version: Certificate::SCHEMA_VERSION,
        guarantee: Guarantee::Expectation,
        alpha: plan.alpha,
        delta: None,
        attempt: plan.attempt,
        attempts: Attempts::Single,
        level: None,
        procedure: None,
        variants: circumstances.variants(),
        jointly: Vec::new(),
        calib: controlled.calib,
        risk: controlled.risk,
        test: None,
        claims: Vec::new(),
        expected: Some(controlled.expected),
        answered: controlled.answered,
        errors: controlled.expected.errors,
        p_value: None,
        upper_bound: None,
        coverage: controlled.coverage,
        run: Vec::new(),
        plan_digest: controlled.plan_digest,
        policy_digest: Digest::of_bytes(&json::to_bytes(policy)),
        splits_digest: plan.splits_digest,
        statement: statement(plan, circumstances.variants()),
        assumptions,
        used_rows: circumstances.used_rows,
        calib_ledger: circumstances.calib_ledger,
        fingerprint: circumstances.fingerprint,
        flips: circumstances.flips,
    }
}

/// `validation.json`: a verdict, or of a promise in expectation an estimate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Judgement {
    /// HELD, REFUTED or INCONCLUSIVE.
    Verdict(Validation),
    /// No verdict.
    Estimate(Estimate),
}

impl Judgement {
    /// The bundle, or what stands for it.
    pub fn subject_digest(&self) -> Digest {
        match self {
            Self::Verdict(validation) => validation.subject_digest,
            Self::Estimate(estimate) => estimate.subject_digest,
        }
    }

    /// The level of each side; an estimate has none and counts as one at the usual level.
    pub fn gamma(&self) -> f64 {
        match self {
            Self::Verdict(validation) => validation.gamma,
            Self::Estimate(_) => GAMMA,
        }
    }

    /// The ledger of val_test when this was written.
    pub fn test_ledger(&self) -> Option<&LedgerState> {
        match self {
            Self::Verdict(validation) => validation.test_ledger.as_ref(),
            Self::Estimate(estimate) => estimate.test_ledger.as_ref(),
        }
    }

    /// The verdict; none of an estimate.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Verdict(validation) => Some(validation.verdict),
            Self::Estimate(_) => None,
        }
    }

    /// As the ledger keeps it.
    pub fn entry(&self) -> stage1_core::ledger::Verdict {
        let (opening, answered, errors, test) = match self {
            Self::Verdict(v) => (v.opening, v.answered, v.errors, v.test),
            Self::Estimate(e) => (e.opening, e.answered, e.errors, e.test),
        };
        stage1_core::ledger::Verdict {
            opening,
            verdict: match self.verdict() {
                Some(Verdict::Held) => Ruling::Held,
                Some(Verdict::Refuted) => Ruling::Refuted,
                Some(Verdict::Inconclusive) => Ruling::Inconclusive,
                None => Ruling::Estimated,
            },
            answered,
            errors,
            units: test.units,
            rows: test.rows,
        }
    }
}

impl Document for Judgement {
    const KIND: &'static str = Validation::KIND;
    const SCHEMA_VERSION: u32 = Validation::SCHEMA_VERSION;

    fn validate(&self) -> std::result::Result<(), String> {
        match self {
            Self::Verdict(validation) => validation.validate(),
            Self::Estimate(estimate) => estimate.validate(),
        }
    }
}

/// Answers val_test by `policy`: a verdict on what was certified with confidence 1 − δ, at level `gamma`; an estimate of what
/// was promised on average.
///
/// # Errors
/// As [`validate`] and [`estimate`].
pub fn judge(
    policy: &Policy,
    certificate: &Certificate,
    test: &TestRows,
    gamma: f64,
    opening: Opening,
) -> Result<Judgement> {
    Ok(match certificate.guarantee {
        Guarantee::Expectation => {
            Judgement::Estimate(estimate(policy, certificate, test, opening)?)
        }
        _ => Judgement::Verdict(validate(policy, certificate, test, gamma, opening)?),
    })
}
