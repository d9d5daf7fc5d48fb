use super::{calibrate::withheld, export::parity_failed};
use crate::{
    args::StepArgs,
    output::{Answer, Output},
    steps::{
        self, Run, calibrate,
        export::{self, Outcome},
        split::Splits,
    },
};
use stage1_core::{
    bundle::{Bundle, FP32},
    checkpoint::Checkpoint,
    split::Split,
};

pub(crate) fn run(args: &StepArgs, output: &Output) -> anyhow::Result<Answer> {
    let run = Run::open(args, *output)?;
    steps::train::find_trainer()?;
    steps::train::check_backbone(&run.config)?;
    let splits = steps::split::ensure_or_replace(&run)?;
    steps::calibrate::check_calibrator(&run.config, &splits)?;
    let checkpoint = steps::train::ensure(&run)?;
    let bundle = match export::ensure(&run, &splits, &checkpoint)? {
        Outcome::Exported(bundle) => bundle,
        Outcome::ParityFailed { variant, parity } => {
            return parity_failed(variant, &parity, output);
        }
    };
    let (mut scored, exported) = (vec![Split::ValSelect, Split::ValCalib], bundle.clone());
    let mut all_certified = true;
    let certified = match calibrate::ensure(&run, &splits, *bundle, FP32)? {
        calibrate::Outcome::Certified(bundle) => Some(bundle),
        calibrate::Outcome::Session(_) => Some(Box::new(Bundle::open(&run.config.bundle_dir())?)),
        _ => None,
    };
    if let Some(bundle) = certified {
        steps::validate::ensure(&run, &splits, &bundle, FP32)?;
        scored.push(Split::ValTest);
        steps::latency::ensure(&run, &splits, &bundle, FP32)?;
        all_certified = variants(&run, &splits, &checkpoint, *bundle)?;
    }
    steps::scoring::restore(&run, &splits, &exported, FP32, &scored)?;
    let report = steps::report::read(&run.config, FP32)?;
    report.save()?;
    run.record()?;
    output.answer(&report, &report.text())?;
    Ok(match all_certified {
        true => report.answer(),
        false => Answer::No,
    })
}

/// Exports and certifies the configured precisions; says what of it failed, and whether nothing did. They aren't validated:
/// a further opening of val_test is exploratory, and `stage1 validate --variant` does it for who wants it.
fn variants(
    run: &Run,
    splits: &Splits,
    checkpoint: &Checkpoint,
    mut bundle: Bundle,
) -> anyhow::Result<bool> {
    let mut all = true;
    for precision in &run.config.export.variants {
        let name = precision.name();
        let before = bundle.clone();
        let exported = steps::variants::ensure(run, splits, checkpoint, bundle, *precision)?;
        let Outcome::Exported(with) = exported else {
            if let Outcome::ParityFailed { parity, .. } = exported {
                run.output.warn(&format!(
                    "{name} isn't in the bundle: it is too far from fp32\n{}",
                    steps::variants::describe(name, &parity, None)
                ));
            }
            (all, bundle) = (false, before);
            continue;
        };
        bundle = *with.clone();
        match calibrate::ensure(run, splits, *with, name)? {
            calibrate::Outcome::Certified(certified) => {
                steps::latency::ensure(run, splits, &certified, name)?;
                bundle = *certified;
            }
            calibrate::Outcome::Session(_) => bundle = Bundle::open(&run.config.bundle_dir())?,
            calibrate::Outcome::NotCertified(_) | calibrate::Outcome::NotThisSession(_) => {
                all = false;
                run.output.warn(&format!(
                    "{name} is in the bundle without a policy: it could not be certified at fp32's threshold; \
                     `stage1 report --variant {name}` says why"
                ));
            }
            calibrate::Outcome::Withheld { variant, flips } => {
                all = false;
                run.output.warn(&withheld(&variant, &flips));
            }
        }
    }
    Ok(all)
}
