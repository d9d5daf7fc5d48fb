//! What a run has found, read from its artifacts: nothing here is computed from images, nothing is made up.

use super::{
    latency::Latency,
    ledger_of, scoring,
    selection::{self, CalibratorRecord},
};
use crate::output::{self, p_equals};
use anyhow::Context;
use serde::Serialize;
use stage1_calibration::{
    calibrate::Selection,
    crc::Estimate,
    metrics::{self, Metric, Predictions},
    promise::Judgement,
    verdict::{Check, Observed, Validation, Verdict},
};
use stage1_core::{
    artifact::{Digest, Document, json},
    bundle::{Bundle, FP32},
    certificate::{
        AnyRefusal, Certificate, Claim, Constraint, ExpectedRisk, FlipBounds, NotCertified,
        NotCertifiedReason, NotControlled, TestKind, UnitRule,
    },
    checkpoint::Checkpoint,
    config::Config,
    depth::DepthChoice,
    gate::GateDecision,
    ledger::{Kind, LedgerState},
    split::{Split, SplitManifest},
};
use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

/// The report; also its JSON form.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema_version: u32,
    run_dir: PathBuf,
    labels: Vec<String>,
    images: BTreeMap<Split, u64>,
    splits_digest: Digest,
    bundle: PathBuf,
    bundle_digest: Digest,
    /// The variant that the rest is about.
    variant: String,
    /// All variants of the bundle.
    variants: Vec<VariantSummary>,
    /// How `backbone.blocks: auto` has chosen.
    depth: Option<DepthChoice>,
    /// Whether the gate is deployed, and what it was compared with; none without a gate.
    gate: Option<GateDecision>,
    /// Metrics of answering every image, through the deployed session.
    all_answered: AllAnswered,
    /// Images that can't be decoded and were skipped, of the splits that were scored.
    left_out: BTreeMap<Split, u64>,
    calibration: Calibration,
    /// The certificates of further sessions, at the same threshold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sessions: Vec<Certificate>,
    /// How the family of the reported probability was chosen; none unless by `auto`.
    calibrator_selection: Option<Selection>,
    validation: Option<Judgement>,
    latency: Option<Latency>,
    calib_ledger: LedgerState,
    test_ledger: LedgerState,
    /// The command to try next.
    next: Option<String>,
}

/// A variant in a line.
#[derive(Debug, Serialize)]
struct VariantSummary {
    name: String,
    /// Whether it has a policy.
    certified: bool,
    /// Certified share that is answered, on val_calib.
    coverage: Option<f64>,
    /// Share of val_select's images with another class than fp32; none of fp32.
    select_flip_rate: Option<f64>,
    /// Certified bounds of its flips on val_calib; none of fp32.
    flips: Option<FlipBounds>,
}

#[derive(Debug, Serialize)]
struct AllAnswered {
    split: Split,
    images: usize,
    metrics: metrics::Table,
}

#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Calibration {
    Certified(Box<Certificate>),
    NotCertified(Box<AnyRefusal>),
}

/// Reads the artifacts of the run that `config` describes.
pub(crate) fn read(config: &Config, variant: &str) -> anyhow::Result<Report> {
    let incomplete = || {
        format!(
            "the run in {} isn't complete; `stage1 run` goes on with it",
            config.run_dir.display()
        )
    };
    let (splits, splits_digest) =
        json::load::<SplitManifest>(&config.splits_path()).with_context(incomplete)?;
    let bundle = Bundle::open(&config.bundle_dir()).with_context(incomplete)?;
    super::validate::check_splits(&bundle, splits_digest)?;
    let subject = bundle.variant_digest(variant)?;
    let calibration = calibration(config, &bundle, variant).with_context(|| match variant {
        FP32 => incomplete(),
        _ => format!(
            "variant {variant} isn't calibrated; `stage1 calibrate --variant {variant}` does it"
        ),
    })?;
    let validation = matching(&super::validate::path(config, variant), |v: &Judgement| {
        v.subject_digest() == subject
    });
    let latency = matching(&super::latency::path(config, variant), |l: &Latency| {
        l.subject_digest == subject
    });
    let split = if validation.is_some() {
        Split::ValTest
    } else {
        Split::ValSelect
    };
    let all_answered =
        all_answered(config, splits_digest, &bundle, variant, split).with_context(incomplete)?;
    let left_out = left_out(config, splits_digest, &bundle, variant);
    let certified = matches!(calibration, Calibration::Certified(_));
    let ledger = |kind, recorded: Option<&LedgerState>| -> anyhow::Result<LedgerState> {
        let mut ledger = ledger_of(config, splits_digest, kind)?;
        recorded.into_iter().for_each(|state| ledger.check(state));
        Ok(ledger.state())
    };
    let attempts = match &calibration {
        Calibration::Certified(certificate) => Some(certificate.calib_ledger.clone()),
        Calibration::NotCertified(_) => None,
    };
    let checkpoint = Checkpoint::load(&config.checkpoint_dir()).ok();
    let openings = validation.as_ref().and_then(|v| v.test_ledger().cloned());
    Ok(Report {
        schema_version: 1,
        run_dir: config.run_dir.clone(),
        labels: splits.labels.clone(),
        images: Split::ALL
            .iter()
            .map(|split| (*split, splits.of(*split).count() as u64))
            .collect(),
        splits_digest,
        bundle: config.bundle_dir(),
        bundle_digest: bundle.digest(),
        variant: variant.to_owned(),
        variants: summaries(&bundle)?,
        depth: checkpoint
            .as_ref()
            .and_then(|checkpoint| super::train::depth(config, checkpoint)),
        gate: checkpoint
            .as_ref()
            .and_then(|checkpoint| super::gate::known(config, checkpoint)),
        all_answered,
        left_out,
        sessions: bundle.certificates(variant)?.into_iter().skip(1).collect(),
        calibrator_selection: match &calibration {
            Calibration::Certified(certificate) => selection(config, variant, certificate),
            Calibration::NotCertified(_) => None,
        },
        calibration,
        validation,
        latency,
        calib_ledger: ledger(Kind::Calib, attempts.as_ref())?,
        test_ledger: ledger(Kind::Test, openings.as_ref())?,
        next: certified.then(|| next(config, &splits, variant)),
    })
}

fn summaries(bundle: &Bundle) -> anyhow::Result<Vec<VariantSummary>> {
    let summary = |name: &String| {
        let certificate = bundle.certificate(name)?;
        Ok(VariantSummary {
            name: name.clone(),
            certified: certificate.is_some(),
            coverage: certificate.as_ref().map(|c| c.coverage),
            select_flip_rate: bundle.parity(name)?.flips.map(|flips| flips.rate()),
            flips: certificate.and_then(|c| c.flips),
        })
    };
    bundle.manifest().variants.keys().map(summary).collect()
}

fn calibration(config: &Config, bundle: &Bundle, variant: &str) -> anyhow::Result<Calibration> {
    if let Some(certificate) = bundle.certificate(variant)? {
        return Ok(Calibration::Certified(Box::new(certificate)));
    }
    let (refusal, _) = json::load(&super::calibrate::refusal_path(config, variant))?;
    Ok(Calibration::NotCertified(Box::new(refusal)))
}

/// How `auto` chose the calibrator of the policy that `certificate` is about.
pub(crate) fn selection(
    config: &Config,
    variant: &str,
    certificate: &Certificate,
) -> Option<Selection> {
    let is_about = |r: &CalibratorRecord| r.policy_digest == certificate.policy_digest;
    matching(&selection::path(config, variant), is_about)?.selection
}

/// A document of the run, if it is there and about this very bundle.
fn matching<T: Document>(path: &Path, is_about: impl Fn(&T) -> bool) -> Option<T> {
    json::load(path)
        .ok()
        .map(|(document, _)| document)
        .filter(is_about)
}

/// How many images of each scored split can't be decoded and were skipped, as the configuration says.
fn left_out(
    config: &Config,
    splits_digest: Digest,
    bundle: &Bundle,
    variant: &str,
) -> BTreeMap<Split, u64> {
    let count = |split| {
        let (_, images) = scoring::known(config, splits_digest, bundle, variant, split).ok()?;
        images.non_empty().map(|images| (split, images.count))
    };
    Split::ALL.into_iter().filter_map(count).collect()
}

fn all_answered(
    config: &Config,
    splits_digest: Digest,
    bundle: &Bundle,
    variant: &str,
    split: Split,
) -> anyhow::Result<AllAnswered> {
    let (logits, _) = scoring::known(config, splits_digest, bundle, variant, split)?;
    Ok(AllAnswered {
        split,
        images: logits.n(),
        metrics: metrics::compute(&Predictions::from_logits(&logits, None)?, None),
    })
}

fn next(config: &Config, splits: &SplitManifest, variant: &str) -> String {
    let bundle = config.bundle_dir();
    let folder = match config.data.source.is_dir() {
        true => config.data.source.clone(),
        false => config
            .data
            .source
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default(),
    };
    let root = config.data.options.root.clone().unwrap_or(folder);
    let image = splits
        .of(Split::ValTest)
        .next()
        .map(|sample| root.join(&sample.path))
        .unwrap_or_default();
    format!(
        "stage1 predict --bundle {}{} {}",
        bundle.display(),
        match variant {
            FP32 => String::new(),
            _ => format!(" --variant {variant}"),
        },
        image.display()
    )
}

impl Report {
    /// Whether the run did what was asked.
    pub(crate) fn answer(&self) -> crate::output::Answer {
        let refuted = self
            .validation
            .as_ref()
            .is_some_and(|v| v.verdict() == Some(Verdict::Refuted));
        match self.calibration {
            Calibration::Certified(_) if !refuted => crate::output::Answer::Yes,
            _ => crate::output::Answer::No,
        }
    }

    /// Saves it beside the run's other results.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(stage1_core::artifact::atomic::write_bytes(
            &self.run_dir.join("report.json"),
            &bytes,
        )?)
    }

    /// The device of the certificate, which is the one that was measured.
    fn device(&self) -> String {
        let fingerprint = match &self.calibration {
            Calibration::Certified(certificate) => certificate.fingerprint.as_ref(),
            Calibration::NotCertified(_) => None,
        };
        fingerprint.map_or("CPU".to_owned(), |of| of.provider.to_uppercase())
    }

    /// A table for people.
    pub(crate) fn text(&self) -> String {
        let mut rows = Vec::new();
        if self.variants.len() > 1 {
            let others = self.variants.iter().filter(|v| v.name != self.variant);
            let others: Vec<_> = others.map(VariantSummary::text).collect();
            rows.push((
                "variant",
                self.variant.clone(),
                format!("beside it: {}", others.join("; ")),
            ));
        }
        if let Some(depth) = &self.depth {
            depth_rows(depth, &mut rows);
        }
        if let Some(gate) = &self.gate {
            gate_rows(gate, &mut rows);
        }
        let all = &self.all_answered;
        let accuracy = all
            .metrics
            .get("accuracy")
            .copied()
            .flatten()
            .map_or_else(|| "–".to_owned(), |m: Metric| percent(m.estimate()));
        let note = format!(
            "on the {} images of {}",
            thousands(all.images as u64),
            all.split
        );
        rows.push(("accuracy if it answered everything", accuracy, note));
        for (split, count) in &self.left_out {
            let note = format!("of {split} can't be decoded: skipped, as the configuration says");
            rows.push(("images left out", thousands(*count), note));
        }
        match &self.calibration {
            Calibration::Certified(certificate) => {
                certified_rows(certificate, &mut rows);
                flip_rows(certificate, &mut rows);
            }
            Calibration::NotCertified(refusal) => match &**refusal {
                AnyRefusal::Pac(refusal) => refused_rows(refusal, &mut rows),
                AnyRefusal::Expectation(refusal) => not_controlled_rows(refusal, &mut rows),
            },
        }
        self.sessions
            .iter()
            .for_each(|certificate| session_row(certificate, &mut rows));
        if let Some(selection) = &self.calibrator_selection {
            selection_rows(selection, &mut rows);
        }
        if let Some(validation) = &self.validation {
            judgement_rows(validation, &mut rows);
        }
        if let Some(latency) = &self.latency {
            let note = format!(
                "p50, from file to decision; p99 {:.1} ms; {}, {} threads",
                latency.p99_ms,
                self.device(),
                latency.threads
            );
            rows.push((
                "latency of one image",
                format!("{:.1} ms", latency.p50_ms),
                note,
            ));
        }
        ledger_row("val_calib", &self.calib_ledger, &mut rows);
        ledger_row("val_test", &self.test_ledger, &mut rows);
        rows.push(("bundle", self.bundle.display().to_string(), String::new()));
        let mut text = table(&rows);
        if let Some(next) = &self.next {
            _ = write!(text, "\nnext: {next}\n");
        }
        text
    }
}

/// What was promised, and what rows say of it, where there is no run.
pub(crate) fn verdict_text(certificate: &Certificate, judgement: &Judgement) -> String {
    let mut rows = Vec::new();
    certified_rows(certificate, &mut rows);
    judgement_rows(judgement, &mut rows);
    if let Some(ledger) = judgement.test_ledger() {
        ledger_row("val_test", ledger, &mut rows);
    }
    table(&rows)
}

impl VariantSummary {
    fn text(&self) -> String {
        match self.coverage {
            Some(coverage) => format!("{} (certified, answers {})", self.name, percent(coverage)),
            None => format!("{} (no policy)", self.name),
        }
    }
}

/// How often a variant says something else than fp32.
fn flip_rows(certificate: &Certificate, rows: &mut Vec<Row>) {
    let Some(flips) = &certificate.flips else {
        return;
    };
    for (what, count, bound) in [
        ("another class than fp32", flips.labels, flips.labels_bound),
        (
            "another decision than fp32",
            flips.decisions,
            flips.decisions_bound,
        ),
    ] {
        let note = format!(
            "{} of {} independent images of val_calib; at most {} with confidence {}",
            thousands(count),
            thousands(flips.rows),
            percent(bound),
            percent(1.0 - flips.delta)
        );
        let rate = count as f64 / flips.rows.max(1) as f64;
        rows.push((what, percent(rate), note));
    }
}

fn depth_rows(depth: &DepthChoice, rows: &mut Vec<Row>) {
    let chosen = format!("block {} of {}", depth.chosen, depth.layers);
    let note = format!(
        "the shallowest one whose head is within {} ({}) of the best, block {}, on val_select",
        depth.tolerance,
        depth.metric.name(),
        depth.best
    );
    rows.push(("depth of the backbone", chosen, note));
    rows.extend(
        depth
            .table()
            .into_iter()
            .map(|line| ("", String::new(), line)),
    );
}

fn gate_rows(gate: &GateDecision, rows: &mut Vec<Row>) {
    let what = if gate.ships {
        "deployed"
    } else {
        "not deployed"
    };
    let images = thousands(gate.images);
    let note = format!(
        "AUGRC {:.4} on the {images} images of val_select; less is better",
        gate.augrc
    );
    rows.push(("gate", what.to_owned(), note));
    rows.extend(
        gate.table()
            .into_iter()
            .map(|line| ("", String::new(), line)),
    );
}

fn selection_rows(selection: &Selection, rows: &mut Vec<Row>) {
    let (chosen, how) = selection::heading(selection);
    rows.push(("reported probability", chosen, how));
    rows.extend(selection::lines(selection).map(|(name, note)| ("", name, note)));
}

type Row = (&'static str, String, String);

/// A ledger that is as it should be needs no words.
fn ledger_row(split: &str, ledger: &LedgerState, rows: &mut Vec<Row>) {
    if let LedgerState::Unknown { reason } = ledger {
        let note = format!("of {split}: {reason}");
        rows.push(("LEDGER UNKNOWN", "–".to_owned(), note));
    }
}

fn certified_rows(certificate: &Certificate, rows: &mut Vec<Row>) {
    let attempt = match certificate.attempt {
        1 => String::new(),
        attempt => format!("; attempt {attempt} on this val_calib"),
    };
    let (Some(delta), Some(upper_bound)) = (certificate.delta, certificate.upper_bound) else {
        if let Some(expected) = &certificate.expected {
            expected_rows(certificate, expected, &attempt, rows);
        }
        return;
    };
    let confidence = output::percent(1.0 - delta, 1);
    let together = match certificate.jointly.is_empty() {
        true => String::new(),
        false => format!(", {} together", certificate.jointly.join(" and ")),
    };
    let note = format!("certified with confidence {confidence}{together}{attempt}");
    if let [Constraint::SelectiveError { alpha }] = promised(&certificate.claims)[..] {
        rows.push((
            "error asked for, among answers",
            format!("≤ {}", output::percent(alpha, 1)),
            note,
        ));
    } else {
        rows.push((
            "promises, all together",
            certificate.claims.len().to_string(),
            note,
        ));
        certificate
            .claims
            .iter()
            .for_each(|claim| claim_row(claim, rows));
    }
    let mut evidence = format!(
        "answered, {} errors in {}; bound {}",
        thousands(certificate.errors),
        thousands(certificate.answered),
        percent(upper_bound)
    );
    if certificate.test == Some(TestKind::Betting) {
        evidence += " (of a random image of a random group; counts of images are not a guarantee: they ignore groups)";
    }
    rows.push((
        "certified on val_calib",
        percent(certificate.coverage),
        evidence,
    ));
}

/// What a further session answers.
fn session_row(certificate: &Certificate, rows: &mut Vec<Row>) {
    let session = certificate.fingerprint.as_ref().map_or_else(
        || "another session".to_owned(),
        |of| format!("{} ({}, {})", of.provider, of.provider_version, of.cpu_isa),
    );
    let evidence = match (certificate.upper_bound, &certificate.expected) {
        (Some(bound), _) => format!("bound {}", percent(bound)),
        (None, Some(expected)) => format!("{} in expectation", percent(expected.bound)),
        (None, None) => String::new(),
    };
    rows.push((
        "certified through a further session",
        percent(certificate.coverage),
        format!(
            "{session}: {} errors in {}; {evidence}; attempt {}",
            thousands(certificate.errors),
            thousands(certificate.answered),
            certificate.attempt
        ),
    ));
}

fn expected_rows(
    certificate: &Certificate,
    expected: &ExpectedRisk,
    attempt: &str,
    rows: &mut Vec<Row>,
) {
    rows.push((
        "wrong answers asked for, among selected",
        format!("≤ {}", output::percent(certificate.alpha, 1)),
        format!(
            "on average over calibrations; about every second one exceeds it: an expectation, without confidence{attempt}"
        ),
    ));
    let note = format!(
        "answered, {} errors in {}; {} selected, ({} + 1) of ({} + 1) is {}",
        thousands(expected.errors),
        thousands(certificate.answered),
        thousands(expected.selected),
        thousands(expected.errors),
        thousands(expected.selected),
        percent(expected.bound)
    );
    rows.push((
        "calibrated on val_calib",
        percent(certificate.coverage),
        note,
    ));
}

fn not_controlled_rows(refusal: &NotControlled, rows: &mut Vec<Row>) {
    rows.push((
        "wrong answers asked for, among selected",
        format!("≤ {}", output::percent(refusal.alpha, 1)),
        "on average over calibrations: NOT CERTIFIED, no policy".to_owned(),
    ));
    rows.push((
        "strictest threshold on val_calib",
        format!(
            "{} of {}",
            thousands(refusal.errors),
            thousands(refusal.answered)
        ),
        format!(
            "wrong among answered; {} selected",
            thousands(refusal.selected)
        ),
    ));
    let note = match refusal.reason {
        NotCertifiedReason::ThresholdNotRejected => {
            "this session controls thresholds, but not the one of fp32, which a variant has to share"
        }
        NotCertifiedReason::TooFewUnits => "selected images of val_calib, without an error",
        _ => "train a better model, or ask for a larger alpha",
    };
    let needed = match refusal.reason {
        NotCertifiedReason::TooFewUnits => thousands(refusal.needed_selected_if_no_error),
        _ => "–".to_owned(),
    };
    rows.push(("what it would take", needed, note.to_owned()));
}

fn judgement_rows(judgement: &Judgement, rows: &mut Vec<Row>) {
    match judgement {
        Judgement::Verdict(validation) => verdict_rows(validation, rows),
        Judgement::Estimate(estimate) => estimate_rows(estimate, rows),
    }
}

fn estimate_rows(estimate: &Estimate, rows: &mut Vec<Row>) {
    let (answered, errors) = (thousands(estimate.answered), thousands(estimate.errors));
    rows.push((
        "it answers",
        percent(estimate.coverage),
        format!(
            "of val_test ({answered} of {} {}), and defers the rest",
            thousands(estimate.test.units),
            drawn(estimate.test.rule)
        ),
    ));
    let of = |rate: Option<f64>, total: u64, (low, high): (f64, f64)| {
        let note = format!(
            "{errors} of {}; 95 % interval {} to {}",
            thousands(total),
            percent(low),
            percent(high)
        );
        (rate.map_or_else(|| "–".to_owned(), percent), note)
    };
    let (rate, note) = of(estimate.rate, estimate.selected, estimate.interval);
    rows.push(("wrong answers among selected", rate, note));
    let (risk, note) = of(estimate.risk, estimate.answered, estimate.risk_interval);
    let note = format!("{note}; nothing was promised of it");
    rows.push(("error among those answers", risk, note));
    let note = "an estimate: what holds on average over calibrations can't be refuted by one";
    let note = match estimate.opening {
        1 => note.to_owned(),
        opening => format!("{note}; exploratory, opening {opening} of this val_test"),
    };
    rows.push(("verdict on val_test", "none".to_owned(), note));
}

fn promised(claims: &[Claim]) -> Vec<Constraint> {
    claims.iter().map(|claim| claim.constraint).collect()
}

fn claim_row(claim: &Claim, rows: &mut Vec<Row>) {
    let note = format!(
        "{}; {} of {}, bound {}",
        claim.constraint.statement(),
        thousands(claim.errors),
        thousands(claim.total),
        percent(claim.upper_bound)
    );
    rows.push((
        "",
        format!("≤ {}", output::percent(claim.constraint.alpha(), 1)),
        note,
    ));
}

fn refused_rows(refusal: &NotCertified, rows: &mut Vec<Row>) {
    rows.push((
        "error asked for, among answers",
        format!("≤ {}", output::percent(refusal.alpha, 1)),
        format!(
            "NOT CERTIFIED with confidence {}: no policy",
            output::percent(1.0 - refusal.delta, 1)
        ),
    ));
    if refusal.constraints.len() > 1 {
        let all: Vec<String> = refusal
            .constraints
            .iter()
            .map(Constraint::statement)
            .collect();
        rows.push((
            "",
            "–".to_owned(),
            format!("asked for together: {}", all.join(", ")),
        ));
    }
    rows.push((
        "closest threshold on val_calib",
        format!(
            "{} of {}",
            thousands(refusal.best.errors),
            thousands(refusal.best.answered)
        ),
        format!(
            "wrong among answered{}; {}{}",
            match refusal.calib.rule {
                UnitRule::Betting => " (images: not a guarantee, ignores groups)",
                _ => "",
            },
            p_equals(refusal.best.p_value),
            match refusal.jointly.is_empty() {
                true => String::new(),
                false => format!(
                    "; of the variant that did worst, tested together: {}",
                    refusal.jointly.join(", ")
                ),
            }
        ),
    ));
    if refusal.reason == NotCertifiedReason::ThresholdNotRejected {
        rows.push((
            "why",
            "–".to_owned(),
            "this session certifies thresholds, but not the one of fp32, which a variant has to share".to_owned(),
        ));
        return;
    }
    let has = thousands(refusal.calib.units);
    let at_rate = match (
        refusal.needed_answered_at_observed_rate,
        refusal.needed_units_at_observed_rate,
    ) {
        (_, None) => "no number is enough at the observed error rate; train a better model, or ask for a larger alpha".to_owned(),
        (Some(_), Some(_)) => format!(
            "images of val_calib give an 80 % chance at the observed error rate (it has {has})"
        ),
        (None, Some(_)) => format!(
            "groups of val_calib, about, if the evidence grows on as it did (it has {has})"
        ),
    };
    let needed = refusal
        .needed_units_at_observed_rate
        .map_or_else(|| "–".to_owned(), thousands);
    rows.push(("what it would take", needed, at_rate));
}

fn verdict_rows(validation: &Validation, rows: &mut Vec<Row>) {
    let (answered, errors) = (thousands(validation.answered), thousands(validation.errors));
    rows.push((
        "it answers",
        percent(validation.coverage),
        format!(
            "of val_test ({answered} of {} {}), and defers the rest",
            thousands(validation.test.counted()),
            drawn(validation.test.rule)
        ),
    ));
    let is_usual = |check: &Check| matches!(check.constraint, Constraint::SelectiveError { .. });
    match &validation.checks[..] {
        [check] if is_usual(check) => {
            let (low, high) = validation.interval;
            rows.push((
                "error among those answers",
                validation.risk.map_or_else(|| "–".to_owned(), percent),
                format!(
                    "{errors} of {answered}; 95 % interval {} to {}",
                    percent(low),
                    percent(high)
                ),
            ));
        }
        checks => checks.iter().for_each(|check| check_row(check, rows)),
    }
    verdict_row(validation, rows);
    power_rows(validation, rows);
}

fn check_row(check: &Check, rows: &mut Vec<Row>) {
    let (low, high) = check.interval;
    let note = format!(
        "{} of {}; 95 % interval {} to {}; promised: {}",
        thousands(check.errors),
        thousands(check.total),
        percent(low),
        percent(high),
        check.constraint.statement()
    );
    let rate = check.rate.map_or_else(|| "–".to_owned(), percent);
    rows.push(("observed", rate, note));
}

fn verdict_row(validation: &Validation, rows: &mut Vec<Row>) {
    let (name, note) = match (validation.verdict, validation.observed) {
        (Verdict::Held, _) => ("HELD", "val_test confirms the bound"),
        (Verdict::Refuted, _) => ("REFUTED", "val_test contradicts the bound: do not deploy"),
        (Verdict::Inconclusive, Observed::AtOrBelowTarget) => (
            "INCONCLUSIVE",
            "observed at or below the target; val_test is too small to confirm it",
        ),
        (Verdict::Inconclusive, Observed::AboveTarget) => (
            "INCONCLUSIVE",
            "observed above the target; val_test is too small to refute it",
        ),
        (Verdict::Inconclusive, Observed::NothingAnswered) => {
            ("INCONCLUSIVE", "no image of val_test was answered")
        }
    };
    let note = match validation.opening {
        1 => note.to_owned(),
        opening => format!("{note}; exploratory, opening {opening} of this val_test"),
    };
    rows.push(("verdict on val_test", name.to_owned(), note));
}

fn power_rows(validation: &Validation, rows: &mut Vec<Row>) {
    let power = &validation.power;
    rows.push((
        "chance of HELD, as expected before",
        percent(power.held),
        format!(
            "and of REFUTED, were the true error 1.5 times as asked: {}; twice: {}",
            percent(power.refuted_at_1_5_alpha),
            percent(power.refuted_at_2_alpha)
        ),
    ));
    let note = match (power.units_for_80_percent, power.answered_for_80_percent) {
        (Some(_), Some(answered)) => format!(
            "images of val_test give HELD an 80 % chance ({} of them answered; it has {})",
            thousands(answered),
            thousands(validation.test.units)
        ),
        _ => "no number gives HELD an 80 % chance at the rate that val_calib showed".to_owned(),
    };
    let needed = power
        .units_for_80_percent
        .map_or_else(|| "–".to_owned(), thousands);
    rows.push(("what HELD would take", needed, note));
}

/// What the shares are shares of.
fn drawn(rule: UnitRule) -> &'static str {
    match rule {
        UnitRule::Rows | UnitRule::Betting => "images",
        _ => "independent images",
    }
}

fn table(rows: &[Row]) -> String {
    let width = |column: fn(&Row) -> &str| {
        rows.iter()
            .map(|row| column(row).chars().count())
            .max()
            .unwrap_or(0)
    };
    let names = width(|row| row.0);
    // The bundle's path must not push the notes away.
    let values = rows
        .iter()
        .filter(|row| !row.2.is_empty())
        .map(|row| row.1.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (name, value, note) in rows {
        let line = format!("  {name:<names$}  {value:<values$}  {note}");
        _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// `12345` as `12,345`.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [0, 999, 1000, 1_234_567]
                .map(thousands)
                .each_ref()
                .map(String::as_str)
        );
        assert_eq!(percent(0.0512), "5.1 %");
    }
}
