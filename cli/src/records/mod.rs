//! Records of decisions, written one by one: as a table for people, JSON lines, CSV or Parquet.
//!
//! | | JSON lines | CSV | Parquet |
//! |---|---|---|---|
//! | a record | what [`Prediction`] is in JSON | `path`, `decision`, `label`, `probability`, `certified`, `reason`, `error`, `gate` if the model has one, `logit_0`, … | the same columns, `logits` a list |
//! | no value | null, or the key is missing | empty | null |
//! | how they were made | beside it, if it can be [resumed](resume) | beside it, if it can be resumed | metadata `stage1` |

mod csv;
mod jsonl;
mod parquet;
pub(crate) mod resume;
mod table;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use stage1_core::{
    artifact::{Digest, Document},
    bundle::{DecisionKind, Prediction},
    certificate::Fingerprint,
};
use stage1_runtime::Predictor;
use std::{
    io::{self, Write},
    path::Path,
};

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON object per line
    Jsonl,
    /// One row per image, with a header
    Csv,
    /// A file of columns
    Parquet,
}

impl Format {
    /// That of a file, by its name.
    pub(crate) fn of(path: &Path) -> anyhow::Result<Self> {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        Ok(match extension.as_deref() {
            Some("jsonl" | "ndjson") => Self::Jsonl,
            Some("csv") => Self::Csv,
            Some("parquet") => Self::Parquet,
            _ => bail!(
                "{}: its extension says no format; use .jsonl, .csv or .parquet, or give --format",
                path.display()
            ),
        })
    }

    /// A writer of records behind those that are in `out` already.
    pub(crate) fn further<'a>(
        self,
        out: impl Write + Send + 'a,
        job: &Job,
    ) -> io::Result<Box<dyn Records + 'a>> {
        match self {
            Self::Csv => Ok(Box::new(csv::Csv::go_on(out, job))),
            Self::Table | Self::Jsonl | Self::Parquet => self.writer(out, job),
        }
    }

    /// A writer of records into `out`, which is empty.
    pub(crate) fn writer<'a>(
        self,
        out: impl Write + Send + 'a,
        job: &Job,
    ) -> io::Result<Box<dyn Records + 'a>> {
        Ok(match self {
            Self::Table => Box::new(table::Table::start(out, &job.labels)?),
            Self::Jsonl => Box::new(jsonl::JsonLines::new(out)),
            Self::Csv => Box::new(csv::Csv::start(out, job)?),
            Self::Parquet => Box::new(parquet::Parquet::start(out, job)?),
        })
    }
}

/// Takes records in order.
pub(crate) trait Records {
    fn push(&mut self, record: Prediction) -> io::Result<()>;

    /// Writes what isn't written yet. Without this, the end is missing.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Who decides: what records depend on, beside the images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Job {
    schema_version: u32,
    /// The bundle's variant.
    variant: String,
    /// Of its model, policy, certificate and preprocessing.
    variant_digest: Digest,
    /// The classes.
    labels: Vec<String>,
    /// Whether the model has a gate.
    gate: bool,
    /// The session.
    fingerprint: Fingerprint,
    /// Whether the certificate covers the session.
    certified: bool,
    /// Images of more pixels weren't judged.
    max_pixels: u64,
}

impl Job {
    pub(crate) fn new(predictor: &Predictor, max_pixels: u64) -> anyhow::Result<Self> {
        let scorer = predictor.scorer();
        let manifest = predictor.bundle().manifest();
        Ok(Self {
            schema_version: Self::SCHEMA_VERSION,
            variant: scorer.variant().to_owned(),
            variant_digest: predictor.bundle().variant_digest(scorer.variant())?,
            labels: manifest.labels.clone(),
            gate: manifest.gate.is_some(),
            fingerprint: scorer.fingerprint(),
            certified: predictor.standing().is_certified(),
            max_pixels,
        })
    }
}

impl Document for Job {
    const KIND: &'static str = "job.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The decision as all formats name it.
fn name_of(decision: DecisionKind) -> &'static str {
    match decision {
        DecisionKind::Answer => "answer",
        DecisionKind::Defer => "defer",
        DecisionKind::Error => "error",
    }
}

#[cfg(test)]
pub(crate) mod tests;
