use crate::{
    args::ReportArgs,
    output::{Answer, Output},
    steps,
};
use stage1_core::{bundle::FP32, config::Config};

pub(crate) fn run(args: &ReportArgs, output: &Output) -> anyhow::Result<Answer> {
    let config = Config::load(&args.source.config, &args.source.overrides)?;
    let report = steps::report::read(&config, &args.variant)?;
    // The run's own report is about fp32.
    if args.variant == FP32 {
        report.save()?;
    }
    output.answer(&report, &report.text())?;
    Ok(report.answer())
}
