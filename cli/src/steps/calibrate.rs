//! Certifies a threshold through the deployed session: plan on val_select, ledger, then val_calib.

use super::{Run, scoring, split::Splits};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use stage1_calibration::{
    calibrate::check_choice,
    fit::{Circumstances, PolicyFit, certificate, fit_policy},
    plan::{Target, plan},
    rows::{CalibRows, SelectRows, shape},
};
use stage1_core::{
    artifact::{Digest, Document, json},
    bundle::{self, Bundle, FP32},
    certificate::{Attempts, Fingerprint, NotCertified, Plan},
    config::{CalibrateConfig, Config},
    ledger::{self, Attempt, Entry, Kind, Ledger},
    logits::LogitSet,
    split::Split,
};
use std::path::PathBuf;

/// The bundle with its policy, or why there is none.
pub(crate) enum Outcome {
    Certified(Box<Bundle>),
    NotCertified(Box<NotCertified>),
}

/// What the last calibration in this run directory was made from.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    schema_version: u32,
    fingerprint: Fingerprint,
    threads: usize,
    splits_digest: Digest,
    seed: u64,
    settings: CalibrateConfig,
    certified: bool,
}

impl Document for Record {
    const KIND: &'static str = "calibration.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Fails when the calibrator doesn't go with the number of classes: before training, and before an attempt is spent.
pub(crate) fn check_calibrator(config: &Config, splits: &Splits) -> anyhow::Result<()> {
    check_choice(config.calibrate.calibrator, splits.manifest.labels.len())
        .context("calibrate.calibrator")
}

/// Where the plan is written before val_calib's labels are read.
fn plan_path(config: &Config) -> PathBuf {
    config.run_dir.join("plan.json")
}

/// Where it is said why there is no policy.
pub(crate) fn refusal_path(config: &Config) -> PathBuf {
    config.run_dir.join("not-certified.json")
}

/// The run's policy: the one that is there, or a new attempt.
pub(crate) fn ensure(run: &Run, splits: &Splits, bundle: Bundle) -> anyhow::Result<Outcome> {
    let mut scorer = scoring::open_session(run)?;
    let mut record = Record {
        schema_version: Record::SCHEMA_VERSION,
        fingerprint: scorer.fingerprint(),
        threads: run.config.thread_count(),
        splits_digest: splits.digest,
        seed: run.config.split.seed,
        settings: run.config.calibrate.clone(),
        certified: false,
    };
    if let Some(outcome) = known(run, &bundle, &mut record)? {
        run.reused("calibrate");
        return Ok(outcome);
    }
    let select = scoring::logits(run, splits, &mut scorer, Split::ValSelect)?;
    let calib = scoring::logits(run, splits, &mut scorer, Split::ValCalib)?;
    let outcome = attempt(run, splits, &select, &calib, &record)?;
    record.certified = matches!(outcome, Outcome::Certified(_));
    json::save(&record, &record_path(&run.config))?;
    Ok(outcome)
}

fn record_path(config: &Config) -> PathBuf {
    config.run_dir.join("calibration.json")
}

/// The result of an earlier calibration of the same session under the same settings.
fn known(run: &Run, bundle: &Bundle, want: &mut Record) -> anyhow::Result<Option<Outcome>> {
    let Ok((record, _)) = json::load::<Record>(&record_path(&run.config)) else {
        return Ok(None);
    };
    want.certified = record.certified;
    let has_policy = bundle.certificate(FP32)?.is_some();
    let refusal = json::load(&refusal_path(&run.config))
        .ok()
        .map(|(refusal, _)| refusal);
    match (record == *want, record.certified, refusal) {
        (true, true, _) if has_policy => Ok(Some(Outcome::Certified(Box::new(bundle.clone())))),
        (true, false, Some(refusal)) if !has_policy => {
            Ok(Some(Outcome::NotCertified(Box::new(refusal))))
        }
        // The bundle is newer than the record: it was exported again, and nothing is lost by calibrating it.
        _ if !has_policy || run.overwrite => Ok(None),
        _ => bail!(
            "{} holds a policy that was certified under other settings; keep it by setting another run_dir, or replace it \
             with --overwrite (a further attempt on the same val_calib, which the certificate will say)",
            bundle.dir().display()
        ),
    }
}

fn attempt(
    run: &Run,
    splits: &Splits,
    select: &LogitSet,
    calib: &LogitSet,
    record: &Record,
) -> anyhow::Result<Outcome> {
    let dir = run.config.bundle_dir();
    let mut ledger =
        Ledger::open_among_runs(&run.config.splits_path(), splits.digest, Kind::Calib)?;
    if let Some(earlier) = Bundle::open(&dir)?.certificate(FP32)? {
        ledger.check(&earlier.calib_ledger);
    }
    let plan = begin(run, splits, &mut ledger, select, calib, record)?;
    let rows = CalibRows::new(calib, run.config.split.seed)?;
    match fit_policy(&plan, &rows, run.config.calibrate.calibrator)? {
        PolicyFit::Certified { policy, certified } => {
            let circumstances =
                Circumstances::new(ledger.state(), Some(record.fingerprint.clone()));
            let certificate = certificate(&plan, &policy, &certified, circumstances);
            let bundle = bundle::attach_policy(&dir, FP32, &policy, &certificate)?;
            conclude(&mut ledger, &plan, Some(certificate.policy_digest))?;
            Ok(Outcome::Certified(Box::new(bundle)))
        }
        PolicyFit::NotCertified(refusal) => {
            bundle::detach_policy(&dir, FP32)?;
            json::save(&refusal, &refusal_path(&run.config))?;
            conclude(&mut ledger, &plan, None)?;
            Ok(Outcome::NotCertified(Box::new(refusal)))
        }
    }
}

/// Plans on val_select, and puts the plan and the attempt on record before a label of val_calib is looked at. An attempt
/// that is on record already, and was interrupted, is the same attempt.
fn begin(
    run: &Run,
    splits: &Splits,
    ledger: &mut Ledger,
    select: &LogitSet,
    calib: &LogitSet,
    record: &Record,
) -> anyhow::Result<Plan> {
    let settings = &run.config.calibrate;
    check_spending(ledger, settings)?;
    let rows = SelectRows::new(select, run.config.split.seed)?;
    let shape = shape(calib);
    let plan_as = |number| -> anyhow::Result<Plan> {
        let target = Target::from_config(settings, number);
        Ok(plan(&rows, shape, &target, Some(splits.digest))?)
    };
    let begun = ledger.begin_attempt(|number| -> anyhow::Result<Attempt> {
        let plan = plan_as(number)?;
        json::save(&plan, &plan_path(&run.config))?;
        Ok(Attempt {
            number,
            model_digest: record.fingerprint.model_digest,
            plan_digest: plan.digest(),
            variant: FP32.to_owned(),
            alpha: plan.alpha(),
            constraints: plan.constraints.clone(),
            delta: plan.delta,
            level: plan.level,
            rows: shape.rows,
            units: shape.units,
        })
    })?;
    let plan = plan_as(begun.number)?;
    json::save(&plan, &plan_path(&run.config))?;
    Ok(plan)
}

/// Attempts that are paid for must have been so from the first: what an earlier one spent can't be had back.
pub(crate) fn check_spending(ledger: &Ledger, settings: &CalibrateConfig) -> anyhow::Result<()> {
    let share = |attempt: &Attempt| settings.attempts.level(settings.delta, attempt.number);
    let overspent = |attempt: &&Attempt| attempt.level > share(attempt) * (1.0 + 1e-9);
    match ledger.attempts().find(overspent) {
        Some(attempt) if settings.attempts == Attempts::Spending => bail!(
            "calibrate.attempts: `spending` must be set before the first attempt, with the same delta: attempt {} on this \
             val_calib was tested at level {}, its share of delta {} is {:.4}; set `single`, and the certificate says that \
             its confidence holds for one attempt",
            attempt.number,
            attempt.level,
            settings.delta,
            share(attempt)
        ),
        _ => check_promised(ledger, settings),
    }
}

/// Certificates of attempts that were paid for say that all attempts hold together: a later one must be paid for, too.
fn check_promised(ledger: &Ledger, settings: &CalibrateConfig) -> anyhow::Result<()> {
    let is_paid = |attempt: &&Attempt| attempt.level < attempt.delta * (1.0 - 1e-9);
    match ledger.attempts().find(is_paid) {
        Some(attempt) if settings.attempts == Attempts::Single => bail!(
            "calibrate.attempts: attempt {} on this val_calib was `spending` (level {} of delta {}), and its certificate says \
             that all attempts hold together; keep `spending`",
            attempt.number,
            attempt.level,
            attempt.delta
        ),
        _ => Ok(()),
    }
}

fn conclude(ledger: &mut Ledger, plan: &Plan, policy_digest: Option<Digest>) -> anyhow::Result<()> {
    if ledger.outcome(plan.attempt).is_none() {
        ledger.append(Entry::Outcome(ledger::Outcome {
            attempt: plan.attempt,
            policy_digest,
        }))?;
    }
    Ok(())
}
