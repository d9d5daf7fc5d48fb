//! Judges the certified policy on val_test, once.

use super::{Run, ledger_of, scoring, split::Splits, tell_if_private};
use anyhow::{Context, ensure};
use stage1_calibration::{
    promise::{Judgement, judge},
    rows::TestRows,
    verdict::{GAMMA, Opening},
};
use stage1_core::{
    artifact::{Digest, json},
    bundle::Bundle,
    certificate::{Certificate, Fingerprint, Guarantee},
    config::Config,
    ledger::{Entry, Kind, Ledger},
    split::Split,
};
use stage1_runtime::fingerprint_differences;
use std::path::PathBuf;

/// Where the verdict is kept.
pub(crate) fn path(config: &Config, variant: &str) -> PathBuf {
    config.variant_file("validation", variant)
}

/// That on a further session lies beside it.
fn path_of(config: &Config, variant: &str, further: Option<&Certificate>) -> PathBuf {
    match further.and_then(|certificate| certificate.fingerprint.as_ref()) {
        Some(session) => {
            let name = format!(
                "validation.{}-{}",
                session.provider,
                Digest::of_json(session).short()
            );
            config.variant_file(&name, variant)
        }
        None => path(config, variant),
    }
}

/// The verdict on the run's bundle: the one that was reached, or a new opening of val_test.
pub(crate) fn ensure(
    run: &Run,
    splits: &Splits,
    bundle: &Bundle,
    variant: &str,
) -> anyhow::Result<Judgement> {
    check_splits(bundle, splits.digest)?;
    let gamma = run.config.validate.gamma;
    let certificates = bundle.certificates(variant)?;
    let further = match certificates.len() {
        0 | 1 => None,
        _ => further_session(run, &certificates, variant)?,
    };
    let subject = match &further {
        None => bundle.variant_digest(variant)?,
        Some(certificate) => Digest::of_json(&(bundle.variant_digest(variant)?, certificate)),
    };
    let place = path_of(&run.config, variant, further.as_ref());
    let known = json::load::<Judgement>(&place)
        .ok()
        .map(|(judgement, _)| judgement);
    let is_same =
        |v: &Judgement| v.subject_digest() == subject && v.gamma().to_bits() == gamma.to_bits();
    let before = match known {
        Some(known) if is_same(&known) => {
            run.reused("validate");
            return Ok(known);
        }
        other => other,
    };
    let policy = bundle.policy(variant)?.with_context(|| {
        format!(
            "variant {variant} has no policy; `stage1 calibrate --variant {variant}` comes first"
        )
    })?;
    let certificate = match further {
        Some(further) => further,
        None => bundle
            .certificate(variant)?
            .context("the bundle has no certificate")?,
    };
    check_gamma(&certificate, gamma)?;
    let mut ledger = ledger_of(&run.config, splits.digest, Kind::Test)?;
    if let Some(state) = before.as_ref().and_then(Judgement::test_ledger) {
        ledger.check(state);
    }
    let scorer = scoring::open_session(run, variant)?;
    check_session(&certificate, &scorer.fingerprint())?;
    let number = ledger.begin_opening(subject, gamma)?.number;
    tell_if_private(&ledger, run.output);
    let logits = scoring::logits(run, splits, &scorer, Split::ValTest)?;
    let opening = Opening {
        subject_digest: subject,
        number,
        ledger: Some(ledger.state()),
    };
    let rows = TestRows::new(&logits, run.config.split.seed)?;
    let validation = judge(&policy, &certificate, &rows, gamma, opening)?;
    conclude(&mut ledger, &validation)?;
    json::save(&validation, &place)?;
    Ok(validation)
}

/// Of several sessions' certificates that of the session which opens here, unless that is the one which the policy was
/// calibrated through.
fn further_session(
    run: &Run,
    certificates: &[Certificate],
    variant: &str,
) -> anyhow::Result<Option<Certificate>> {
    let here = scoring::open_session(run, variant)?.fingerprint();
    let is_it = |one: &&Certificate| one.fingerprint.as_ref() == Some(&here);
    Ok(certificates.iter().skip(1).find(is_it).cloned())
}

/// The certificate of the session that opens here, or else that of the first.
pub(crate) fn certificate_here(
    run: &Run,
    bundle: &Bundle,
    variant: &str,
) -> anyhow::Result<Certificate> {
    let mut certificates = bundle.certificates(variant)?;
    let further = further_session(run, &certificates, variant)?;
    ensure!(!certificates.is_empty(), "the bundle has no certificate");
    Ok(further.unwrap_or_else(|| certificates.remove(0)))
}

/// The val_test of other splits may hold images that trained or calibrated this bundle.
pub(crate) fn check_splits(bundle: &Bundle, splits: Digest) -> anyhow::Result<()> {
    let made_from = bundle.manifest().provenance.splits_digest;
    ensure!(
        made_from == splits,
        "{} was made from other splits (digest {}) than the run's {}: some of its training or calibration images may be in \
         val_test now; `stage1 run --overwrite` makes a bundle from these splits",
        bundle.dir().display(),
        made_from.short(),
        splits.short()
    );
    Ok(())
}

/// A verdict on answers of another session says nothing about the certified one.
fn check_session(certificate: &Certificate, here: &Fingerprint) -> anyhow::Result<()> {
    let Some(certified) = &certificate.fingerprint else {
        return Ok(());
    };
    let differences = fingerprint_differences(certified, here);
    let told: Vec<_> = differences.iter().map(ToString::to_string).collect();
    ensure!(
        told.is_empty(),
        "the certificate doesn't cover this session ({}): validate where it was calibrated, or calibrate here",
        told.join("; ")
    );
    Ok(())
}

/// An estimate has no level that could be chosen.
pub(crate) fn check_gamma(certificate: &Certificate, gamma: f64) -> anyhow::Result<()> {
    ensure!(
        certificate.guarantee == Guarantee::Pac || gamma.to_bits() == GAMMA.to_bits(),
        "validate.gamma is {gamma}: the certificate promises an expectation, of which val_test gives an estimate and no \
         verdict at any level; leave it out"
    );
    Ok(())
}

/// What came of it, as the ledger keeps it.
pub(crate) fn conclude(ledger: &mut Ledger, judgement: &Judgement) -> anyhow::Result<()> {
    let entry = judgement.entry();
    if ledger.verdict(entry.opening).is_none() {
        ledger.append(Entry::Verdict(entry))?;
    }
    Ok(())
}
