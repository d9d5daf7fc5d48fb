use super::{calibrate_logits, export::parity_failed};
use crate::{
    args::CalibrateArgs,
    output::{Answer, Output},
    steps::{self, Run, calibrate::Outcome, export},
};
use stage1_core::bundle::FP32;

pub(crate) fn run(args: &CalibrateArgs, output: &Output) -> anyhow::Result<Answer> {
    if args.logits.is_some() {
        return calibrate_logits::run(args, output);
    }
    let run = Run::open(&args.step, *output)?;
    steps::train::find_trainer()?;
    let splits = steps::split::ensure(&run)?;
    let checkpoint = steps::train::ensure(&run)?;
    let bundle = match export::ensure(&run, &splits, &checkpoint)? {
        export::Outcome::Exported(bundle) => bundle,
        export::Outcome::ParityFailed(parity) => return parity_failed(&parity, output),
    };
    let outcome = steps::calibrate::ensure(&run, &splits, *bundle)?;
    run.record()?;
    let text = steps::report::read(&run.config)?.text();
    match outcome {
        Outcome::Certified(bundle) => {
            output.answer(&bundle.certificate(FP32)?, &text)?;
            Ok(Answer::Yes)
        }
        Outcome::NotCertified(refusal) => {
            output.answer(&refusal, &text)?;
            Ok(Answer::No)
        }
    }
}
