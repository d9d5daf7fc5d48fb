use super::{calibrate_logits, export::parity_failed};
use crate::{
    args::{CalibrateArgs, StepArgs},
    output::{Answer, Output},
    steps::{
        self, Run,
        calibrate::{Outcome, joint},
        export,
    },
};
use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::json;
use stage1_calibration::{calibrate::Selection, flips::Flips};
use stage1_core::{
    bundle::{Bundle, FP32},
    certificate::{AnyRefusal, Certificate},
    config::VariantPrecision,
};
use std::{collections::BTreeMap, path::Path};

pub(crate) fn run(args: &CalibrateArgs, output: &Output) -> anyhow::Result<Answer> {
    if args.logits.is_some() {
        return calibrate_logits::run(args, output);
    }
    let run = open(args, *output)?;
    let variants = variants(args);
    let together = !args.joint.is_empty();
    if together {
        joint::check(&run.config, &variants)?;
    }
    let precisions = precisions(&variants)?;
    steps::train::find_trainer()?;
    let splits = steps::split::ensure(&run)?;
    let checkpoint = steps::train::ensure(&run)?;
    let bundle = match export::ensure_with(&run, &splits, &checkpoint, &precisions)? {
        export::Outcome::Exported(bundle) => bundle,
        export::Outcome::ParityFailed { variant, parity } => {
            return parity_failed(variant, &parity, output);
        }
    };
    let outcome = match together {
        true => joint::ensure(&run, &splits, &bundle, &variants)?,
        false => steps::calibrate::ensure(&run, &splits, *bundle, &args.variant)?,
    };
    run.record()?;
    answer(&run, &variants, &outcome, output)
}

/// Those that are certified together, or the one. Their order says nothing: fp32, on whose logits plans are made elsewhere,
/// is the first if it is among them.
fn variants(args: &CalibrateArgs) -> Vec<String> {
    let joint = args.joint.iter();
    let mut joint: Vec<String> = joint.map(|name| name.display().to_string()).collect();
    joint.sort_by_key(|name| (name != FP32, name.clone()));
    match joint.is_empty() {
        true => vec![args.variant.clone()],
        false => joint,
    }
}

fn answer(
    run: &Run,
    variants: &[String],
    outcome: &Outcome,
    output: &Output,
) -> anyhow::Result<Answer> {
    let text = || -> anyhow::Result<String> {
        let texts = variants
            .iter()
            .map(|variant| Ok(steps::report::read(&run.config, variant)?.text()));
        Ok(texts.collect::<anyhow::Result<Vec<_>>>()?.join("\n"))
    };
    match outcome {
        Outcome::Certified(bundle) => {
            let certified = |variant: &String| Certified::read(run, bundle, variant);
            match variants {
                [variant] => output.answer(&certified(variant)?, &text()?)?,
                together => {
                    let each = together.iter().map(|v| Ok((v.clone(), certified(v)?)));
                    let each: BTreeMap<_, _> = each.collect::<anyhow::Result<_>>()?;
                    output.answer(&json!({ "jointly": each }), &text()?)?;
                }
            }
            Ok(Answer::Yes)
        }
        Outcome::NotCertified(refusal) => {
            match variants {
                [_] => output.answer(refusal, &text()?)?,
                together => {
                    let each: BTreeMap<_, _> = together.iter().map(|v| (v, refusal)).collect();
                    output.answer(&json!({ "jointly": each }), &text()?)?;
                }
            }
            Ok(Answer::No)
        }
        Outcome::Session(certificate) => {
            output.answer(certificate, &of_session(certificate))?;
            Ok(Answer::Yes)
        }
        Outcome::NotThisSession(refusal) => {
            let text = format!(
                "not certified through this session: the policy's threshold isn't among those that hold there ({}); the policy, and \
                 its certificates of other sessions, stay",
                reason(refusal)
            );
            output.answer(refusal, &text)?;
            Ok(Answer::No)
        }
        Outcome::Withheld { variant, flips } => {
            let document = json!({
                "variant": variant,
                "withheld": true,
                "flips": {"rows": flips.rows, "labels": flips.flips, "labels_bound": flips.upper_bound},
            });
            output.answer(&document, &withheld(variant, flips))?;
            Ok(Answer::No)
        }
    }
}

fn of_session(certificate: &Certificate) -> String {
    let session = certificate
        .fingerprint
        .as_ref()
        .map_or_else(String::new, |session| {
            format!(
                " through {} ({}, {})",
                session.provider, session.provider_version, session.cpu_isa
            )
        });
    format!(
        "certified{session}, at the threshold that the policy has: {} errors in {} answers on val_calib\n{}",
        certificate.errors, certificate.answered, certificate.statement
    )
}

fn reason(refusal: &AnyRefusal) -> String {
    match refusal {
        AnyRefusal::Pac(refusal) => format!(
            "came closest: {} errors of {} answered",
            refusal.best.errors, refusal.best.answered
        ),
        AnyRefusal::Expectation(refusal) => format!(
            "{} errors of {} answered, {} selected",
            refusal.errors, refusal.answered, refusal.selected
        ),
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
pub(crate) fn withheld(variant: &str, flips: &Flips) -> String {
    format!(
        "{variant} gets no policy: its class differs from fp32's on {} of {} independent images of val_calib, so possibly on \
         {:.2} %, which is above calibrate.max_flip_bound; make it more exact (export.int8.max_error), or raise the limit",
        flips.flips,
        flips.rows,
        100.0 * flips.upper_bound
    )
}

/// The precisions that the bundle must have: fp32 it always has.
fn precisions(variants: &[String]) -> anyhow::Result<Vec<VariantPrecision>> {
    let known = [VariantPrecision::Fp16, VariantPrecision::Int8];
    let further = variants.iter().filter(|variant| *variant != FP32);
    further
        .map(|variant| {
            let found = known.into_iter().find(|p| p.name() == variant);
            found.with_context(|| format!("no variant `{variant}`; there are fp32, fp16 and int8"))
        })
        .collect()
}

fn open(args: &CalibrateArgs, output: Output) -> anyhow::Result<Run> {
    let mut source = args.step.source.clone();
    if let Some(devices) = &args.device {
        source.overrides.push(format!("deploy.device=[{devices}]"));
    }
    let Some(bundle) = &args.bundle else {
        let step = StepArgs {
            source,
            overwrite: args.step.overwrite,
        };
        return Run::open(&step, output);
    };
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
