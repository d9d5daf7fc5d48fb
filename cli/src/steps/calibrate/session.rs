//! A further session of a model that has its policy: another device, version of its provider, or kind of CPU. The policy
//! stays, and the session gets a certificate of its own if the policy's threshold is among its rejections, too.

use super::{
    Origin, Outcome, Record, begin, check_ledger, conclude, deltas_beside, plan_path, record_path,
    withheld_by,
};
use crate::steps::{Run, ledger_of, scoring, split::Splits};
use anyhow::{Context, bail};
use stage1_calibration::{
    fit::Circumstances,
    flips::Pairs,
    promise::{self, Fit, certificate},
    rows::CalibRows,
};
use stage1_core::{
    artifact::json,
    bundle::{self, Bundle, FP32},
    certificate::{AnyPlan, Certificate, Fingerprint},
    config::CalibratorChoice,
    ledger::Kind,
    policy::Policy,
    split::Split,
};
use stage1_runtime::{Scorer, fingerprint_differences};

/// Whether only the session is another than the one that was certified: the model and what it is given are the same.
pub(super) fn is_further(certified: &Fingerprint, here: &Fingerprint) -> bool {
    const OF_SESSIONS: [&str; 3] = ["provider", "provider_version", "cpu_isa"];
    let differences = fingerprint_differences(certified, here);
    !differences.is_empty()
        && differences
            .iter()
            .all(|difference| OF_SESSIONS.contains(&difference.field))
}

/// The session's certificate: the one that is there, or what comes of a new attempt.
pub(super) fn ensure(
    run: &Run,
    splits: &Splits,
    bundle: &Bundle,
    scorer: &Scorer,
    record: &Record,
) -> anyhow::Result<Outcome> {
    let variant = scorer.variant();
    let here = &record.fingerprint;
    let policy = bundle
        .policy(variant)?
        .with_context(|| format!("{variant} has no policy"))?;
    let plan = plan_of(run, variant, &policy, record)?;
    let known = bundle.certificates(variant)?;
    let is_this = |certificate: &&Certificate| certificate.fingerprint.as_ref() == Some(here);
    if let Some(known) = known.iter().find(is_this) {
        run.reused("calibrate");
        return Ok(Outcome::Session(Box::new(known.clone())));
    }
    let calib = scoring::logits(run, splits, scorer, Split::ValCalib)?;
    let mut flips = None;
    if variant != FP32 {
        let session = scoring::open_session(run, FP32)?;
        let reference = scoring::logits(run, splits, &session, Split::ValCalib)?;
        let pairs = Pairs::new(&reference, &calib, run.config.split.seed)?;
        if let Some(withheld) = withheld_by(&run.config, variant, &pairs)? {
            return Ok(withheld);
        }
        flips = Some(super::flip_bounds(
            &run.config,
            &pairs,
            &policy.score,
            (policy.threshold, plan.thresholds()),
        )?);
    }
    let mut ledger = ledger_of(&run.config, splits.digest, Kind::Calib)?;
    check_ledger(&mut ledger, bundle)?;
    let name = format!(
        "{variant} on {} ({}, {})",
        here.provider, here.provider_version, here.cpu_isa
    );
    let origin = Origin::Plan(plan);
    let plan = begin(
        run,
        splits,
        (&[], name),
        &mut ledger,
        &origin,
        &calib,
        record,
    )?;
    let rows = CalibRows::new(&calib, run.config.split.seed)?;
    // The reported probability is the policy's, fitted where it was made.
    let fit = promise::fit(
        &plan,
        Some(policy.threshold),
        &[&rows],
        CalibratorChoice::None,
    )?;
    let (outcome, digest) = match fit {
        Fit::Certified { proof, .. } => {
            let mut circumstances =
                Circumstances::new(ledger.state_at(plan.attempt()), Some(here.clone()));
            circumstances.beside = deltas_beside(bundle, variant, &[], Some(here))?;
            circumstances.flips = flips;
            let certificate = certificate(&plan, &policy, &proof, circumstances)?;
            bundle::attach_certificate(bundle.dir(), variant, &certificate)?;
            let digest = certificate.policy_digest;
            (Outcome::Session(Box::new(certificate)), Some(digest))
        }
        Fit::NotCertified(refusal) => (Outcome::NotThisSession(Box::new(refusal)), None),
    };
    conclude(&mut ledger, &plan, digest)?;
    Ok(outcome)
}

/// The plan that the policy came of, under the settings of now.
fn plan_of(run: &Run, variant: &str, policy: &Policy, wanted: &Record) -> anyhow::Result<AnyPlan> {
    let (made, _) = json::load::<Record>(&record_path(&run.config, variant))
        .context("how the policy was calibrated isn't on record; `stage1 calibrate --overwrite` makes it again, from this session")?;
    let (plan, _) = json::load::<AnyPlan>(&plan_path(&run.config, variant)).context(
        "the policy's plan is gone; `stage1 calibrate --overwrite` makes it again, from this session",
    )?;
    if (&made.settings, made.splits_digest, made.seed)
        != (&wanted.settings, wanted.splits_digest, wanted.seed)
        || plan.digest() != policy.plan_digest
    {
        bail!(
            "{variant} was certified under other settings: a further session is certified at the same threshold under the same \
             settings; take those, or replace policy and certificates with --overwrite"
        );
    }
    Ok(plan)
}
