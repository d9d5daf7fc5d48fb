//! Judges the certified policy on val_test, once.

use super::{Run, scoring, split::Splits};
use anyhow::{Context, ensure};
use stage1_calibration::{
    rows::TestRows,
    verdict::{self, Validation, Verdict},
};
use stage1_core::{
    artifact::{Digest, json},
    bundle::Bundle,
    certificate::{Certificate, Fingerprint},
    config::Config,
    ledger::{self, Entry, Kind, Ledger, Ruling},
    split::Split,
};
use stage1_runtime::fingerprint_differences;
use std::path::PathBuf;

/// Where the verdict is kept.
pub(crate) fn path(config: &Config, variant: &str) -> PathBuf {
    config.variant_file("validation", variant)
}

/// The verdict on the run's bundle: the one that was reached, or a new opening of val_test.
pub(crate) fn ensure(
    run: &Run,
    splits: &Splits,
    bundle: &Bundle,
    variant: &str,
) -> anyhow::Result<Validation> {
    check_splits(bundle, splits.digest)?;
    let known = json::load::<Validation>(&path(&run.config, variant))
        .ok()
        .map(|(validation, _)| validation);
    let gamma = run.config.validate.gamma;
    let subject = bundle.variant_digest(variant)?;
    let is_same =
        |v: &Validation| v.subject_digest == subject && v.gamma.to_bits() == gamma.to_bits();
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
    let certificate = bundle
        .certificate(variant)?
        .context("the bundle has no certificate")?;
    let mut ledger = Ledger::open_among_runs(&run.config.splits_path(), splits.digest, Kind::Test)?;
    if let Some(state) = before.and_then(|earlier| earlier.test_ledger) {
        ledger.check(&state);
    }
    let mut scorer = scoring::open_session(run, variant)?;
    check_session(&certificate, &scorer.fingerprint())?;
    let number = ledger.begin_opening(subject, gamma)?.number;
    let logits = scoring::logits(run, splits, &mut scorer, Split::ValTest)?;
    let opening = verdict::Opening {
        subject_digest: subject,
        number,
        ledger: Some(ledger.state()),
    };
    let rows = TestRows::new(&logits, run.config.split.seed)?;
    let validation = verdict::validate(&policy, &certificate, &rows, gamma, opening)?;
    conclude(&mut ledger, &validation)?;
    json::save(&validation, &path(&run.config, variant))?;
    Ok(validation)
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

/// The verdict as the ledger keeps it.
pub(crate) fn conclude(ledger: &mut Ledger, validation: &Validation) -> anyhow::Result<()> {
    if ledger.verdict(validation.opening).is_some() {
        return Ok(());
    }
    let verdict = match validation.verdict {
        Verdict::Held => Ruling::Held,
        Verdict::Refuted => Ruling::Refuted,
        Verdict::Inconclusive => Ruling::Inconclusive,
    };
    ledger.append(Entry::Verdict(ledger::Verdict {
        opening: validation.opening,
        verdict,
        answered: validation.answered,
        errors: validation.errors,
        units: validation.test.units,
        rows: validation.test.rows,
    }))?;
    Ok(())
}
