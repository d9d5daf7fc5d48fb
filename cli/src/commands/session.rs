//! Opens a bundle as the command line says.

use crate::{
    args::{Device, SessionArgs},
    output::Output,
};
use anyhow::bail;
use stage1_runtime::{Predictor, PredictorOptions, Standing};
use std::path::Path;

/// Opens `variant` of the bundle; tells when it answers without being certified, and why.
pub(crate) fn open(
    bundle: &Path,
    variant: &str,
    args: &SessionArgs,
    allow_uncertified: bool,
    output: Output,
) -> anyhow::Result<Predictor> {
    for (flag, value) in [("--threads", args.threads), ("--batch", Some(args.batch))] {
        if value == Some(0) {
            bail!("{flag} is 0, a whole number ≥ 1 is needed");
        }
    }
    let options = PredictorOptions {
        variant: Some(variant.to_owned()),
        device: match args.device {
            Device::Cpu => stage1_runtime::Device::Cpu,
        },
        threads: args.threads.unwrap_or(0),
        batch: args.batch,
        allow_uncertified,
        ..PredictorOptions::default()
    };
    let predictor = Predictor::open(bundle, &options)?;
    if let Standing::Uncertified { differences } = predictor.standing() {
        output.warn("the certificate doesn't cover this session:");
        differences
            .iter()
            .for_each(|difference| output.note(&format!("  {difference}")));
    }
    Ok(predictor)
}
