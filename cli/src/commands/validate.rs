use super::validate_logits;
use crate::{
    args::ValidateArgs,
    output::{Answer, Output},
    steps::{self, Run},
};
use anyhow::{Context, ensure};
use stage1_calibration::{promise::Judgement, verdict::Verdict};
use stage1_core::{
    artifact::json,
    bundle::Bundle,
    certificate::{Certificate, Guarantee},
};

pub(crate) fn run(args: &ValidateArgs, output: &Output) -> anyhow::Result<Answer> {
    if args.logits.is_some() {
        return validate_logits::run(args, output);
    }
    let run = Run::open(&args.step, *output)?;
    let splits = steps::split::ensure(&run)?;
    let bundle = Bundle::open(&run.config.bundle_dir()).context("`stage1 run` makes the bundle")?;
    if let Some(certificate) = bundle.certificate(&args.variant)? {
        check_required(&certificate, args.require_held)?;
    }
    let validation = steps::validate::ensure(&run, &splits, &bundle, &args.variant)?;
    run.record()?;
    let of_first = steps::validate::path(&run.config, &args.variant);
    let is_first = json::load::<Judgement>(&of_first).is_ok_and(|(first, _)| first == validation);
    let text = match is_first {
        true => steps::report::read(&run.config, &args.variant)?.text(),
        // The report is about the session that the policy was calibrated through.
        false => {
            let here = steps::validate::certificate_here(&run, &bundle, &args.variant)?;
            steps::report::verdict_text(&here, &validation)
        }
    };
    output.answer(&validation, &text)?;
    Ok(answer(&validation, args.require_held))
}

/// What has no verdict can't be required to be HELD.
pub(super) fn check_required(certificate: &Certificate, require_held: bool) -> anyhow::Result<()> {
    ensure!(
        certificate.guarantee == Guarantee::Pac || !require_held,
        "--require-held: the certificate promises an expectation, of which val_test gives an estimate and no verdict; only \
         `calibrate.guarantee: pac` can be HELD"
    );
    Ok(())
}

/// No on REFUTED; on INCONCLUSIVE if HELD is required. An estimate refutes nothing.
pub(super) fn answer(judgement: &Judgement, require_held: bool) -> Answer {
    match judgement.verdict() {
        Some(Verdict::Held) | None => Answer::Yes,
        Some(Verdict::Inconclusive) if !require_held => Answer::Yes,
        Some(_) => Answer::No,
    }
}
