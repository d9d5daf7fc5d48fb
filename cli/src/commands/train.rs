use crate::{
    args::StepArgs,
    output::{Answer, Output},
    steps::{self, Run},
};
use serde_json::json;
use std::fmt::Write;

pub(crate) fn run(args: &StepArgs, output: &Output) -> anyhow::Result<Answer> {
    let run = Run::open(args, *output)?;
    steps::train::find_trainer()?;
    steps::split::ensure(&run)?;
    let checkpoint = steps::train::ensure(&run)?;
    run.record()?;
    let dir = run.config.checkpoint_dir();
    let mut text = format!(
        "checkpoint {}, epoch {} of {}\n",
        dir.display(),
        checkpoint.epoch,
        checkpoint.epochs_run
    );
    for (name, value) in &checkpoint.metrics {
        writeln!(text, "  val_select {name:<20} {value:.4}")?;
    }
    let document = json!({
        "checkpoint": dir,
        "digest": checkpoint.digest(),
        "epoch": checkpoint.epoch,
        "epochs_run": checkpoint.epochs_run,
        "val_select": checkpoint.metrics,
    });
    output.answer(&document, &text)?;
    Ok(Answer::Yes)
}
