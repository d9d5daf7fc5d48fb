//! `stage1 calibrate --logits`: certify on logits that somebody else's model made.

pub(crate) mod division;
pub(crate) mod record;
mod summary;

use super::{
    used_rows::{self, UsedRows},
    validate_logits::VALIDATION,
};
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
    certificate::{AnyPlan, AnyRefusal, Certificate, Guarantee},
    config::{CalibrateConfig, Config, VERSION},
    logits::LogitSet,
};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};
use summary::{Finding, Summary};

const PLAN: &str = "plan.json";
const POLICY: &str = "policy.json";
const CERTIFICATE: &str = "certificate.json";
const NOT_CERTIFIED: &str = "not-certified.json";
/// What goes when something else is found, in this order: a policy without its certificate is worth nothing.
const LEFT_BY_EARLIER: [&str; 5] = [
    CERTIFICATE,
    POLICY,
    used_rows::FILE,
    NOT_CERTIFIED,
    VALIDATION,
];

/// Writes `plan.json` and, if a threshold was certified, `policy.json` and `certificate.json`, else
/// `not-certified.json`, into `--out` (`<file>-policy` beside the file if not given). Each further session of `--joint` has
/// its policy and certificate in a folder of its name there.
///
/// The order is that of a run: the plan is made from the selecting rows alone, recorded in the ledger beside the file
/// and written, before the certifying rows are looked at. What an earlier calibration left goes when there is something in
/// its place.
pub(crate) fn run(args: &CalibrateArgs, output: &Output) -> anyhow::Result<Answer> {
    let logits = args.logits.as_deref().context("--logits names no file")?;
    let out = args.out.clone().unwrap_or_else(|| beside(logits));
    check_free(&out, args.step.overwrite)?;
    for other in &args.joint {
        check_free(&out.join(stem(other)), args.step.overwrite)?;
    }
    let settings = settings(args)?;
    let names = names(logits, &args.joint)?;
    let division = Division::read(logits, args.select.as_deref(), args.seed, *output)?;
    let sessions: Vec<LogitSet> = args
        .joint
        .iter()
        .map(|path| division.through(path, *output))
        .collect::<anyhow::Result<_>>()?;
    let used = UsedRows::of(&division.select, &division.calib, &sessions);
    check_choice(settings.calibrator, division.calib.classes).context("calibrate.calibrator")?;
    check_score(settings.score, division.calib.classes).context("calibrate.score")?;
    division.tell_of_equal_rows(*output);
    let select = SelectRows::new(&division.select, args.seed)?;
    let shape = shape(&division.calib);
    let plan = |attempt| promise::plan(&select, shape, &settings, attempt, None);
    let mut record = Record::open(logits, &args.joint, &division, &sessions, *output)?;
    let is_of_these = |earlier: &Certificate| {
        let known = earlier.used_rows.map(|digest| UsedRows::open(&out, digest));
        known.is_some_and(|known| known.is_ok_and(|known| known.overlaps(&used)))
    };
    if let Ok((earlier, _)) = json::load::<Certificate>(&out.join(CERTIFICATE))
        && (args.out.is_none() || is_of_these(&earlier))
    {
        record.check(&earlier);
    }
    let attempt = record.begin(shape, &settings, &plan)?;
    let plan = plan(attempt)?;
    json::save(&plan, &out.join(PLAN))?;
    let used_digest = used.digest();
    let rows = std::iter::once(&division.calib).chain(&sessions);
    let rows: Vec<CalibRows> = rows
        .map(|set| CalibRows::new(set, args.seed))
        .collect::<Result<_, _>>()?;
    let fits = match &rows[..] {
        [calib] => vec![promise::fit(&plan, None, &[calib], settings.calibrator)?],
        several => promise::fit_each(
            &plan,
            &several.iter().collect::<Vec<_>>(),
            settings.calibrator,
        )?,
    };
    let mut findings = Vec::new();
    for fit in fits {
        findings.push(match fit {
            Fit::Certified {
                policy,
                proof,
                selection,
            } => {
                if findings.is_empty() {
                    let digest = Digest::of_bytes(&json::to_bytes(&policy));
                    record.conclude(attempt, Some(digest))?;
                }
                let mut circumstances = Circumstances::new(record.state_at(attempt), None);
                circumstances.jointly.clone_from(&names);
                circumstances.used_rows = Some(used_digest);
                Finding::Certified {
                    certificate: certificate(&plan, &policy, &proof, circumstances)?,
                    policy,
                    calibrator_selection: selection,
                }
            }
            Fit::NotCertified(mut refusal) => {
                record.conclude(attempt, None)?;
                if let AnyRefusal::Pac(refusal) = &mut refusal {
                    refusal.jointly.clone_from(&names);
                }
                Finding::NotCertified(refusal)
            }
        });
    }
    save(&out, &args.joint, &findings, &used)?;
    let also = findings.split_off(1).into_iter();
    let also = args.joint.iter().cloned().zip(also).collect();
    let first = findings.remove(0);
    answer(&out, &plan, &division, first, also, *output)
}

/// Replaces what an earlier calibration left.
fn save(
    out: &Path,
    others: &[PathBuf],
    findings: &[Finding],
    used: &UsedRows,
) -> anyhow::Result<()> {
    clear(out)?;
    let folders =
        std::iter::once(out.to_owned()).chain(others.iter().map(|path| out.join(stem(path))));
    for (folder, finding) in folders.zip(findings) {
        match finding {
            Finding::Certified {
                policy,
                certificate,
                ..
            } => {
                used.save(&folder)?;
                json::save(policy, &folder.join(POLICY))?;
                json::save(certificate, &folder.join(CERTIFICATE))?;
            }
            // All sessions have the same answer.
            Finding::NotCertified(refusal) => {
                json::save(refusal, &out.join(NOT_CERTIFIED))?;
                break;
            }
        }
    }
    Ok(())
}

/// What the sessions are called in certificates; nothing of one alone.
fn names(logits: &Path, joint: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    if joint.is_empty() {
        return Ok(Vec::new());
    }
    let files = || std::iter::once(logits).chain(joint.iter().map(PathBuf::as_path));
    let real: BTreeSet<_> = files()
        .filter_map(|file| file.canonicalize().ok())
        .collect();
    ensure!(
        real.len() == files().count(),
        "--joint: a file is named twice, or isn't there; each session has its own file"
    );
    let stems: BTreeSet<_> = files().map(stem).collect();
    ensure!(
        stems.len() == files().count(),
        "--joint: two of the files have the same name; each session's policy is kept in a folder called as its file"
    );
    Ok(files().map(|file| file.display().to_string()).collect())
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn answer(
    out: &Path,
    plan: &AnyPlan,
    division: &Division,
    finding: Finding,
    also: Vec<(PathBuf, Finding)>,
    output: Output,
) -> anyhow::Result<Answer> {
    let is_certified = matches!(finding, Finding::Certified { .. });
    let summary = Summary::new(out, plan, division, finding, also)?;
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
    let flags = [
        ("--alpha", "calibrate.alpha", args.alpha),
        ("--delta", "calibrate.delta", args.delta),
    ];
    let constraints = overrides
        .iter()
        .find(|text| key_of(text).starts_with("calibrate.constraints"));
    if let (Some(alpha), Some(text)) = (args.alpha, constraints) {
        bail!(
            "--alpha {alpha} and --set {text} both say what is promised: `calibrate.constraints` has an alpha of its own"
        );
    }
    let overrides = with_flags(overrides, &flags)?;
    let nothing =
        serde_json::json!({"version": VERSION, "data": {"source": ""}, "backbone": {"path": ""}});
    let settings = Config::from_document(nothing, "--logits", &overrides)?.calibrate;
    if let Some((key, expected, got)) = settings.contradiction() {
        bail!("at `{key}`: expected {expected}, got {got}");
    }
    ensure!(
        settings.guarantee == Guarantee::Pac || args.joint.is_empty(),
        "--joint certifies sessions together for `calibrate.guarantee: pac`; with `expectation` calibrate each by itself"
    );
    Ok(settings)
}

/// Flags that stand for a key, which `--set` may not name, too: one of the two values would be ignored.
pub(crate) fn with_flags(
    overrides: &[String],
    flags: &[(&str, &str, Option<f64>)],
) -> anyhow::Result<Vec<String>> {
    let mut all = overrides.to_vec();
    for (flag, key, value) in flags {
        let Some(value) = value else { continue };
        ensure!(
            value.is_finite(),
            "{flag} is {value}: a number between 0 and 1 is needed"
        );
        let is_set = overrides.iter().any(|text| key_of(text) == *key);
        ensure!(
            !is_set,
            "{flag} and --set {key}=… say the same thing: give one of them"
        );
        all.push(format!("{key}={value}"));
    }
    Ok(all)
}

/// The key that an override sets.
fn key_of(text: &str) -> &str {
    text.split_once('=').map_or(text, |(key, _)| key).trim()
}

fn beside(logits: &Path) -> PathBuf {
    logits.with_file_name(format!("{}-policy", stem(logits)))
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

/// An older policy must not stay beside the news that nothing could be certified, nor a verdict on it (the ledger of val_test
/// keeps that). Folders of other sessions that were certified together go as a whole with theirs.
fn clear(out: &Path) -> anyhow::Result<()> {
    let mut folders = vec![out.to_owned()];
    if let Ok((earlier, _)) = json::load::<Certificate>(&out.join(CERTIFICATE)) {
        let others = earlier.jointly.iter().skip(1);
        folders.extend(others.map(|name| out.join(stem(Path::new(name)))));
    }
    for path in folders
        .iter()
        .flat_map(|folder| LEFT_BY_EARLIER.map(|name| folder.join(name)))
    {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
