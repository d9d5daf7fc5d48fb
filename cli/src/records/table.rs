//! Records for people: one line each, the path behind columns whose widths are known before the first record.

use super::{Records, name_of};
use stage1_core::bundle::{DecisionKind, Prediction};
use std::io::{self, Write};

pub(super) struct Table<W> {
    out: W,
    label: usize,
}

impl<W: Write> Table<W> {
    pub(super) fn start(out: W, labels: &[String]) -> io::Result<Self> {
        let widths = labels.iter().map(|label| label.chars().count());
        let label = widths.max().unwrap_or(0).max("label".len());
        let mut table = Self { out, label };
        table.line("decision", "label", "probability", "path")?;
        Ok(table)
    }

    fn line(
        &mut self,
        decision: &str,
        label: &str,
        probability: &str,
        rest: &str,
    ) -> io::Result<()> {
        let width = self.label;
        writeln!(
            self.out,
            "{decision:<8}  {label:<width$}  {probability:<11}  {rest}"
        )
    }
}

impl<W: Write> Records for Table<W> {
    /// A deferred image's reason follows its path; an error names the file itself.
    fn push(&mut self, record: Prediction) -> io::Result<()> {
        let Prediction {
            path,
            decision,
            label,
            probability,
            reason,
            error,
            certified,
            ..
        } = record;
        let probability = probability.map_or_else(|| "-".to_owned(), |p| format!("{p:.4}"));
        let rest = match decision {
            DecisionKind::Answer if certified => path,
            DecisionKind::Answer => format!("{path}  not certified"),
            DecisionKind::Defer => format!("{path}  {}", reason.unwrap_or_default()),
            DecisionKind::Error => error.unwrap_or(path),
        };
        let label = label.as_deref().unwrap_or("-");
        self.line(name_of(decision), label, &probability, &rest)?;
        self.out.flush()
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}
