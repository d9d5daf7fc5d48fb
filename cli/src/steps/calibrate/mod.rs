//! Certifies a threshold through the deployed session: plan on val_select, ledger, then val_calib.

pub(crate) mod joint;
mod session;

use super::{
    Run, ledger_of, scoring,
    selection::{self, CalibratorRecord},
    split::Splits,
    tell_if_private,
};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use stage1_calibration::{
    calibrate::{Selection, check_choice},
    fit::Circumstances,
    flips::{Flips, Pairs},
    plan::check_score,
    promise::{self, Fit, Proof, certificate, plan},
    rows::{CalibRows, SelectRows, shape},
};
use stage1_core::{
    artifact::{Digest, Document, json},
    bundle::{self, Bundle, FP32},
    certificate::{AnyPlan, AnyRefusal, Attempts, Certificate, Fingerprint, FlipBounds, Guarantee},
    config::{CalibrateConfig, Config, ScoreChoice},
    ledger::{self, Attempt, Entry, Kind, Ledger},
    logits::LogitSet,
    policy::{Policy, Score, Threshold},
    split::Split,
};
use stage1_runtime::Scorer;
use std::{collections::BTreeMap, path::PathBuf};

/// The bundle with its policy, or why there is none.
pub(crate) enum Outcome {
    Certified(Box<Bundle>),
    NotCertified(Box<AnyRefusal>),
    /// The policy, which another session was certified with, holds through this one, too.
    Session(Box<Certificate>),
    /// It doesn't; the policy and its certificates of other sessions stay.
    NotThisSession(Box<AnyRefusal>),
    /// The variant may differ too often from fp32; val_calib's labels weren't looked at.
    Withheld {
        variant: String,
        flips: Flips,
    },
}

/// What the last calibration in this run directory was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    schema_version: u32,
    fingerprint: Fingerprint,
    threads: usize,
    splits_digest: Digest,
    seed: u64,
    settings: CalibrateConfig,
    certified: bool,
    /// The variants that were certified together; none where one was alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    jointly: Vec<String>,
}

impl Record {
    fn save(&self, run: &Run, variant: &str) -> anyhow::Result<()> {
        json::save(self, &record_path(&run.config, variant))?;
        Ok(())
    }
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

/// What a calibration of this session is made from.
fn record(run: &Run, splits: &Splits, bundle: &Bundle, scorer: &Scorer) -> Record {
    Record {
        schema_version: Record::SCHEMA_VERSION,
        fingerprint: scorer.fingerprint(),
        threads: run.config.thread_count(),
        splits_digest: splits.digest,
        seed: run.config.split.seed,
        settings: settings(&run.config, bundle),
        certified: false,
        jointly: Vec::new(),
    }
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
    let mut record = record(run, splits, &bundle, &scorer);
    let certified = bundle.certificate(variant)?.and_then(|c| c.fingerprint);
    if !run.overwrite && certified.is_some_and(|c| session::is_further(&c, &record.fingerprint)) {
        return session::ensure(run, splits, &bundle, &scorer, &record);
    }
    if let Some(outcome) = known(run, &bundle, variant, &record)? {
        run.reused("calibrate");
        return Ok(outcome);
    }
    let calib = scoring::logits(run, splits, &scorer, Split::ValCalib)?;
    let origin = if variant == FP32 {
        Origin::Select(scoring::logits(run, splits, &scorer, Split::ValSelect)?)
    } else {
        let session = scoring::open_session(run, FP32)?;
        let reference = scoring::logits(run, splits, &session, Split::ValCalib)?;
        let pairs = Pairs::new(&reference, &calib, run.config.split.seed)?;
        if let Some(withheld) = withheld_by(&run.config, variant, &pairs)? {
            bundle::detach_policy(bundle.dir(), variant)?;
            return Ok(withheld);
        }
        Origin::Float32(float32(run, &bundle, variant, &pairs)?)
    };
    let outcome = attempt(run, splits, variant, &origin, &calib, &record)?;
    record.certified = matches!(outcome, Outcome::Certified(_));
    record.save(run, variant)?;
    Ok(outcome)
}

/// The gate of `calibrate.max_flip_bound`: it may withhold a variant, before any label of val_calib is looked at.
fn withheld_by(config: &Config, variant: &str, pairs: &Pairs) -> anyhow::Result<Option<Outcome>> {
    let flips = pairs.of_labels(config.calibrate.flip_delta)?;
    let limit = config.calibrate.max_flip_bound;
    Ok(limit
        .is_some_and(|limit| flips.upper_bound > limit)
        .then(|| Outcome::Withheld {
            variant: variant.to_owned(),
            flips,
        }))
}

/// How often a variant says something else than fp32 does, at a threshold that was chosen among so many.
fn flip_bounds(
    config: &Config,
    pairs: &Pairs,
    score: &Score,
    (threshold, among): (Threshold, usize),
) -> anyhow::Result<FlipBounds> {
    let delta = config.calibrate.flip_delta;
    let labels = pairs.of_labels(delta)?;
    let decisions = pairs.of_decisions(score, threshold, delta, among)?;
    Ok(FlipBounds {
        delta,
        rows: labels.rows,
        labels: labels.flips,
        labels_bound: labels.upper_bound,
        decisions: decisions.flips,
        decisions_bound: decisions.upper_bound,
    })
}

/// Where a variant's plan comes from.
enum Origin {
    /// Of fp32: its own logits of val_select.
    Select(LogitSet),
    /// Of others: fp32's.
    Float32(Float32),
    /// Of a further session: the policy's.
    Plan(AnyPlan),
}

/// What a further variant takes over from fp32.
struct Float32 {
    plan: AnyPlan,
    threshold: Threshold,
    flips: FlipBounds,
}

fn float32(run: &Run, bundle: &Bundle, variant: &str, pairs: &Pairs) -> anyhow::Result<Float32> {
    let Some(policy) = bundle.policy(FP32)? else {
        bail!(
            "{variant} is certified at the threshold of fp32, which has no policy; `stage1 calibrate` comes first"
        );
    };
    let wanted = settings(&run.config, bundle);
    let record = json::load::<Record>(&record_path(&run.config, FP32));
    let same = record.is_ok_and(|(record, _)| record.settings == wanted);
    let (plan, _) = json::load::<AnyPlan>(&plan_path(&run.config, FP32))
        .context("the plan of fp32 is gone; `stage1 calibrate --overwrite` makes it again")?;
    if !same || plan.digest() != policy.plan_digest {
        bail!(
            "fp32 was certified under other settings: calibrate it under these first (`stage1 calibrate --overwrite`), \
             or {variant} under its settings"
        );
    }
    let threshold = (policy.threshold, plan.thresholds());
    let flips = flip_bounds(&run.config, pairs, &policy.score, threshold)?;
    Ok(Float32 {
        plan,
        threshold: policy.threshold,
        flips,
    })
}

fn record_path(config: &Config, variant: &str) -> PathBuf {
    config.variant_file("calibration", variant)
}

/// The result of an earlier calibration of the same session under the same settings. A certificate that a variant got
/// together with others is as good for itself; that it got none together says nothing of it alone.
fn known(
    run: &Run,
    bundle: &Bundle,
    variant: &str,
    want: &Record,
) -> anyhow::Result<Option<Outcome>> {
    let Ok((record, _)) = json::load::<Record>(&record_path(&run.config, variant)) else {
        return Ok(None);
    };
    let mut same = want.clone();
    same.certified = record.certified;
    if want.jointly.is_empty() && record.certified {
        same.jointly.clone_from(&record.jointly);
    }
    let has_policy = bundle.certificate(variant)?.is_some();
    let refusal = json::load(&refusal_path(&run.config, variant))
        .ok()
        .map(|(refusal, _)| refusal);
    match (record == same, record.certified, refusal) {
        (true, true, _) if has_policy => Ok(Some(Outcome::Certified(Box::new(bundle.clone())))),
        (true, false, Some(refusal)) if !has_policy => {
            Ok(Some(Outcome::NotCertified(Box::new(refusal))))
        }
        // The bundle is newer than the record: it was exported again, and nothing is lost by calibrating it.
        _ if !has_policy || run.overwrite => Ok(None),
        _ => bail!(
            "{} holds a policy of {variant} that was certified under other settings{}; keep it by setting another run_dir, or replace it \
             with --overwrite (a further attempt on the same val_calib, which the certificate will say)",
            bundle.dir().display(),
            match same.jointly == record.jointly {
                true => "",
                false => ", or not together with these variants",
            }
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
    let mut ledger = ledger_of(&run.config, splits.digest, Kind::Calib)?;
    check_ledger(&mut ledger, &Bundle::open(&run.config.bundle_dir())?)?;
    let names = (&[variant][..], variant.to_owned());
    let plan = begin(run, splits, names, &mut ledger, origin, calib, record)?;
    let rows = CalibRows::new(calib, run.config.split.seed)?;
    let (threshold, flips) = match origin {
        Origin::Select(_) | Origin::Plan(_) => (None, None),
        Origin::Float32(of) => (Some(of.threshold), Some(of.flips)),
    };
    match promise::fit(&plan, threshold, &[&rows], record.settings.calibrator)? {
        Fit::Certified {
            policy,
            proof,
            selection,
        } => {
            let attachment = Attachment {
                policy,
                proof,
                selection,
                flips,
            };
            let (bundle, policy) = attach(run, &plan, variant, record, &ledger, attachment)?;
            conclude(&mut ledger, &plan, Some(policy))?;
            Ok(Outcome::Certified(Box::new(bundle)))
        }
        Fit::NotCertified(refusal) => {
            let outcome = refuse(run, variant, &[], refusal)?;
            conclude(&mut ledger, &plan, None)?;
            Ok(outcome)
        }
    }
}

/// What any certificate of the bundle recorded of the ledger must still be there.
fn check_ledger(ledger: &mut Ledger, bundle: &Bundle) -> anyhow::Result<()> {
    for variant in bundle.manifest().variants.keys() {
        for certificate in bundle.certificates(variant)? {
            ledger.check(&certificate.calib_ledger);
        }
    }
    Ok(())
}

/// What a variant gets.
struct Attachment {
    policy: Policy,
    proof: Proof,
    selection: Option<Selection>,
    flips: Option<FlipBounds>,
}

/// Puts a policy and its certificate into the bundle; returns it with the policy's digest.
fn attach(
    run: &Run,
    plan: &AnyPlan,
    variant: &str,
    record: &Record,
    ledger: &Ledger,
    attachment: Attachment,
) -> anyhow::Result<(Bundle, Digest)> {
    let dir = run.config.bundle_dir();
    let Attachment { policy, proof, .. } = attachment;
    let mut circumstances = Circumstances::new(
        ledger.state_at(plan.attempt()),
        Some(record.fingerprint.clone()),
    );
    circumstances.beside = deltas_beside(&Bundle::open(&dir)?, variant, &record.jointly, None)?;
    circumstances.jointly.clone_from(&record.jointly);
    circumstances.flips = attachment.flips;
    let certificate = certificate(plan, &policy, &proof, circumstances)?;
    // Before the policy: one that is there has its record beside it.
    let choice = CalibratorRecord {
        schema_version: CalibratorRecord::SCHEMA_VERSION,
        policy_digest: certificate.policy_digest,
        asked: record.settings.calibrator,
        selection: attachment.selection,
    };
    json::save(&choice, &selection::path(&run.config, variant))?;
    let bundle = bundle::attach_policy(&dir, variant, &policy, &certificate)?;
    Ok((bundle, certificate.policy_digest))
}

/// Takes away what an earlier attempt has certified, and says why there is nothing now.
fn refuse(
    run: &Run,
    variant: &str,
    jointly: &[String],
    mut refusal: AnyRefusal,
) -> anyhow::Result<Outcome> {
    if let AnyRefusal::Pac(refusal) = &mut refusal {
        refusal.jointly = jointly.to_vec();
    }
    bundle::detach_policy(&run.config.bundle_dir(), variant)?;
    json::save(&refusal, &refusal_path(&run.config, variant))?;
    Ok(Outcome::NotCertified(Box::new(refusal)))
}

/// δ of each other attempt whose certificate, of a variant that isn't certified now, holds with a confidence. Of the variant
/// itself those stay that are of other sessions than `session`; none does where its policy is made anew.
fn deltas_beside(
    bundle: &Bundle,
    variant: &str,
    jointly: &[String],
    session: Option<&Fingerprint>,
) -> anyhow::Result<Vec<f64>> {
    let mut deltas = BTreeMap::new();
    for name in bundle.manifest().variants.keys() {
        let stays = |other: &Certificate| match name == variant {
            true => session.is_some() && other.fingerprint.as_ref() != session,
            false => !jointly.contains(name),
        };
        for other in bundle.certificates(name)?.into_iter().filter(stays) {
            if let Some(delta) = other.delta {
                deltas.insert((other.attempt, other.plan_digest), delta);
            }
        }
    }
    Ok(deltas.into_values().collect())
}

/// Plans on val_select, and puts the plan (beside what each of `variants` has) and the attempt, by its `name`, on record before
/// a label of val_calib is looked at. An attempt that is on record already, and was interrupted, is the same attempt.
fn begin(
    run: &Run,
    splits: &Splits,
    (variants, name): (&[&str], String),
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
            Origin::Plan(plan) => return Ok(promise::again(plan, number)),
        };
        let rows = SelectRows::new(select, run.config.split.seed)?;
        Ok(plan(&rows, shape, settings, number, Some(splits.digest))?)
    };
    let save = |plan: &AnyPlan| -> anyhow::Result<()> {
        for variant in variants {
            json::save(plan, &plan_path(&run.config, variant))?;
        }
        Ok(())
    };
    let begun = ledger.begin_attempt(|number| -> anyhow::Result<Attempt> {
        let plan = plan_as(number)?;
        save(&plan)?;
        let model = record.fingerprint.model_digest;
        Ok(promise::attempt(&plan, model, name.clone(), shape))
    })?;
    tell_if_private(ledger, run.output);
    let plan = plan_as(begun.number)?;
    save(&plan)?;
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
        Some((number, _, delta))
            if settings.attempts == Attempts::Spending && settings.delta > delta * (1.0 + 1e-9) =>
        {
            bail!(
                "calibrate.delta: attempt {number} on this val_calib was `spending` with delta {delta}, and its certificate \
                 says that all attempts together hold with confidence 1 - {delta}; a larger delta would spend more than that"
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
