//! The rows that are watched, from logs or from files of logits.

use super::{log, report::Counts, state::Mark, subject::Subject, unit_of_path};
use crate::{args::MonitorArgs, output::Output, tables};
use anyhow::{Context, bail};
use stage1_core::{artifact::Digest, logits::LogitSet, policy::Outcome};
use std::{fs, path::Path};

/// One decision.
#[derive(Debug)]
pub(super) struct Row {
    /// The image, as the log names it; the row's id in a file of logits, or nothing.
    pub(super) path: String,
    /// Rows of one unit count once.
    pub(super) unit: Option<u64>,
    pub(super) logits: Vec<f32>,
    pub(super) score: f64,
    /// The answered class by name; none if deferred.
    pub(super) answer: Option<String>,
    /// The true class by name, if the row itself says it.
    pub(super) truth: Option<String>,
    pub(super) certified: bool,
    /// Not read before, by this state.
    pub(super) is_new: bool,
}

impl Row {
    /// An image that is labelled twice is one label.
    pub(super) fn labelled_unit(&self) -> Option<u64> {
        let named = || (!self.path.is_empty()).then(|| unit_of_path(&self.path));
        self.unit.or_else(named)
    }
}

/// All rows of the files that `args` names, in their order; `marks` are brought up to date.
pub(super) fn read(
    args: &MonitorArgs,
    subject: &Subject,
    marks: &mut Vec<Mark>,
    counts: &mut Counts,
    output: Output,
) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for path in &args.logs {
        let log = log::read(path, marks, subject)
            .with_context(|| format!("cannot read the log {}", path.display()))?;
        if log.is_unfinished {
            output.note(&format!(
                "{}: the last line isn't finished, and is left for the next time",
                path.display()
            ));
        }
        counts.not_judged += log.not_judged;
        log.mark.replace_in(marks);
        rows.extend(log.rows);
    }
    for path in &args.logits {
        rows.extend(table(path, marks, subject, output)?);
    }
    counts.count(&rows);
    Ok(rows)
}

/// A file of logits is read as a whole, once.
fn table(
    path: &Path,
    marks: &mut Vec<Mark>,
    subject: &Subject,
    output: Output,
) -> anyhow::Result<Vec<Row>> {
    let table = tables::read(path)?;
    table.notes.iter().for_each(|note| output.note(note));
    let set = table.set;
    if set.classes != subject.policy.classes {
        bail!(
            "{}: {} classes, the policy decides among {}",
            path.display(),
            set.classes,
            subject.policy.classes
        );
    }
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let mark = Mark {
        bytes: bytes.len() as u64,
        digest: Digest::of_bytes(&bytes),
        before: None,
    };
    let is_new = !marks.iter().any(|known| known.digest == mark.digest);
    if !is_new {
        output.note(&format!(
            "{}: read before, not counted again",
            path.display()
        ));
    }
    mark.replace_in(marks);
    (0..set.n())
        .map(|i| row(&set, i, is_new, subject))
        .collect()
}

fn row(set: &LogitSet, i: usize, is_new: bool, subject: &Subject) -> anyhow::Result<Row> {
    let logits = set.row(i).to_vec();
    let decision = subject.policy.decide(set.model_row(i))?;
    let answer = match decision.outcome {
        Outcome::Answer { label } => Some(subject.class_name(label)),
        Outcome::Defer => None,
    };
    let truth = usize::try_from(set.labels[i])?;
    Ok(Row {
        path: set.ids.get(i).cloned().unwrap_or_default(),
        unit: set.units.as_ref().map(|units| units[i]),
        logits,
        score: decision.score,
        answer,
        truth: Some(subject.class_name(truth)),
        certified: true,
        is_new,
    })
}
