//! Records as CSV.

use super::{Job, Records, name_of, resume::Done};
use anyhow::{Context, bail};
use csv::{ReaderBuilder, StringRecord, Writer, WriterBuilder};
use stage1_core::bundle::{DecisionKind, Prediction};
use std::io::{self, BufRead, Write};

/// Those that every model has.
const COLUMNS: [&str; 7] = [
    "path",
    "decision",
    "label",
    "probability",
    "certified",
    "reason",
    "error",
];

pub(super) struct Csv<W: Write> {
    out: Writer<W>,
    classes: usize,
    gate: bool,
}

impl<W: Write> Csv<W> {
    /// Writes the header.
    pub(super) fn start(out: W, job: &Job) -> io::Result<Self> {
        let mut csv = Self::go_on(out, job);
        csv.out.write_record(columns(job))?;
        Ok(csv)
    }

    /// Goes on below other rows.
    pub(super) fn go_on(out: W, job: &Job) -> Self {
        Self {
            out: WriterBuilder::new().from_writer(out),
            classes: job.labels.len(),
            gate: job.gate,
        }
    }

    fn row(&mut self, record: Prediction) -> csv::Result<()> {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        let single = |value: Option<f32>| value.map_or_else(String::new, |value| value.to_string());
        let text = Option::unwrap_or_default;
        let out = &mut self.out;
        out.write_field(record.path)?;
        out.write_field(name_of(record.decision))?;
        out.write_field(text(record.label))?;
        out.write_field(number(record.probability))?;
        out.write_field(record.certified.to_string())?;
        out.write_field(text(record.reason))?;
        out.write_field(text(record.error))?;
        if self.gate {
            out.write_field(single(record.gate))?;
        }
        let logits = record.logits.unwrap_or_default();
        for class in 0..self.classes {
            out.write_field(single(logits.get(class).copied()))?;
        }
        out.write_record(None::<&[u8]>)
    }
}

impl<W: Write> Records for Csv<W> {
    fn push(&mut self, record: Prediction) -> io::Result<()> {
        self.row(record)?;
        self.out.flush()
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}

fn columns(job: &Job) -> Vec<String> {
    let mut columns = COLUMNS.map(str::to_owned).to_vec();
    columns.extend(job.gate.then(|| "gate".to_owned()));
    columns.extend((0..job.labels.len()).map(|class| format!("logit_{class}")));
    columns
}

/// Where the header ends, and the whole rows below it, of a file that was being written.
///
/// # Errors
/// When the header is another.
pub(super) fn read<'a>(
    file: impl BufRead + 'a,
    job: &Job,
) -> anyhow::Result<(u64, impl Iterator<Item = anyhow::Result<Done>> + 'a)> {
    let want = columns(job);
    let mut lines = Lines { file, end: 0 };
    if let Some(header) = lines.next() {
        let header = parse(&header?)?;
        if header != want {
            bail!(
                "its header is `{}`, expected `{}`",
                header.join(","),
                want.join(",")
            );
        }
    }
    let start = lines.end;
    let rows = std::iter::from_fn(move || {
        let row = lines.next()?;
        Some(
            row.map_err(Into::into)
                .and_then(|row| done(&row, want.len(), lines.end)),
        )
    });
    Ok((start, rows))
}

/// Rows with their ends of line. One that was cut off isn't among them: it has no end of line, or one within quotes.
struct Lines<R> {
    file: R,
    /// Of the row before.
    end: u64,
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut row = Vec::new();
        loop {
            match self.file.read_until(b'\n', &mut row) {
                Ok(0) => return None,
                Ok(_) if !row.ends_with(b"\n") => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
            // Quotes within quotes are doubled.
            if row.iter().filter(|byte| **byte == b'"').count() % 2 == 0 {
                self.end += row.len() as u64;
                return Some(Ok(row));
            }
        }
    }
}

fn parse(row: &[u8]) -> anyhow::Result<Vec<String>> {
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .buffer_capacity(row.len())
        .from_reader(row);
    let mut fields = StringRecord::new();
    reader.read_record(&mut fields).context("not a record")?;
    Ok(fields.iter().map(str::to_owned).collect())
}

fn done(row: &[u8], columns: usize, end: u64) -> anyhow::Result<Done> {
    let fields = parse(row)?;
    if fields.len() != columns {
        bail!("not a record: {} columns, expected {columns}", fields.len());
    }
    let decision = match &*fields[1] {
        "answer" => DecisionKind::Answer,
        "defer" => DecisionKind::Defer,
        "error" => DecisionKind::Error,
        other => bail!("not a record: its decision is `{other}`"),
    };
    let path = fields.into_iter().next().unwrap_or_default();
    Ok(Done {
        path,
        decision,
        end,
    })
}
