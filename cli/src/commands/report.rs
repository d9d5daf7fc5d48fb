use crate::{
    args::ReportArgs,
    output::{Answer, Output},
    steps,
};
use stage1_core::config::Config;

pub(crate) fn run(args: &ReportArgs, output: &Output) -> anyhow::Result<Answer> {
    let config = Config::load(&args.source.config, &args.source.overrides)?;
    let report = steps::report::read(&config)?;
    report.save()?;
    output.answer(&report, &report.text())?;
    Ok(report.answer())
}
