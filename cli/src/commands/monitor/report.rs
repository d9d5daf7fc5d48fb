//! What is told.

use super::stream::Row;
use crate::output::{Output, short_percent as percent};
use serde::Serialize;
use stage1_calibration::{
    monitor::{Drift, Monitor, Risk},
    shift,
};
use std::fmt::Write as _;

/// Rows of this time, unless said otherwise.
#[derive(Debug, Default, Clone, Serialize)]
pub(super) struct Counts {
    /// Decisions that were not read before.
    new: u64,
    /// Of the same files, decisions that were.
    read_before: u64,
    answered: u64,
    deferred: u64,
    /// Records of images that couldn't be judged.
    pub(super) not_judged: u64,
    /// Decisions by a session that the certificate doesn't cover.
    uncertified: u64,
    /// Not counted: another row of the unit was.
    pub(super) of_a_seen_unit: u64,
    /// Labels of deferred images: they say nothing about answers.
    pub(super) labelled_deferred: u64,
    /// Labels of answers that the certificate doesn't cover.
    pub(super) labelled_uncertified: u64,
    /// New answers with a label, of images (or groups) of which a labelled answer was counted before: one counts.
    pub(super) labelled_again: u64,
    /// Labels of images that aren't in the logs.
    pub(super) labels_without_row: u64,
}

impl Counts {
    pub(super) fn count(&mut self, rows: &[Row]) {
        let new = || rows.iter().filter(|row| row.is_new);
        self.new = new().count() as u64;
        self.read_before = rows.len() as u64 - self.new;
        self.answered = new().filter(|row| row.answer.is_some()).count() as u64;
        self.deferred = self.new - self.answered;
        self.uncertified = new().filter(|row| !row.certified).count() as u64;
    }

    /// What should worry the reader.
    pub(super) fn tell(&self, has_risk: bool, output: Output) {
        if self.labels_without_row > 0 {
            output.warn(&format!(
                "{} labels are of images that aren't in these logs: give the logs that hold them",
                self.labels_without_row
            ));
        }
        if self.labelled_again > 0 {
            output.warn(&format!(
                "{} new answers with a label are called as one that was counted before, and don't count: of an image, or a group, one \
                 labelled answer does; if these are other images, give them other ids",
                self.labelled_again
            ));
        }
        if self.uncertified > 0 {
            output.warn(&format!(
                "{} decisions were made by a session that the certificate doesn't cover; their scores are watched, their \
                 labels aren't held against the certificate",
                self.uncertified
            ));
        }
        if !has_risk {
            output.note(
                "no certificate promises a rate of errors among answers with a confidence, and there is no --alpha: labels aren't \
                 watched",
            );
        }
    }
}

#[derive(Serialize)]
pub(super) struct Report {
    /// Whether one of the alarms is, or was, raised.
    pub(super) alarm: bool,
    rows: Counts,
    drift: DriftReport,
    risk: Option<RiskReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label_shift: Option<LabelShift>,
}

/// All rows that the state has seen.
#[derive(Serialize)]
struct DriftReport {
    alarm: bool,
    /// The row, from 1, at which the alarm was raised.
    alarm_at: Option<u64>,
    rows: u64,
    calib_rows: u64,
    level: f64,
    #[serde(flatten)]
    wealth: Wealth,
    meaning: &'static str,
}

#[derive(Serialize)]
struct RiskReport {
    alarm: bool,
    /// The labelled answer, from 1, at which the alarm was raised.
    alarm_at: Option<u64>,
    alpha: f64,
    labelled: u64,
    wrong: u64,
    level: f64,
    #[serde(flatten)]
    wealth: Wealth,
    meaning: &'static str,
}

/// Natural logarithms: the wealth itself may exceed any number.
#[derive(Serialize, Clone, Copy)]
struct Wealth {
    ln_wealth: f64,
    ln_wealth_max: Option<f64>,
    ln_wealth_of_alarm: f64,
}

const DRIFT_ALARM: &str =
    "the distribution of scores is no longer that of val_calib; this doesn't say that errors rose";
const DRIFT_QUIET: &str =
    "nothing shows that the distribution of scores changed; this doesn't prove that it didn't";
const RISK_ALARM: &str = "the certified risk is exceeded";
const RISK_QUIET: &str =
    "nothing shows that the certified risk is exceeded; this doesn't prove that it isn't";

impl DriftReport {
    fn new(drift: &Drift) -> Self {
        Self {
            alarm: drift.has_alarmed(),
            alarm_at: drift.alarm_at(),
            rows: drift.rows(),
            calib_rows: drift.calib_rows(),
            level: drift.level(),
            wealth: Wealth {
                ln_wealth: drift.ln_wealth(),
                ln_wealth_max: drift.ln_max(),
                ln_wealth_of_alarm: -drift.level().ln(),
            },
            meaning: if drift.has_alarmed() {
                DRIFT_ALARM
            } else {
                DRIFT_QUIET
            },
        }
    }

    fn text(&self) -> String {
        let evidence = self.wealth.text();
        match self.alarm_at {
            Some(at) => format!(
                "ALARM at row {at} of {}: {DRIFT_ALARM}\n{INDENT}{evidence}\n{INDENT}look at recent images; label a random \
                 sample of the answers and give it with --labels; calibrate anew if images will stay like this",
                self.rows
            ),
            None => format!(
                "no alarm after {} rows, compared with {} of val_calib\n{INDENT}{evidence}",
                self.rows, self.calib_rows
            ),
        }
    }
}

impl RiskReport {
    fn new(risk: &Risk) -> Self {
        Self {
            alarm: risk.has_alarmed(),
            alarm_at: risk.alarm_at(),
            alpha: risk.alpha(),
            labelled: risk.rows(),
            // A sum of zeros and ones.
            wrong: risk.losses() as u64,
            level: risk.level(),
            wealth: Wealth {
                ln_wealth: risk.ln_wealth(),
                ln_wealth_max: risk.ln_max(),
                ln_wealth_of_alarm: -risk.level().ln(),
            },
            meaning: if risk.has_alarmed() {
                RISK_ALARM
            } else {
                RISK_QUIET
            },
        }
    }

    fn text(&self) -> String {
        let Self {
            labelled, wrong, ..
        } = self;
        let (evidence, alpha) = (self.wealth.text(), percent(self.alpha));
        match self.alarm_at {
            Some(at) => format!(
                "ALARM at labelled answer {at}: {RISK_ALARM}\n{INDENT}{wrong} of {labelled} labelled answers are wrong, at \
                 most {alpha} were promised; {evidence}\n{INDENT}don't rely on the certificate: defer everything, or \
                 calibrate anew on recent images"
            ),
            None if *labelled == 0 => format!(
                "no labels yet: whether errors stay at or below {alpha} takes labels of a random sample of answers (--labels)"
            ),
            None => format!(
                "no alarm: {wrong} of {labelled} labelled answers are wrong, at most {alpha} were promised\n{INDENT}{evidence}"
            ),
        }
    }
}

impl Wealth {
    fn text(&self) -> String {
        let largest = self.ln_wealth_max.unwrap_or(0.0);
        format!(
            "evidence at most {}, an alarm is raised at {}",
            number(largest),
            number(self.ln_wealth_of_alarm)
        )
    }
}

/// e^`ln`, readable also where it is larger than any float.
fn number(ln: f64) -> String {
    let digits = ln / std::f64::consts::LN_10;
    if digits < 6.0 {
        format!("{:.1}", ln.exp())
    } else {
        format!("10^{digits:.0}")
    }
}

/// With one digit always: a column of them is compared.
fn share(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Frequencies of classes, with their names.
#[derive(Serialize)]
pub(super) struct LabelShift {
    classes: Vec<String>,
    #[serde(flatten)]
    estimate: Option<shift::LabelShift>,
    /// Why there is no estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    meaning: &'static str,
}

const CONDITIONAL: &str = "conditional on label shift: true only if the images of each class are still those of val_calib, and just their \
     frequencies changed; no certificate follows";

impl LabelShift {
    pub(super) fn new(
        classes: Vec<String>,
        estimate: Result<shift::LabelShift, shift::ShiftError>,
    ) -> Self {
        Self {
            classes,
            failure: estimate.as_ref().err().map(ToString::to_string),
            estimate: estimate.ok(),
            meaning: CONDITIONAL,
        }
    }

    fn text(&self) -> String {
        let Some(estimate) = &self.estimate else {
            return format!("none: {}", self.failure.as_deref().unwrap_or_default());
        };
        let shift::LabelShift {
            source_shares,
            em,
            bbse,
            bbse_failure,
            target_rows,
            ..
        } = estimate;
        let width = self
            .classes
            .iter()
            .map(|class| class.chars().count())
            .max()
            .unwrap_or(0)
            .max(5);
        let mut text = format!("{CONDITIONAL}\n{INDENT}estimated from {target_rows} rows");
        let header = ("class", "val_calib", "now (EM)", "now (BBSE)");
        _ = write!(
            text,
            "\n{INDENT}{:<width$}  {:>9}  {:>9}  {:>10}",
            header.0, header.1, header.2, header.3
        );
        for (k, class) in self.classes.iter().enumerate() {
            let bbse = bbse
                .as_ref()
                .map_or_else(|| "-".to_owned(), |bbse| percent(bbse.target_shares[k]));
            let (then, now) = (share(source_shares[k]), share(em.target_shares[k]));
            _ = write!(
                text,
                "\n{INDENT}{class:<width$}  {then:>9}  {now:>9}  {bbse:>10}"
            );
        }
        if let Some(failure) = bbse_failure {
            _ = write!(text, "\n{INDENT}no BBSE: {failure}");
        }
        if !em.converged {
            _ = write!(
                text,
                "\n{INDENT}EM has not settled: the model doesn't tell some classes apart"
            );
        }
        text
    }
}

/// The width of the titles.
const INDENT: &str = "               ";

impl Report {
    pub(super) fn new(monitor: &Monitor, rows: Counts, label_shift: Option<LabelShift>) -> Self {
        Self {
            alarm: monitor.has_alarmed(),
            rows,
            drift: DriftReport::new(&monitor.drift),
            risk: monitor.risk.as_ref().map(RiskReport::new),
            label_shift,
        }
    }

    pub(super) fn text(&self) -> String {
        let mut lines = vec![("rows", self.rows.text()), ("drift", self.drift.text())];
        lines.extend(self.risk.as_ref().map(|risk| ("risk", risk.text())));
        lines.extend(
            self.label_shift
                .as_ref()
                .map(|shift| ("label shift", shift.text())),
        );
        lines.push((
            "false alarms",
            format!(
                "each alarm is raised for nothing with probability at most {}, however long and often you look",
                percent(self.drift.level)
            ),
        ));
        let line = |(title, text): &(&str, String)| format!("{title:<15}{text}");
        lines.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl Counts {
    fn text(&self) -> String {
        let mut text = format!(
            "{} new: {} answered, {} deferred",
            self.new, self.answered, self.deferred
        );
        for (count, what) in [
            (self.not_judged, "not judged"),
            (self.of_a_seen_unit, "of a unit that was counted before"),
            (self.read_before, "read before"),
            (
                self.labelled_deferred,
                "labels of deferred images, not counted",
            ),
            (
                self.labelled_uncertified,
                "labels of uncertified answers, not counted",
            ),
        ] {
            if count > 0 {
                _ = write!(text, "; {count} {what}");
            }
        }
        text
    }
}
