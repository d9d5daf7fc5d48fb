use super::{calibrate_logits, export::parity_failed};
use crate::{
    args::{CalibrateArgs, Device, StepArgs},
    output::{Answer, Output},
    steps::{self, Run, calibrate::Outcome, export},
};
use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::json;
use stage1_calibration::calibrate::Selection;
use stage1_core::{
    bundle::{Bundle, FP32},
    certificate::{Certificate, FlipBounds},
    config::VariantPrecision,
};
use std::path::Path;

pub(crate) fn run(args: &CalibrateArgs, output: &Output) -> anyhow::Result<Answer> {
    if args.logits.is_some() {
        return calibrate_logits::run(args, output);
    }
    // The only device of this version; the session is opened on it.
    let Device::Cpu = args.device;
    let run = open(args, *output)?;
    steps::train::find_trainer()?;
    let splits = steps::split::ensure(&run)?;
    let checkpoint = steps::train::ensure(&run)?;
    let precisions: Vec<VariantPrecision> = precision(&args.variant)?.into_iter().collect();
    let bundle = match export::ensure_with(&run, &splits, &checkpoint, &precisions)? {
        export::Outcome::Exported(bundle) => bundle,
        export::Outcome::ParityFailed { variant, parity } => {
            return parity_failed(variant, &parity, output);
        }
    };
    let outcome = steps::calibrate::ensure(&run, &splits, *bundle, &args.variant)?;
    run.record()?;
    match outcome {
        Outcome::Certified(bundle) => {
            let text = steps::report::read(&run.config, &args.variant)?.text();
            output.answer(&Certified::read(&run, &bundle, &args.variant)?, &text)?;
            Ok(Answer::Yes)
        }
        Outcome::NotCertified(refusal) => {
            let text = steps::report::read(&run.config, &args.variant)?.text();
            output.answer(&refusal, &text)?;
            Ok(Answer::No)
        }
        Outcome::Withheld(flips) => {
            let document = json!({"variant": args.variant, "withheld": true, "flips": flips});
            output.answer(&document, &withheld(&args.variant, &flips))?;
            Ok(Answer::No)
        }
    }
}

/// The certificate, and how its policy's calibrator was chosen.
#[derive(Serialize)]
struct Certified {
    #[serde(flatten)]
    certificate: Certificate,
    /// None unless by `auto`.
    calibrator_selection: Option<Selection>,
}

impl Certified {
    fn read(run: &Run, bundle: &Bundle, variant: &str) -> anyhow::Result<Self> {
        let certificate = bundle
            .certificate(variant)?
            .with_context(|| format!("{} lost its certificate", bundle.dir().display()))?;
        Ok(Self {
            calibrator_selection: steps::report::selection(&run.config, variant, &certificate),
            certificate,
        })
    }
}

/// Why a variant has no policy although its model is there.
pub(crate) fn withheld(variant: &str, flips: &FlipBounds) -> String {
    format!(
        "{variant} gets no policy: its class differs from fp32's on {} of {} independent images of val_calib, so possibly on \
         {:.2} %, which is above calibrate.max_flip_bound; make it more exact (export.int8.max_error), or raise the limit",
        flips.labels,
        flips.rows,
        100.0 * flips.labels_bound
    )
}

/// The precision of a variant that can be made.
fn precision(variant: &str) -> anyhow::Result<Option<VariantPrecision>> {
    let known = [VariantPrecision::Fp16, VariantPrecision::Int8];
    let found = known.into_iter().find(|p| p.name() == variant);
    ensure!(
        found.is_some() || variant == FP32,
        "no variant `{variant}`; there are fp32, fp16 and int8"
    );
    Ok(found)
}

fn open(args: &CalibrateArgs, output: Output) -> anyhow::Result<Run> {
    let Some(bundle) = &args.bundle else {
        return Run::open(&args.step, output);
    };
    let mut source = args.step.source.clone();
    source.config = bundle
        .parent()
        .unwrap_or(Path::new("."))
        .join("config.yaml");
    let step = StepArgs {
        source,
        overwrite: args.step.overwrite,
    };
    let run = Run::open(&step, output).with_context(|| {
        format!(
            "{} isn't the bundle of a run: calibrate with the run's configuration, `stage1 calibrate -c FILE`",
            bundle.display()
        )
    })?;
    let own = run.config.bundle_dir().canonicalize().ok();
    ensure!(
        own.is_some() && own == bundle.canonicalize().ok(),
        "{} describes the run in {}, not the one of this bundle: start in the folder that `stage1 run` was started in",
        step.source.config.display(),
        run.config.run_dir.display()
    );
    Ok(run)
}
