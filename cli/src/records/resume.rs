//! Going on with a file of records that an interrupted run left: what is there must be of the same bundle and the same images.

use super::{Format, Job, csv, jsonl};
use crate::inputs::Images;
use anyhow::{Context, bail};
use serde::Serialize;
use stage1_core::{
    artifact::{self, json},
    bundle::DecisionKind,
};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// A record that is there already.
pub(crate) struct Done {
    pub(super) path: String,
    pub(super) decision: DecisionKind,
    /// Where its line ends in the file.
    pub(super) end: u64,
}

/// How many images became what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub(crate) images: u64,
    pub(crate) answered: u64,
    pub(crate) deferred: u64,
    pub(crate) errors: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, decision: DecisionKind) {
        self.images += 1;
        *match decision {
            DecisionKind::Answer => &mut self.answered,
            DecisionKind::Defer => &mut self.deferred,
            DecisionKind::Error => &mut self.errors,
        } += 1;
    }
}

/// A file of records, open behind those that are there.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) file: File,
    pub(crate) done: Counts,
    /// Whether the file is empty: not even a header is there.
    pub(crate) is_new: bool,
}

/// Opens the file, or begins it. `images` is taken up to the last image that has a record; a record that was cut off is
/// removed.
///
/// # Errors
/// When somebody else is writing the file, when its records are another job's or of other images, and when it is damaged.
pub(crate) fn open(
    path: &Path,
    format: Format,
    job: &Job,
    images: &mut Images<'_>,
) -> anyhow::Result<Begun> {
    let named = || format!("{}: cannot go on with it", path.display());
    let mut file = open_alone(path).with_context(named)?;
    if file.metadata().with_context(named)?.len() == 0 {
        json::save(job, &job_path(path))?;
        return Ok(Begun {
            file,
            done: Counts::default(),
            is_new: true,
        });
    }
    check_job(path, job)?;
    let (end, done) = match format {
        Format::Jsonl => skip(0, jsonl::read(BufReader::new(&file)), images),
        Format::Csv => csv::read(BufReader::new(&file), job)
            .and_then(|(header, rows)| skip(header, rows, images)),
        Format::Table | Format::Parquet => bail!("only JSON lines and CSV can be resumed"),
    }
    .with_context(named)?;
    file.set_len(end).with_context(named)?;
    file.seek(SeekFrom::End(0)).with_context(named)?;
    Ok(Begun {
        file,
        done,
        is_new: end == 0,
    })
}

/// What tells whose records a file holds.
fn job_path(path: &Path) -> PathBuf {
    path.with_added_extension("job.json")
}

fn open_alone(path: &Path) -> anyhow::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another process is writing it"),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// The records must be those that this job would make.
fn check_job(path: &Path, job: &Job) -> anyhow::Result<()> {
    let beside = job_path(path);
    let before = match json::load::<Job>(&beside) {
        Ok((before, _)) => before,
        Err(artifact::Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            bail!(
                "{} has records, but there is no {} that says whose: it wasn't written with --resume; choose another --output",
                path.display(),
                beside.display()
            )
        }
        Err(error) => return Err(error.into()),
    };
    let differences = differences(&before, job)?;
    if differences.is_empty() {
        return Ok(());
    }
    bail!(
        "{} was begun by another job, choose another --output, or the same bundle and options: {}",
        path.display(),
        differences.join("; ")
    )
}

fn differences(before: &Job, now: &Job) -> serde_json::Result<Vec<String>> {
    let (before, now) = (serde_json::to_value(before)?, serde_json::to_value(now)?);
    let fields = now.as_object().into_iter().flatten();
    let changed = fields.filter(|(name, now)| before[name] != **now);
    Ok(changed
        .map(|(name, now)| format!("`{name}` was {}, now it is {now}", before[name]))
        .collect())
}

/// Takes an image for each record; returns where the last one ends.
fn skip(
    start: u64,
    records: impl Iterator<Item = anyhow::Result<Done>>,
    images: &mut Images<'_>,
) -> anyhow::Result<(u64, Counts)> {
    let (mut end, mut counts) = (start, Counts::default());
    for (number, record) in (1..).zip(records) {
        let record = record.with_context(|| format!("record {number}"))?;
        let Some(image) = images.next().transpose()? else {
            bail!(
                "record {number} is of `{}`, but there are fewer images now",
                record.path
            );
        };
        if image.id != record.path {
            bail!(
                "record {number} is of `{}`, but image {number} is `{}` now: the images must be the same, in the same order",
                record.path,
                image.id
            );
        }
        end = record.end;
        counts.add(record.decision);
    }
    Ok((end, counts))
}
