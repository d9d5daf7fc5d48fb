use super::validate_logits;
use crate::{
    args::ValidateArgs,
    output::{Answer, Output},
    steps::{self, Run},
};
use anyhow::Context;
use stage1_calibration::verdict::{Validation, Verdict};
use stage1_core::bundle::Bundle;

pub(crate) fn run(args: &ValidateArgs, output: &Output) -> anyhow::Result<Answer> {
    if args.logits.is_some() {
        return validate_logits::run(args, output);
    }
    let run = Run::open(&args.step, *output)?;
    let splits = steps::split::ensure(&run)?;
    let bundle = Bundle::open(&run.config.bundle_dir()).context("`stage1 run` makes the bundle")?;
    let validation = steps::validate::ensure(&run, &splits, &bundle, &args.variant)?;
    run.record()?;
    let report = steps::report::read(&run.config, &args.variant)?;
    output.answer(&validation, &report.text())?;
    Ok(answer(&validation, args.require_held))
}

/// No on REFUTED; on INCONCLUSIVE if HELD is required.
pub(super) fn answer(validation: &Validation, require_held: bool) -> Answer {
    match validation.verdict {
        Verdict::Held => Answer::Yes,
        Verdict::Inconclusive if !require_held => Answer::Yes,
        _ => Answer::No,
    }
}
