//! `stage1 calibrate --logits`: certify on logits that somebody else's model made.

pub(crate) mod division;
mod record;
mod summary;

use crate::{
    args::CalibrateArgs,
    output::{Answer, Output},
};
use anyhow::{Context, bail, ensure};
use division::Division;
use record::Record;
use stage1_calibration::{
    calibrate::check_choice,
    fit::Circumstances,
    plan::check_score,
    promise::{self, Fit, certificate},
    rows::{CalibRows, SelectRows, shape},
};
use stage1_core::{
    artifact::{Digest, json},
    certificate::{AnyPlan, Guarantee},
    config::{CalibrateConfig, Config, VERSION},
    logits::LogitSet,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use summary::{Finding, Summary};

const PLAN: &str = "plan.json";
const POLICY: &str = "policy.json";
const CERTIFICATE: &str = "certificate.json";
const NOT_CERTIFIED: &str = "not-certified.json";

/// Writes `plan.json` and, if a threshold was certified, `policy.json` and `certificate.json`, else
/// `not-certified.json`, into `--out` (`<file>-policy` beside the file if not given).
///
/// The order is that of a run: the plan is made from the selecting rows alone, recorded in the ledger beside the file
/// and written, before the certifying rows are looked at.
pub(crate) fn run(args: &CalibrateArgs, output: &Output) -> anyhow::Result<Answer> {
    let logits = args.logits.as_deref().context("--logits names no file")?;
    let out = args.out.clone().unwrap_or_else(|| beside(logits));
    check_free(&out, args.step.overwrite)?;
    let settings = settings(args)?;
    let division = Division::read(logits, args.select.as_deref(), args.seed, *output)?;
    let sessions: Vec<LogitSet> = args
        .joint
        .iter()
        .map(|path| division.through(path, *output))
        .collect::<anyhow::Result<_>>()?;
    check_choice(settings.calibrator, division.calib.classes).context("calibrate.calibrator")?;
    check_score(settings.score, division.calib.classes).context("calibrate.score")?;
    let select = SelectRows::new(&division.select, args.seed)?;
    let shape = shape(&division.calib);
    let plan = |attempt| promise::plan(&select, shape, &settings, attempt, None);
    let mut record = Record::open(logits, &division, &sessions, *output)?;
    let attempt = record.begin(shape, &settings, &plan)?;
    let plan = plan(attempt)?;
    clear(&out)?;
    json::save(&plan, &out.join(PLAN))?;
    let calib = CalibRows::new(&division.calib, args.seed)?;
    let others: Vec<CalibRows> = sessions
        .iter()
        .map(|set| CalibRows::new(set, args.seed))
        .collect::<Result<_, _>>()?;
    let all: Vec<&CalibRows> = std::iter::once(&calib).chain(&others).collect();
    let finding = match promise::fit(&plan, None, &all, settings.calibrator)? {
        Fit::Certified {
            policy,
            proof,
            selection,
        } => {
            let digest = Digest::of_bytes(&json::to_bytes(&policy));
            record.conclude(attempt, Some(digest))?;
            let mut circumstances = Circumstances::new(record.state(), None);
            if !args.joint.is_empty() {
                let files = std::iter::once(logits).chain(args.joint.iter().map(PathBuf::as_path));
                circumstances.jointly = files.map(|file| file.display().to_string()).collect();
            }
            let certificate = certificate(&plan, &policy, &proof, circumstances)?;
            json::save(&policy, &out.join(POLICY))?;
            json::save(&certificate, &out.join(CERTIFICATE))?;
            Finding::Certified {
                policy,
                certificate,
                calibrator_selection: selection,
            }
        }
        Fit::NotCertified(not_certified) => {
            record.conclude(attempt, None)?;
            json::save(&not_certified, &out.join(NOT_CERTIFIED))?;
            Finding::NotCertified(not_certified)
        }
    };
    answer(&out, &plan, &division, finding, *output)
}

fn answer(
    out: &Path,
    plan: &AnyPlan,
    division: &Division,
    finding: Finding,
    output: Output,
) -> anyhow::Result<Answer> {
    let is_certified = matches!(finding, Finding::Certified { .. });
    let summary = Summary::new(out, plan, division, finding)?;
    output.answer(&summary, &summary.text())?;
    Ok(if is_certified {
        Answer::Yes
    } else {
        Answer::No
    })
}

/// What is asked for: `--alpha`, `--delta`, and what `--set` says of `calibrate`.
fn settings(args: &CalibrateArgs) -> anyhow::Result<CalibrateConfig> {
    let overrides = &args.step.source.overrides;
    if let Some(other) = overrides
        .iter()
        .find(|text| !text.starts_with("calibrate."))
    {
        bail!(
            "--set {other}: with --logits only keys of `calibrate` mean something, e.g. `calibrate.score=margin`"
        );
    }
    let nothing =
        serde_json::json!({"version": VERSION, "data": {"source": ""}, "backbone": {"path": ""}});
    let mut settings = Config::from_document(nothing, "--logits", overrides)?.calibrate;
    let is_set = |key: &str| overrides.iter().any(|text| text.starts_with(key));
    if !is_set("calibrate.alpha=") {
        settings.alpha = args.alpha;
    }
    if !is_set("calibrate.delta=") {
        settings.delta = args.delta;
    }
    if let Some((key, expected, got)) = settings.contradiction() {
        bail!("at `{key}`: expected {expected}, got {got}");
    }
    ensure!(
        settings.guarantee == Guarantee::Pac || args.joint.is_empty(),
        "--joint certifies sessions together for `calibrate.guarantee: pac`; with `expectation` calibrate each by itself"
    );
    Ok(settings)
}

fn beside(logits: &Path) -> PathBuf {
    let stem = logits.file_stem().unwrap_or_default().to_string_lossy();
    logits.with_file_name(format!("{stem}-policy"))
}

/// Before the ledger records anything.
fn check_free(out: &Path, overwrite: bool) -> anyhow::Result<()> {
    let mut files = [PLAN, POLICY, CERTIFICATE, NOT_CERTIFIED]
        .into_iter()
        .map(|name| out.join(name));
    match files.find(|file| file.exists()) {
        Some(file) if !overwrite => {
            bail!(
                "{} exists; choose another folder with --out, or replace it with --overwrite",
                file.display()
            )
        }
        _ => Ok(()),
    }
}

/// An older policy must not stay beside the news that nothing could be certified. The certificate goes first: a policy
/// without one is worth nothing.
fn clear(out: &Path) -> anyhow::Result<()> {
    for name in [CERTIFICATE, POLICY, NOT_CERTIFIED, PLAN] {
        let path = out.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
