//! Whether a checkpoint's gate is deployed: a comparison with scores of its logits on val_select, kept in `gate.json`.

use super::{Run, train};
use anyhow::Context;
use stage1_calibration::{comparison::judge_gate, metrics::Bootstrap};
use stage1_core::{
    artifact::json, checkpoint::Checkpoint, config::Config, gate::GateDecision, logits::LogitSet,
};

/// The decision on a checkpoint's gate: the one that is there, or a new one; none without a gate. libtorch's logits of
/// val_select decide, before anything is exported, and no image of val_calib or val_test is opened.
pub(crate) fn ensure(run: &Run, checkpoint: &Checkpoint) -> anyhow::Result<Option<GateDecision>> {
    if checkpoint.gate.is_none() {
        return Ok(None);
    }
    let resamples = run.config.gate.resamples;
    if let Some(known) = known(&run.config, checkpoint)
        && known.resamples == resamples
    {
        return Ok(Some(known));
    }
    let path = run.config.trained_logits_path();
    let trained = train::ensure_with_logits(run, &path)?;
    anyhow::ensure!(
        trained.digest() == checkpoint.digest(),
        "the checkpoint in {} was replaced meanwhile",
        run.config.checkpoint_dir().display()
    );
    let set = LogitSet::load(&path)?;
    let bootstrap = Bootstrap {
        resamples,
        seed: run.config.seed,
    };
    let decision = judge_gate(&set, checkpoint.digest(), run.config.gate.loss, bootstrap)
        .context("cannot compare the gate with the logits' scores")?;
    json::save(&decision, &run.config.gate_path())?;
    run.output.note(&format!("  {}", decision.sentence()));
    for line in decision.table() {
        run.output.note(&format!("    {line}"));
    }
    Ok(Some(decision))
}

/// The decision on this checkpoint that is there.
pub(crate) fn known(config: &Config, checkpoint: &Checkpoint) -> Option<GateDecision> {
    let (decision, _): (GateDecision, _) = json::load(&config.gate_path()).ok()?;
    (checkpoint.gate.is_some() && decision.checkpoint_digest == checkpoint.digest())
        .then_some(decision)
}
