//! Certifies a threshold through the deployed session: plan on val_select, ledger, then val_calib.

use super::{
    Run, scoring,
    selection::{self, CalibratorRecord},
    split::Splits,
};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use stage1_calibration::{
    calibrate::check_choice,
    fit::Circumstances,
    flips::Pairs,
    plan::check_score,
    promise::{self, Fit, certificate, plan},
    rows::{CalibRows, SelectRows, shape},
};
use stage1_core::{
    artifact::{Digest, Document, json},
    bundle::{self, Bundle, FP32},
    certificate::{AnyPlan, AnyRefusal, Attempts, Fingerprint, FlipBounds, Guarantee},
    config::{CalibrateConfig, Config, ScoreChoice},
    ledger::{self, Attempt, Entry, Kind, Ledger},
    logits::LogitSet,
    policy::Threshold,
    split::Split,
};
use std::path::PathBuf;

/// The bundle with its policy, or why there is none.
pub(crate) enum Outcome {
    Certified(Box<Bundle>),
    NotCertified(Box<AnyRefusal>),
    /// The variant may differ too often from fp32; val_calib's labels weren't looked at.
    Withheld(FlipBounds),
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

/// Fails when the calibrator or the score doesn't go with the number of classes: before training, and before an attempt is spent.
pub(crate) fn check_calibrator(config: &Config, splits: &Splits) -> anyhow::Result<()> {
    let classes = splits.manifest.labels.len();
    check_choice(config.calibrate.calibrator, classes).context("calibrate.calibrator")?;
    check_score(config.calibrate.score, classes).context("calibrate.score")
}

/// As configured; a model that has a gate was shown to decide better by it than by its logits, and does.
fn settings(config: &Config, bundle: &Bundle) -> CalibrateConfig {
    let mut settings = config.calibrate.clone();
    if bundle.manifest().gate.is_some() {
        settings.score = ScoreChoice::Gate;
    }
    settings
}

/// Where the plan is written before val_calib's labels are read.
fn plan_path(config: &Config, variant: &str) -> PathBuf {
    config.variant_file("plan", variant)
}

/// Where it is said why there is no policy.
pub(crate) fn refusal_path(config: &Config, variant: &str) -> PathBuf {
    config.variant_file("not-certified", variant)
}

/// A variant's policy: the one that is there, or a new attempt. Variants other than fp32 are certified at fp32's
/// threshold, by the plan that found it.
pub(crate) fn ensure(
    run: &Run,
    splits: &Splits,
    bundle: Bundle,
    variant: &str,
) -> anyhow::Result<Outcome> {
    let scorer = scoring::open_session(run, variant)?;
    let mut record = Record {
        schema_version: Record::SCHEMA_VERSION,
        fingerprint: scorer.fingerprint(),
        threads: run.config.thread_count(),
        splits_digest: splits.digest,
        seed: run.config.split.seed,
        settings: settings(&run.config, &bundle),
        certified: false,
    };
    if let Some(outcome) = known(run, &bundle, variant, &mut record)? {
        run.reused("calibrate");
        return Ok(outcome);
    }
    let calib = scoring::logits(run, splits, &scorer, Split::ValCalib)?;
    let origin = match variant {
        FP32 => Origin::Select(scoring::logits(run, splits, &scorer, Split::ValSelect)?),
        _ => Origin::Float32(float32(run, splits, &bundle, variant, &calib)?),
    };
    if let Origin::Float32(Float32 { flips, .. }) = &origin
        && let Some(limit) = run.config.calibrate.max_flip_bound
        && flips.labels_bound > limit
    {
        bundle::detach_policy(bundle.dir(), variant)?;
        return Ok(Outcome::Withheld(*flips));
    }
    let outcome = attempt(run, splits, variant, &origin, &calib, &record)?;
    record.certified = matches!(outcome, Outcome::Certified(_));
    json::save(&record, &record_path(&run.config, variant))?;
    Ok(outcome)
}

/// Where a variant's plan comes from.
enum Origin {
    /// Of fp32: its own logits of val_select.
    Select(LogitSet),
    /// Of others: fp32's.
    Float32(Float32),
}

/// What a further variant takes over from fp32.
struct Float32 {
    plan: AnyPlan,
    threshold: Threshold,
    flips: FlipBounds,
}

fn float32(
    run: &Run,
    splits: &Splits,
    bundle: &Bundle,
    variant: &str,
    calib: &LogitSet,
) -> anyhow::Result<Float32> {
    let Some(policy) = bundle.policy(FP32)? else {
        bail!(
            "{variant} is certified at the threshold of fp32, which has no policy; `stage1 calibrate` comes first"
        );
    };
    let settings = &run.config.calibrate;
    let record = json::load::<Record>(&record_path(&run.config, FP32));
    let same = record.is_ok_and(|(record, _)| record.settings == *settings);
    let (plan, _) = json::load::<AnyPlan>(&plan_path(&run.config, FP32))
        .context("the plan of fp32 is gone; `stage1 calibrate --overwrite` makes it again")?;
    if !same || plan.digest() != policy.plan_digest {
        bail!(
            "fp32 was certified under other settings: calibrate it under these first (`stage1 calibrate --overwrite`), \
             or {variant} under its settings"
        );
    }
    let session = scoring::open_session(run, FP32)?;
    let reference = scoring::logits(run, splits, &session, Split::ValCalib)?;
    let pairs = Pairs::new(&reference, calib, run.config.split.seed)?;
    let delta = settings.flip_delta;
    let labels = pairs.of_labels(delta)?;
    let decisions =
        pairs.of_decisions(&policy.score, policy.threshold, delta, plan.thresholds())?;
    Ok(Float32 {
        plan,
        threshold: policy.threshold,
        flips: FlipBounds {
            delta,
            rows: labels.rows,
            labels: labels.flips,
            labels_bound: labels.upper_bound,
            decisions: decisions.flips,
            decisions_bound: decisions.upper_bound,
        },
    })
}

fn record_path(config: &Config, variant: &str) -> PathBuf {
    config.variant_file("calibration", variant)
}

/// The result of an earlier calibration of the same session under the same settings.
fn known(
    run: &Run,
    bundle: &Bundle,
    variant: &str,
    want: &mut Record,
) -> anyhow::Result<Option<Outcome>> {
    let Ok((record, _)) = json::load::<Record>(&record_path(&run.config, variant)) else {
        return Ok(None);
    };
    want.certified = record.certified;
    let has_policy = bundle.certificate(variant)?.is_some();
    let refusal = json::load(&refusal_path(&run.config, variant))
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
    variant: &str,
    origin: &Origin,
    calib: &LogitSet,
    record: &Record,
) -> anyhow::Result<Outcome> {
    let dir = run.config.bundle_dir();
    let mut ledger =
        Ledger::open_among_runs(&run.config.splits_path(), splits.digest, Kind::Calib)?;
    if let Some(earlier) = Bundle::open(&dir)?.certificate(variant)? {
        ledger.check(&earlier.calib_ledger);
    }
    let plan = begin(run, splits, variant, &mut ledger, origin, calib, record)?;
    let rows = CalibRows::new(calib, run.config.split.seed)?;
    let calibrator = record.settings.calibrator;
    let threshold = match origin {
        Origin::Select(_) => None,
        Origin::Float32(of) => Some(of.threshold),
    };
    match promise::fit(&plan, threshold, &[&rows], calibrator)? {
        Fit::Certified {
            policy,
            proof,
            selection,
        } => {
            let mut circumstances =
                Circumstances::new(ledger.state(), Some(record.fingerprint.clone()));
            circumstances.variants = certified_with(&Bundle::open(&dir)?, variant);
            if let Origin::Float32(of) = origin {
                circumstances.flips = Some(of.flips);
            }
            let certificate = certificate(&plan, &policy, &proof, circumstances)?;
            // Before the policy: one that is there has its record beside it.
            let choice = CalibratorRecord {
                schema_version: CalibratorRecord::SCHEMA_VERSION,
                policy_digest: certificate.policy_digest,
                asked: calibrator,
                selection,
            };
            json::save(&choice, &selection::path(&run.config, variant))?;
            let bundle = bundle::attach_policy(&dir, variant, &policy, &certificate)?;
            conclude(&mut ledger, &plan, Some(certificate.policy_digest))?;
            Ok(Outcome::Certified(Box::new(bundle)))
        }
        Fit::NotCertified(refusal) => {
            bundle::detach_policy(&dir, variant)?;
            json::save(&refusal, &refusal_path(&run.config, variant))?;
            conclude(&mut ledger, &plan, None)?;
            Ok(Outcome::NotCertified(Box::new(refusal)))
        }
    }
}

/// How many variants hold a certificate once this one does.
fn certified_with(bundle: &Bundle, variant: &str) -> u64 {
    let others = bundle.manifest().variants.iter();
    let others = others.filter(|(name, other)| *name != variant && other.certificate.is_some());
    1 + others.count() as u64
}

/// Plans on val_select, and puts the plan and the attempt on record before a label of val_calib is looked at. An attempt
/// that is on record already, and was interrupted, is the same attempt.
fn begin(
    run: &Run,
    splits: &Splits,
    variant: &str,
    ledger: &mut Ledger,
    origin: &Origin,
    calib: &LogitSet,
    record: &Record,
) -> anyhow::Result<AnyPlan> {
    let settings = &record.settings;
    check_spending(ledger, settings)?;
    let shape = shape(calib);
    let plan_as = |number| -> anyhow::Result<AnyPlan> {
        let select = match origin {
            Origin::Select(select) => select,
            // The same grid, order and start; only the attempt is another.
            Origin::Float32(of) => return Ok(promise::again(&of.plan, number)),
        };
        let rows = SelectRows::new(select, run.config.split.seed)?;
        Ok(plan(&rows, shape, settings, number, Some(splits.digest))?)
    };
    let begun = ledger.begin_attempt(|number| -> anyhow::Result<Attempt> {
        let plan = plan_as(number)?;
        json::save(&plan, &plan_path(&run.config, variant))?;
        let model = record.fingerprint.model_digest;
        Ok(promise::attempt(&plan, model, variant.to_owned(), shape))
    })?;
    let plan = plan_as(begun.number)?;
    json::save(&plan, &plan_path(&run.config, variant))?;
    Ok(plan)
}

/// Attempts that are paid for must have been so from the first: what an earlier one spent can't be had back. Promises in
/// expectation spend nothing.
pub(crate) fn check_spending(ledger: &Ledger, settings: &CalibrateConfig) -> anyhow::Result<()> {
    let share = |number| settings.attempts.level(settings.delta, number);
    let overspent = |attempt: &Attempt| {
        let level = attempt.level?;
        (level > share(attempt.number) * (1.0 + 1e-9)).then_some((attempt.number, level))
    };
    match ledger.attempts().find_map(overspent) {
        Some((number, level)) if settings.attempts == Attempts::Spending => bail!(
            "calibrate.attempts: `spending` must be set before the first attempt, with the same delta: attempt {number} on \
             this val_calib was tested at level {level}, its share of delta {} is {:.4}; set `single`, and the certificate \
             says that its confidence holds for one attempt",
            settings.delta,
            share(number)
        ),
        _ => check_promised(ledger, settings),
    }
}

/// Certificates of attempts that were paid for say that all attempts hold together: a later one must be paid for, too. A
/// promise in expectation isn't among those that hold with a confidence.
fn check_promised(ledger: &Ledger, settings: &CalibrateConfig) -> anyhow::Result<()> {
    let paid = |attempt: &Attempt| {
        let (level, delta) = (attempt.level?, attempt.delta?);
        (level < delta * (1.0 - 1e-9)).then_some((attempt.number, level, delta))
    };
    match ledger.attempts().find_map(paid) {
        Some((number, level, delta))
            if settings.attempts == Attempts::Single && settings.guarantee == Guarantee::Pac =>
        {
            bail!(
                "calibrate.attempts: attempt {number} on this val_calib was `spending` (level {level} of delta {delta}), and \
                 its certificate says that all attempts hold together; keep `spending`"
            )
        }
        _ => Ok(()),
    }
}

fn conclude(
    ledger: &mut Ledger,
    plan: &AnyPlan,
    policy_digest: Option<Digest>,
) -> anyhow::Result<()> {
    if ledger.outcome(plan.attempt()).is_none() {
        ledger.append(Entry::Outcome(ledger::Outcome {
            attempt: plan.attempt(),
            policy_digest,
        }))?;
    }
    Ok(())
}
