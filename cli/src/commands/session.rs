//! Opens a bundle as the command line says.

use crate::{args::SessionArgs, output::Output};
use anyhow::bail;
use stage1_core::preprocess::Limits;
use stage1_runtime::{Climb, Ladder, Predictor, PredictorOptions, Standing};
use std::path::Path;

/// A slip of the finger must not start a hundred thousand threads.
const MAX_THREADS: usize = stage1_core::config::MAX_THREADS;

/// Fails for numbers of threads and images that mean nothing, and for options that no provider has.
pub(crate) fn check(args: &SessionArgs) -> anyhow::Result<()> {
    args.devices.providers()?;
    if args.threads > Some(MAX_THREADS) {
        bail!("--threads is above {MAX_THREADS}; more than one per core makes nothing faster");
    }
    for (flag, value) in [("--threads", args.threads), ("--batch", Some(args.batch))] {
        if value == Some(0) {
            bail!("{flag} is 0, a whole number ≥ 1 is needed");
        }
    }
    Ok(())
}

/// Opens `variant` of the bundle; tells when it answers without being certified, and why.
pub(crate) fn open(
    bundle: &Path,
    variant: Option<&str>,
    args: &SessionArgs,
    allow_uncertified: bool,
    output: Output,
) -> anyhow::Result<Predictor> {
    check(args)?;
    let options = PredictorOptions {
        variant: variant.map(str::to_owned),
        devices: args.devices.device.clone(),
        providers: args.devices.providers()?,
        threads: args.threads.unwrap_or(0),
        sessions: 1,
        batch: args.batch,
        allow_uncertified,
        limits: Limits {
            max_pixels: args.max_pixels,
            ..Limits::default()
        },
    };
    let predictor = Predictor::open(bundle, &options)?;
    tell(&args.devices.device, predictor.scorer().climb(), output);
    if let Standing::Uncertified { differences } = predictor.standing() {
        let told: Vec<_> = differences.iter().map(ToString::to_string).collect();
        output.warn(&format!(
            "the certificate doesn't cover this session, no answer is certified: {}",
            told.join("; ")
        ));
    }
    Ok(predictor)
}

/// Says which device of several runs; those that failed before it were told as they failed. With `--json` as a document on a
/// line of its own, so that programs needn't read prose.
pub(crate) fn tell(asked: &Ladder, climb: &Climb, output: Output) {
    if asked.devices().len() == 1 {
        return;
    }
    if output.is_json() {
        output.note(&serde_json::json!({ "device": climb }).to_string());
    } else {
        output.note(&format!(
            "device {}, the first of {asked} that works",
            climb.device
        ));
    }
}
