//! `stage1 validate --logits`: judge a certified policy on logits that somebody else's model made.

use super::{
    calibrate_logits::{
        division::{contents_of, read, rows_of},
        record::ledger_of,
        with_flags,
    },
    used_rows::UsedRows,
};
use crate::{
    args::ValidateArgs,
    output::{Answer, Output},
    steps,
};
use anyhow::{Context, bail, ensure};
use stage1_calibration::{
    promise::{Judgement, judge},
    rows::TestRows,
    verdict::Opening,
};
use stage1_core::{
    artifact::{Digest, Hasher, json},
    certificate::{Certificate, UnitRule},
    config::{Config, VERSION},
    ledger::Kind,
    logits::LogitSet,
    policy::{Policy, Score},
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

const POLICY: &str = "policy.json";
const CERTIFICATE: &str = "certificate.json";
pub(super) const VALIDATION: &str = "validation.json";
const TEST: &str = "val_test";

/// Writes `validation.json` into `--out` (the policy's folder if not given).
///
/// The opening is recorded in the ledger beside the file before its labels are looked at. The ledger goes by the file's
/// name, whatever the file holds: neither a new output folder nor more rows make a first opening of a later one.
pub(crate) fn run(args: &ValidateArgs, output: &Output) -> anyhow::Result<Answer> {
    let logits = args.logits.as_deref().context("--logits names no file")?;
    let folder = policy_folder(args.policy.as_deref().context("--policy names no policy")?);
    let subject = Subject::open(&folder)?;
    let gamma = gamma(args)?;
    steps::validate::check_gamma(&subject.certificate, gamma)?;
    super::validate::check_required(&subject.certificate, args.require_held)?;
    let test = test_rows(logits, *output)?;
    let rows = TestRows::new(&test, args.seed)?;
    let path = args.out.as_ref().unwrap_or(&folder).join(VALIDATION);
    let digest = subject.on(&test, args.seed);
    let before = before(&path, digest, gamma, args.step.overwrite)?;
    subject.check(&test, *output)?;
    let mut ledger = ledger_of(logits, Kind::Test)?;
    if let Some(state) = before.as_ref().and_then(Judgement::test_ledger) {
        ledger.check(state);
    }
    let begun = ledger.begin_opening(digest, gamma)?;
    if begun.repeated {
        output.note(&format!(
            "the same as opening {}, which the ledger has",
            begun.number
        ));
    } else if begun.number > 1 {
        output.warn(&format!(
            "opening {} of the rows of this file ({}): the level holds for the first; this verdict is exploratory",
            begun.number,
            ledger.path().display()
        ));
    }
    let opening = Opening {
        subject_digest: digest,
        number: begun.number,
        ledger: Some(ledger.state()),
    };
    let Subject {
        policy,
        certificate,
        ..
    } = &subject;
    let validation = judge(policy, certificate, &rows, gamma, opening)?;
    steps::validate::conclude(&mut ledger, &validation)?;
    json::save(&validation, &path)?;
    output.answer(
        &validation,
        &steps::report::verdict_text(certificate, &validation),
    )?;
    Ok(super::validate::answer(&validation, args.require_held))
}

/// `--policy` is a policy, or the folder that holds it.
fn policy_folder(path: &Path) -> PathBuf {
    match path.is_dir() {
        true => path.to_owned(),
        false => path.parent().map(Path::to_owned).unwrap_or_default(),
    }
}

/// What was promised, and of which policy.
struct Subject {
    policy: Policy,
    certificate: Certificate,
    used: UsedRows,
}

impl Subject {
    fn open(folder: &Path) -> anyhow::Result<Self> {
        let (policy, _) = json::load::<Policy>(&folder.join(POLICY))
            .context("`stage1 calibrate --logits` makes a policy and its certificate")?;
        let (certificate, _) = json::load::<Certificate>(&folder.join(CERTIFICATE))
            .context("without a certificate nothing was promised that rows could hold or refute")?;
        ensure!(
            certificate.policy_digest == Digest::of_bytes(&json::to_bytes(&policy)),
            "{}: the certificate is another policy's (digest {}); both files come from one calibration",
            folder.display(),
            certificate.policy_digest.short()
        );
        ensure!(
            certificate.fingerprint.is_none(),
            "{}: the certificate is that of a bundle's session, and a file doesn't show which session made it; \
             `stage1 validate` without --logits opens val_test through that session",
            folder.display()
        );
        let digest = certificate.used_rows.context(
            "certificate.json doesn't say which rows chose and certified the policy (`used_rows`), so that they could judge it, too; \
             `stage1 calibrate --logits` writes it",
        )?;
        let used = UsedRows::open(folder, digest)?;
        Ok(Self {
            policy,
            certificate,
            used,
        })
    }

    fn check(&self, test: &LogitSet, output: Output) -> anyhow::Result<()> {
        ensure!(
            test.classes == self.policy.classes,
            "val_test has logits of {} classes, the policy decides among {}",
            test.classes,
            self.policy.classes
        );
        let is_grouped = self.certificate.calib.rule != UnitRule::Rows;
        ensure!(
            !is_grouped || test.units.is_some(),
            "the certificate is about groups of rows ({} groups with {} rows certified), and val_test has no `group` column: rows of \
             a group aren't independent, so that a verdict on single rows would claim too much",
            self.certificate.calib.units,
            self.certificate.calib.rows
        );
        self.used.check_other(test, output)?;
        ensure!(
            self.policy.score != Score::Gate || test.gate.is_some(),
            "the policy compares the output of a learned gate, and val_test has no `gate`"
        );
        Ok(())
    }

    /// Other rows, like another policy, are another opening; so is another seed, which keeps other rows of the units.
    fn on(&self, test: &LogitSet, seed: u64) -> Digest {
        let mut hasher = Hasher::new();
        hasher
            .field(b"validate")
            .field(&json::to_bytes(&self.certificate))
            .field(contents_of(test).as_bytes())
            .field(&seed.to_be_bytes());
        hasher.finish()
    }
}

/// A verdict that was written before: about the very same it is written again, else it is replaced only if that was said.
fn before(
    path: &Path,
    subject: Digest,
    gamma: f64,
    overwrite: bool,
) -> anyhow::Result<Option<Judgement>> {
    if !path.exists() {
        return Ok(None);
    }
    let known = json::load::<Judgement>(path)
        .ok()
        .map(|(judgement, _)| judgement);
    let is_same =
        |v: &Judgement| v.subject_digest() == subject && v.gamma().to_bits() == gamma.to_bits();
    match known {
        Some(known) if is_same(&known) => Ok(Some(known)),
        // Of another policy, or of other rows: their ledger may be another one.
        _ if overwrite => Ok(None),
        _ => bail!(
            "{} exists, with a verdict on other rows, another policy, by another seed or at another level; choose another folder with --out, \
             or replace it with --overwrite",
            path.display()
        ),
    }
}

/// The rows of val_test, or all rows if the file doesn't name splits.
fn test_rows(logits: &Path, output: Output) -> anyhow::Result<LogitSet> {
    let set = read(logits, output)?;
    match &set.split {
        Some(splits) => check_apart(&set, splits)?,
        None => {
            let attempts = ledger_of(logits, Kind::Calib)?;
            ensure!(
                attempts.attempts().next().is_none(),
                "{}: rows of this file certified a policy ({}), and it has no `split` column that would show others: \
                 val_test must be rows that nothing was chosen or certified on",
                logits.display(),
                attempts.path().display()
            );
        }
    }
    rows_of(logits, &set, TEST)
}

/// A group that trained, selected or certified can't judge; that no row does, unique ids and one split per row show.
fn check_apart(set: &LogitSet, splits: &[String]) -> anyhow::Result<()> {
    let (test, others): (Vec<usize>, Vec<usize>) = (0..set.n()).partition(|i| splits[*i] == TEST);
    let Some(units) = &set.units else {
        return Ok(());
    };
    let used: BTreeSet<_> = others.iter().map(|i| units[*i]).collect();
    if let Some(i) = test.iter().find(|i| used.contains(&units[**i])) {
        bail!(
            "row {i}: its group is both in val_test and in another split: a group goes to one of them as a whole"
        );
    }
    Ok(())
}

/// `--gamma`, or what `--set validate.gamma` says; checked before the ledger records anything.
fn gamma(args: &ValidateArgs) -> anyhow::Result<f64> {
    let overrides = &args.step.source.overrides;
    if let Some(other) = overrides.iter().find(|text| !text.starts_with("validate.")) {
        bail!(
            "--set {other}: with --logits only keys of `validate` mean something, e.g. `validate.gamma=0.01`"
        );
    }
    let nothing =
        serde_json::json!({"version": VERSION, "data": {"source": ""}, "backbone": {"path": ""}});
    let overrides = with_flags(overrides, &[("--gamma", "validate.gamma", args.gamma)])?;
    let config = Config::from_document(nothing, "--logits", &overrides)?;
    Ok(config.validate.gamma)
}
