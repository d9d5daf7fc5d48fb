use crate::{
    args::{StepArgs, TrainArgs},
    output::{Answer, Output},
    steps::{self, Run, train::Begin},
};
use anyhow::Context as _;
use serde_json::json;
use std::fmt::Write;

pub(crate) fn run(args: &TrainArgs, output: &Output) -> anyhow::Result<Answer> {
    let run = Run::open(&step(args)?, *output)?;
    steps::train::find_trainer()?;
    steps::split::ensure(&run)?;
    let begin = if args.resume {
        Begin::Resume
    } else {
        Begin::Anywhere
    };
    if args.dry_run {
        let plan = steps::train::plan(&run, begin)?;
        output.answer(&plan, &plan.text())?;
        return Ok(Answer::Yes);
    }
    let checkpoint = steps::train::ensure_from(&run, begin)?;
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
    let depth = steps::train::depth(&run.config, &checkpoint);
    if let Some(depth) = &depth {
        writeln!(text, "  {}", depth.sentence())?;
        for line in depth.table() {
            writeln!(text, "    {line}")?;
        }
    }
    let document = json!({
        "depth": depth,
        "checkpoint": dir,
        "digest": checkpoint.digest(),
        "epoch": checkpoint.epoch,
        "epochs_run": checkpoint.epochs_run,
        "val_select": checkpoint.metrics,
    });
    output.answer(&document, &text)?;
    Ok(Answer::Yes)
}

/// The arguments with `--init-from` as the key that it stands for.
fn step(args: &TrainArgs) -> anyhow::Result<StepArgs> {
    let mut step = args.step.clone();
    if let Some(dir) = &args.init_from {
        let dir = serde_json::to_string(dir).context("--init-from")?;
        step.source.overrides.push(format!("train.init_from={dir}"));
    }
    Ok(step)
}
