use super::export::parity_failed;
use crate::{
    args::StepArgs,
    output::{Answer, Output},
    steps::{self, Run, calibrate, export},
};
use stage1_core::split::Split;

pub(crate) fn run(args: &StepArgs, output: &Output) -> anyhow::Result<Answer> {
    let run = Run::open(args, *output)?;
    steps::train::find_trainer()?;
    steps::train::check_backbone(&run.config)?;
    let splits = steps::split::ensure_or_replace(&run)?;
    steps::calibrate::check_calibrator(&run.config, &splits)?;
    let checkpoint = steps::train::ensure(&run)?;
    let bundle = match export::ensure(&run, &splits, &checkpoint)? {
        export::Outcome::Exported(bundle) => bundle,
        export::Outcome::ParityFailed(parity) => return parity_failed(&parity, output),
    };
    let (mut scored, exported) = (vec![Split::ValSelect, Split::ValCalib], bundle.clone());
    if let calibrate::Outcome::Certified(bundle) = calibrate::ensure(&run, &splits, *bundle)? {
        steps::validate::ensure(&run, &splits, &bundle)?;
        scored.push(Split::ValTest);
        steps::latency::ensure(&run, &splits, &bundle)?;
    }
    steps::scoring::restore(&run, &splits, &exported, &scored)?;
    let report = steps::report::read(&run.config)?;
    report.save()?;
    run.record()?;
    output.answer(&report, &report.text())?;
    Ok(report.answer())
}
