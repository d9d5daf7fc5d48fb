//! Judges the certified policy on val_test, once.

use super::{Run, scoring, split::Splits};
use anyhow::Context;
use stage1_calibration::{
    rows::TestRows,
    verdict::{self, Validation, Verdict},
};
use stage1_core::{
    artifact::json,
    bundle::{Bundle, FP32},
    config::Config,
    ledger::{self, Entry, Kind, Ledger, Ruling},
    split::Split,
};
use std::path::PathBuf;

/// Where the verdict is kept.
pub(crate) fn path(config: &Config) -> PathBuf {
    config.run_dir.join("validation.json")
}

/// The verdict on the run's bundle: the one that was reached, or a new opening of val_test.
pub(crate) fn ensure(run: &Run, splits: &Splits, bundle: &Bundle) -> anyhow::Result<Validation> {
    let known = json::load::<Validation>(&path(&run.config))
        .ok()
        .map(|(validation, _)| validation);
    let gamma = run.config.validate.gamma;
    let is_same = |v: &Validation| {
        v.subject_digest == bundle.digest() && (v.gamma - gamma).abs() < f64::EPSILON
    };
    let before = match known {
        Some(known) if is_same(&known) => {
            run.reused("validate");
            return Ok(known);
        }
        other => other,
    };
    let policy = bundle
        .policy(FP32)?
        .context("the bundle has no policy; `stage1 calibrate` comes first")?;
    let certificate = bundle
        .certificate(FP32)?
        .context("the bundle has no certificate")?;
    let mut ledger = Ledger::open_among_runs(&run.config.splits_path(), splits.digest, Kind::Test)?;
    if let Some(state) = before.and_then(|earlier| earlier.test_ledger) {
        ledger.check(&state);
    }
    let number = ledger.begin_opening(bundle.digest())?.number;
    let mut scorer = scoring::open_session(run)?;
    let logits = scoring::logits(run, splits, &mut scorer, Split::ValTest)?;
    let opening = verdict::Opening {
        subject_digest: bundle.digest(),
        number,
        ledger: Some(ledger.state()),
    };
    let rows = TestRows::new(&logits, run.config.split.seed)?;
    let validation = verdict::validate(&policy, &certificate, &rows, gamma, opening)?;
    conclude(&mut ledger, &validation)?;
    json::save(&validation, &path(&run.config))?;
    Ok(validation)
}

/// The verdict as the ledger keeps it.
fn conclude(ledger: &mut Ledger, validation: &Validation) -> anyhow::Result<()> {
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
