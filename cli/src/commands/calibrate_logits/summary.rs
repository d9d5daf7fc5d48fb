//! What a calibration found, for people and as JSON.

use super::{
    division::{Division, How},
    stem,
};
use crate::output::{level, p_equals, short_percent as percent};
use crate::steps::selection;
use serde::Serialize;
use stage1_calibration::{
    calibrate::Selection,
    metrics::{Metric, Predictions, compute},
};
use stage1_core::{
    certificate::{
        AnyPlan, AnyRefusal, Certificate, Claim, Constraint, ExpectedRisk, NotCertified,
        NotCertifiedReason, NotControlled, SampleSize, UnitRule,
    },
    logits::LogitSet,
    policy::{Calibrator, Policy, Score, Threshold},
};
use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

/// What came of it.
#[derive(Serialize)]
#[serde(untagged)]
#[expect(
    clippy::large_enum_variant,
    reason = "one of them exists per calibration"
)]
pub(super) enum Finding {
    Certified {
        policy: Policy,
        certificate: Certificate,
        /// None unless by `auto`.
        calibrator_selection: Option<Selection>,
    },
    NotCertified(AnyRefusal),
}

/// Of the probabilities that are reported, on rows that the calibrator wasn't fitted on.
#[derive(Debug, Clone, Copy, Serialize)]
struct Quality {
    nll: Option<f64>,
    ece: Option<f64>,
}

/// The calibrator's effect.
#[derive(Serialize)]
struct Reported {
    measured_on: &'static str,
    softmax: Quality,
    calibrated: Quality,
}

#[derive(Serialize)]
pub(super) struct Summary {
    certified: bool,
    out: PathBuf,
    division: How,
    select_rows: usize,
    calib_rows: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    reported_probability: Option<Reported>,
    #[serde(flatten)]
    finding: Finding,
    /// Of `--joint`: what came of each further session.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    also: Vec<Also>,
    #[serde(skip)]
    plan: AnyPlan,
}

/// A further session that was certified together with the first.
#[derive(Serialize)]
struct Also {
    logits: PathBuf,
    #[serde(flatten)]
    finding: Finding,
}

impl Summary {
    pub(super) fn new(
        out: &Path,
        plan: &AnyPlan,
        division: &Division,
        finding: Finding,
        also: Vec<(PathBuf, Finding)>,
    ) -> anyhow::Result<Self> {
        let reported_probability = match &finding {
            Finding::Certified { policy, .. } => Some(Reported::new(&division.select, policy)?),
            Finding::NotCertified(_) => None,
        };
        Ok(Self {
            certified: reported_probability.is_some(),
            out: out.to_owned(),
            division: division.how,
            select_rows: division.select.n(),
            calib_rows: division.calib.n(),
            reported_probability,
            finding,
            also: also
                .into_iter()
                .map(|(logits, finding)| Also { logits, finding })
                .collect(),
            plan: plan.clone(),
        })
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let written = match &self.finding {
            Finding::Certified {
                policy,
                certificate,
                calibrator_selection,
            } => self.certified(policy, certificate, calibrator_selection.as_ref(), &mut out),
            Finding::NotCertified(AnyRefusal::Pac(not)) => self.not_certified(not, &mut out),
            Finding::NotCertified(AnyRefusal::Expectation(not)) => {
                self.not_controlled(not, &mut out)
            }
        };
        written.expect("writing to a string can't fail");
        out
    }

    fn certified(
        &self,
        policy: &Policy,
        certificate: &Certificate,
        choice: Option<&Selection>,
        out: &mut String,
    ) -> std::fmt::Result {
        let Certificate {
            answered,
            coverage,
            calib,
            claims,
            ..
        } = certificate;
        writeln!(out, "certified: {}", heading(certificate))?;
        self.rows(*calib, out)?;
        let of = match calib.rule {
            UnitRule::Betting => format!(
                "{answered} of {} rows ({} of a group)",
                calib.rows,
                percent(*coverage)
            ),
            _ => format!("{answered} of {} ({})", calib.units, percent(*coverage)),
        };
        line(out, "answered", &of)?;
        for claim in claims {
            line(out, about(&claim.constraint), &evidence(claim))?;
        }
        if let Some(expected) = &certificate.expected {
            line(out, "errors", &in_expectation(expected))?;
            line(
                out,
                "",
                "no statement about this one calibration: about every second exceeds it",
            )?;
        }
        ignores_groups(*calib, out)?;
        self.also(out)?;
        line(out, "answer when", &rule(&policy.score, policy.threshold))?;
        line(out, "probability", &self.probability(policy))?;
        choice.map_or(Ok(()), |choice| chosen(choice, out))?;
        line(out, "attempt", &certificate.attempt.to_string())?;
        line(
            out,
            "written",
            &self.out.join("policy.json").display().to_string(),
        )?;
        line(
            out,
            "",
            &self.out.join("certificate.json").display().to_string(),
        )?;
        for Also { logits, .. } in &self.also {
            let folder = self.out.join(stem(logits));
            line(out, "", &format!("{}, of its session", folder.display()))?;
        }
        Ok(())
    }

    /// The sessions beside the first, which answer at the same threshold.
    fn also(&self, out: &mut String) -> std::fmt::Result {
        for Also { logits, finding } in &self.also {
            if let Finding::Certified { certificate, .. } = finding {
                let claims: Vec<_> = certificate.claims.iter().map(evidence).collect();
                line(
                    out,
                    "",
                    &format!(
                        "through {}: {} answered, {} {}",
                        logits.display(),
                        percent(certificate.coverage),
                        about(&certificate.claims[0].constraint),
                        claims.join("; ")
                    ),
                )?;
            }
        }
        Ok(())
    }

    fn not_certified(&self, not: &NotCertified, out: &mut String) -> std::fmt::Result {
        let NotCertified { best, calib, .. } = not;
        writeln!(
            out,
            "not certified that {} with confidence {}: {}",
            promised(&not.constraints),
            percent(1.0 - not.delta),
            reason(not.reason)
        )?;
        self.rows(*calib, out)?;
        line(
            out,
            "came closest",
            &match best.answered {
                0 => "no threshold answers any of these rows".to_owned(),
                answered => format!(
                    "{} errors of {answered} answered, {} against {}; {}",
                    best.errors,
                    p_equals(best.p_value),
                    level(not.level),
                    rule(self.score(), not.best_threshold)
                ),
            },
        )?;
        if !not.jointly.is_empty() {
            line(
                out,
                "",
                &format!(
                    "of the session that did worst; tested together: {}",
                    not.jointly.join(", ")
                ),
            )?;
        }
        ignores_groups(*calib, out)?;
        line(
            out,
            "would take",
            &format!(
                "{} {} without an error{}",
                not.needed_answered_if_no_error,
                cases(&not.constraints),
                units(not.needed_units_if_no_error)
            ),
        )?;
        line(out, "", &at_rate(not))?;
        line(out, "attempt", &not.attempt.to_string())?;
        line(
            out,
            "written",
            &self.out.join("not-certified.json").display().to_string(),
        )
    }

    fn not_controlled(&self, not: &NotControlled, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "not certified that on average over calibrations at most {} of selected rows are answered wrongly: {}",
            percent(not.alpha),
            reason(not.reason)
        )?;
        self.rows(not.calib, out)?;
        line(
            out,
            "came closest",
            &format!(
                "{} errors of {} answered, {} selected",
                not.errors, not.answered, not.selected
            ),
        )?;
        line(
            out,
            "would take",
            &format!(
                "{} selected rows without an error",
                not.needed_selected_if_no_error
            ),
        )?;
        line(out, "attempt", &not.attempt.to_string())?;
        line(
            out,
            "written",
            &self.out.join("not-certified.json").display().to_string(),
        )
    }

    fn score(&self) -> &Score {
        match &self.plan {
            AnyPlan::Pac(plan) => &plan.score,
            AnyPlan::Expectation(plan) => &plan.score,
        }
    }

    fn rows(&self, calib: SampleSize, out: &mut String) -> std::fmt::Result {
        let how = match self.division {
            How::SplitColumn => "by the split column".to_owned(),
            How::TwoFiles => "two files".to_owned(),
            How::SeededHash { seed } => format!("divided by a hash seeded with {seed}"),
        };
        line(
            out,
            "rows",
            &format!(
                "{} to select, {} to certify ({how})",
                self.select_rows, self.calib_rows
            ),
        )?;
        match calib.rule {
            UnitRule::OnePerUnit => line(
                out,
                "",
                &format!(
                    "one row of each of {} groups was used to certify",
                    calib.units
                ),
            ),
            UnitRule::Betting => line(
                out,
                "",
                &format!(
                    "all rows of {} groups were used to certify, by betting",
                    calib.units
                ),
            ),
            _ => Ok(()),
        }
    }

    fn probability(&self, policy: &Policy) -> String {
        let calibrator = calibrator(&policy.calibrator);
        let Some(Reported {
            softmax,
            calibrated,
            ..
        }) = &self.reported_probability
        else {
            return calibrator;
        };
        let number = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), |x| format!("{x:.4}"));
        format!(
            "{calibrator}: NLL {} -> {}, ECE {} -> {} (on the rows that select)",
            number(softmax.nll),
            number(calibrated.nll),
            number(softmax.ece),
            number(calibrated.ece)
        )
    }
}

impl Reported {
    fn new(select: &LogitSet, policy: &Policy) -> anyhow::Result<Self> {
        let before = Predictions::from_logits(select, None)?;
        let mut probabilities = Vec::with_capacity(select.logits.len());
        for i in 0..select.n() {
            probabilities.extend(policy.decide(select.model_row(i))?.probabilities);
        }
        let after =
            Predictions::from_probabilities(select.classes, probabilities, before.labels.clone());
        Ok(Self {
            measured_on: "select",
            softmax: Quality::of(&before),
            calibrated: Quality::of(&after),
        })
    }
}

impl Quality {
    fn of(predictions: &Predictions) -> Self {
        let table = compute(predictions, None);
        let value = |name| {
            table
                .get(name)
                .copied()
                .flatten()
                .map(|metric: Metric| metric.estimate())
        };
        Self {
            nll: value("nll"),
            ece: value("ece"),
        }
    }
}

/// The families that `auto` compared.
fn chosen(selection: &Selection, out: &mut String) -> std::fmt::Result {
    let (name, how) = selection::heading(selection);
    line(out, "", &format!("{name}, {how}"))?;
    for (name, note) in selection::lines(selection) {
        line(out, "", &format!("  {name:<12}{note}"))?;
    }
    Ok(())
}

fn ignores_groups(calib: SampleSize, out: &mut String) -> std::fmt::Result {
    match calib.rule {
        UnitRule::Betting => line(
            out,
            "",
            "counts of rows are not a guarantee: they ignore groups",
        ),
        _ => Ok(()),
    }
}

fn heading(certificate: &Certificate) -> String {
    let Some(delta) = certificate.delta else {
        return format!(
            "on average over calibrations at most {} of selected rows are answered wrongly (an expectation, without confidence)",
            percent(certificate.alpha)
        );
    };
    let promises: Vec<Constraint> = certificate.claims.iter().map(|c| c.constraint).collect();
    format!(
        "{} with confidence {}",
        promised(&promises),
        percent(1.0 - delta)
    )
}

fn in_expectation(expected: &ExpectedRisk) -> String {
    let ExpectedRisk {
        selected,
        errors,
        bound,
        ..
    } = expected;
    format!(
        "{errors} of {selected} selected ({errors} + 1 of {selected} + 1: {})",
        percent(*bound)
    )
}

/// In the words that people know for the usual promise, else in the certificate's.
fn promised(constraints: &[Constraint]) -> String {
    match constraints {
        [Constraint::SelectiveError { alpha }] => {
            format!("answers are wrong at a rate of at most {}", percent(*alpha))
        }
        several => several
            .iter()
            .map(Constraint::statement)
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn about(constraint: &Constraint) -> &'static str {
    match constraint {
        Constraint::Precision { .. } => "precision",
        Constraint::ClassError { .. } => "class error",
        Constraint::Fnr { .. } => "missed",
        Constraint::Fpr { .. } => "false alarms",
        Constraint::Coverage { .. } => "deferred",
        _ => "errors",
    }
}

fn evidence(claim: &Claim) -> String {
    let Claim {
        errors,
        total,
        upper_bound,
        ..
    } = claim;
    let rate = *errors as f64 / (*total).max(1) as f64;
    format!(
        "{errors} of {total} ({}; upper bound {})",
        percent(rate),
        percent(*upper_bound)
    )
}

fn cases(constraints: &[Constraint]) -> &'static str {
    match constraints {
        [Constraint::SelectiveError { .. }] => "answers",
        _ => "cases of the most demanding constraint",
    }
}

fn at_rate(not: &NotCertified) -> String {
    match (
        not.needed_answered_at_observed_rate,
        not.needed_units_at_observed_rate,
    ) {
        (Some(answered), in_units) => format!(
            "or {answered} {} at the rate that was seen{}",
            cases(&not.constraints),
            units(in_units)
        ),
        (None, Some(groups)) => {
            format!("or about {groups} groups, if the evidence grows on as it did")
        }
        (None, None) => "at the rate that was seen no number of rows is enough".to_owned(),
    }
}

fn line(out: &mut String, name: &str, value: &str) -> std::fmt::Result {
    writeln!(out, "  {name:<13}{value}")
}

fn rule(score: &Score, threshold: Threshold) -> String {
    let score = match score {
        Score::BinaryMargin => "z1 - z0".to_owned(),
        Score::MaxProbability { temperature } => format!("max softmax(z / {temperature:.4})"),
        Score::Margin => "largest logit - second largest".to_owned(),
        Score::Energy => "ln sum exp(z)".to_owned(),
        Score::Gate => "gate".to_owned(),
        Score::Calibrated { by } => format!("probability of the answer by {}", by.name()),
        other => format!("{other:?}"),
    };
    match threshold {
        Threshold::TwoSided { low, high } => {
            format!("{score} >= {high:.4} (class 1) or <= {low:.4} (class 0)")
        }
        Threshold::OneSided { at_least } => format!("{score} >= {at_least:.4}"),
        other => format!("{score}: {other:?}"),
    }
}

fn calibrator(calibrator: &Calibrator) -> String {
    match calibrator {
        Calibrator::None => "softmax as it is".to_owned(),
        Calibrator::Temperature { t } => format!("temperature {t:.4}"),
        other => other.name().to_owned(),
    }
}

fn reason(reason: NotCertifiedReason) -> &'static str {
    match reason {
        NotCertifiedReason::TooFewUnits => "too few rows, even without an error",
        NotCertifiedReason::NothingAnswered => {
            "the first planned threshold answers none of the rows"
        }
        NotCertifiedReason::StartNotRejected => "the first planned threshold failed its test",
        NotCertifiedReason::ThresholdNotRejected => {
            "this session does not certify the policy's threshold"
        }
        NotCertifiedReason::StrictestTooWrong => {
            "even the strictest planned threshold answers too much wrongly"
        }
        _ => "see not-certified.json",
    }
}

fn units(units: Option<u64>) -> String {
    units.map_or_else(String::new, |units| {
        format!(", some {units} rows to certify at that coverage")
    })
}
