//! Several variants under one promise: one plan, one attempt and one threshold, at which all of them hold together.

use super::{
    Attachment, Origin, Outcome, Record, attach, begin, check_ledger, conclude, flip_bounds, known,
    record, refuse, session, withheld_by,
};
use crate::steps::{Run, ledger_of, scoring, split::Splits};
use anyhow::ensure;
use stage1_calibration::{
    flips::Pairs,
    promise::{self, Fit},
    rows::CalibRows,
};
use stage1_core::{
    bundle::{self, Bundle, FP32},
    certificate::Guarantee,
    config::Config,
    ledger::Kind,
    logits::LogitSet,
    split::Split,
};
use stage1_runtime::Scorer;
use std::collections::BTreeSet;

/// A variant as it is deployed.
struct Session {
    variant: String,
    scorer: Scorer,
    record: Record,
}

/// A variant, and its session's logits of val_calib.
struct Member {
    variant: String,
    record: Record,
    calib: LogitSet,
}

/// The policies that these variants got together, or a new attempt. The plan is made on the first one's logits of
/// val_select.
pub(crate) fn ensure(
    run: &Run,
    splits: &Splits,
    bundle: &Bundle,
    variants: &[String],
) -> anyhow::Result<Outcome> {
    let mut sessions = Vec::new();
    for variant in variants {
        let scorer = scoring::open_session(run, variant)?;
        let mut record = record(run, splits, bundle, &scorer);
        record.jointly = variants.to_vec();
        sessions.push(Session {
            variant: variant.clone(),
            scorer,
            record,
        });
    }
    check_session(run, bundle, &sessions)?;
    if let Some(outcome) = all_known(run, bundle, &sessions)? {
        run.reused("calibrate");
        return Ok(outcome);
    }
    let select = scoring::logits(run, splits, &sessions[0].scorer, Split::ValSelect)?;
    let origin = Origin::Select(select);
    let mut members = Vec::new();
    for session in sessions {
        members.push(Member {
            calib: scoring::logits(run, splits, &session.scorer, Split::ValCalib)?,
            variant: session.variant,
            record: session.record,
        });
    }
    let reference = float32(run, splits, &members)?;
    for member in members.iter().filter(|member| member.variant != FP32) {
        let pairs = Pairs::new(&reference, &member.calib, run.config.split.seed)?;
        if let Some(withheld) = withheld_by(&run.config, &member.variant, &pairs)? {
            bundle::detach_policy(bundle.dir(), &member.variant)?;
            return Ok(withheld);
        }
    }
    let outcome = attempt(run, splits, &members, &origin, &reference)?;
    for Member {
        variant, record, ..
    } in &mut members
    {
        record.certified = matches!(outcome, Outcome::Certified(_));
        record.save(run, variant)?;
    }
    Ok(outcome)
}

/// Whether these variants can be certified together, before anything is made for it.
pub(crate) fn check(config: &Config, variants: &[String]) -> anyhow::Result<()> {
    let distinct: BTreeSet<_> = variants.iter().collect();
    ensure!(
        distinct.len() == variants.len() && variants.len() > 1,
        "--joint {}: expected two or more different variants, e.g. fp32,int8",
        variants.join(",")
    );
    ensure!(
        config.calibrate.guarantee == Guarantee::Pac,
        "--joint certifies variants together for `calibrate.guarantee: pac`; with `expectation` calibrate each by itself \
         (--variant)"
    );
    Ok(())
}

/// A policy that was certified through another session gets a certificate of this one by itself.
fn check_session(run: &Run, bundle: &Bundle, sessions: &[Session]) -> anyhow::Result<()> {
    for Session {
        variant, record, ..
    } in sessions
    {
        let certified = bundle.certificate(variant)?.and_then(|c| c.fingerprint);
        ensure!(
            run.overwrite
                || !certified.is_some_and(|c| session::is_further(&c, &record.fingerprint)),
            "--joint: {variant} is certified through another session than this one ({}), at a threshold that stays; certify this \
             session for each variant by itself (`stage1 calibrate --variant {variant}` with the same device), or all anew through it, \
             with --overwrite",
            record.fingerprint.provider
        );
    }
    Ok(())
}

/// All got what they have together, under these settings, from these sessions.
fn all_known(run: &Run, bundle: &Bundle, sessions: &[Session]) -> anyhow::Result<Option<Outcome>> {
    // All are asked: a policy of any of them is replaced only if that was said.
    let each = sessions
        .iter()
        .map(|session| known(run, bundle, &session.variant, &session.record))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let all: Option<Vec<Outcome>> = each.into_iter().collect();
    Ok(all.and_then(|mut all| all.pop()))
}

/// fp32's logits of val_calib, which the others' flips are counted against.
fn float32(run: &Run, splits: &Splits, members: &[Member]) -> anyhow::Result<LogitSet> {
    match members.iter().find(|member| member.variant == FP32) {
        Some(member) => Ok(member.calib.clone()),
        None => scoring::logits(
            run,
            splits,
            &scoring::open_session(run, FP32)?,
            Split::ValCalib,
        ),
    }
}

fn attempt(
    run: &Run,
    splits: &Splits,
    members: &[Member],
    origin: &Origin,
    reference: &LogitSet,
) -> anyhow::Result<Outcome> {
    let (config, first) = (&run.config, &members[0]);
    let dir = config.bundle_dir();
    let mut ledger = ledger_of(config, splits.digest, Kind::Calib)?;
    check_ledger(&mut ledger, &Bundle::open(&dir)?)?;
    let variants: Vec<&str> = members.iter().map(|member| &*member.variant).collect();
    let plan = begin(
        run,
        splits,
        (&variants, variants.join(",")),
        &mut ledger,
        origin,
        &first.calib,
        &first.record,
    )?;
    let rows = members
        .iter()
        .map(|member| CalibRows::new(&member.calib, config.split.seed))
        .collect::<Result<Vec<_>, _>>()?;
    let sessions: Vec<&CalibRows> = rows.iter().collect();
    let fits = promise::fit_each(&plan, &sessions, first.record.settings.calibrator)?;
    let (mut outcome, mut digest) = (None, None);
    for (member, fit) in members.iter().zip(fits) {
        outcome = Some(match fit {
            Fit::Certified {
                policy,
                proof,
                selection,
            } => {
                let flips = match &*member.variant {
                    FP32 => None,
                    _ => {
                        let pairs = Pairs::new(reference, &member.calib, config.split.seed)?;
                        let threshold = (policy.threshold, plan.thresholds());
                        Some(flip_bounds(config, &pairs, &policy.score, threshold)?)
                    }
                };
                let attachment = Attachment {
                    policy,
                    proof,
                    selection,
                    flips,
                };
                let (bundle, policy) = attach(
                    run,
                    &plan,
                    &member.variant,
                    &member.record,
                    &ledger,
                    attachment,
                )?;
                digest = digest.or(Some(policy));
                Outcome::Certified(Box::new(bundle))
            }
            Fit::NotCertified(refusal) => {
                refuse(run, &member.variant, &member.record.jointly, refusal)?
            }
        });
    }
    conclude(&mut ledger, &plan, digest)?;
    Ok(outcome.expect("two or more variants"))
}
