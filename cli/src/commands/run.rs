use super::export::parity_failed;
use crate::{
    args::StepArgs,
    output::{Answer, Output},
    steps::{self, Run, calibrate, export},
};

pub(crate) fn run(args: &StepArgs, output: &Output) -> anyhow::Result<Answer> {
    let run = Run::open(args, *output)?;
    let splits = steps::split::ensure(&run)?;
    let checkpoint = steps::train::ensure(&run)?;
    let bundle = match export::ensure(&run, &splits, &checkpoint)? {
        export::Outcome::Exported(bundle) => bundle,
        export::Outcome::ParityFailed(parity) => return parity_failed(&parity, output),
    };
    if let calibrate::Outcome::Certified(bundle) = calibrate::ensure(&run, &splits, *bundle)? {
        steps::validate::ensure(&run, &splits, &bundle)?;
        steps::latency::ensure(&run, &splits, &bundle)?;
    }
    let report = steps::report::read(&run.config)?;
    report.save()?;
    run.record()?;
    output.answer(&report, &report.text())?;
    Ok(report.answer())
}
