//! What a training leaves to look at: `metrics.jsonl`, TensorBoard's events, and the story as it happens.

use crate::{
    Error, Result,
    events::{EpochRecord, Events},
    fit::Watch,
    tensorboard::Board,
};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// What progress is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Epochs, where one takes a moment.
    Epochs,
    /// Images.
    Images,
}

/// The log of one training.
pub(crate) struct Log<'a> {
    events: &'a dyn Events,
    unit: Unit,
    path: PathBuf,
    metrics: File,
    board: Board,
}

impl<'a> Log<'a> {
    /// Starts with the epochs that have ended already.
    pub(crate) fn create(
        path: PathBuf,
        board: &Path,
        ended: &[EpochRecord],
        unit: Unit,
        events: &'a dyn Events,
    ) -> Result<Self> {
        let open = || -> io::Result<(File, Board)> {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
            // Appending, from the start: what two processes write must never leave a gap.
            File::create(&path)?;
            let metrics = File::options().append(true).open(&path)?;
            Ok((metrics, Board::create(board)?))
        };
        let (metrics, board) = open().map_err(|source| Error::MetricsFile {
            path: path.clone(),
            source,
        })?;
        let mut log = Self {
            events,
            unit,
            path,
            metrics,
            board,
        };
        for record in ended {
            log.append(record)?;
        }
        Ok(log)
    }

    fn append(&mut self, record: &EpochRecord) -> Result<()> {
        let mut line = serde_json::to_vec(record).expect("a record has a JSON form");
        line.push(b'\n');
        let written = self
            .metrics
            .write_all(&line)
            .and_then(|()| self.board.scalars(record.steps, &scalars(record)));
        written.map_err(|source| Error::MetricsFile {
            path: self.path.clone(),
            source,
        })
    }
}

impl Watch for Log<'_> {
    fn step(&mut self, images: usize) {
        if self.unit == Unit::Images {
            self.events.advance(images as u64);
        }
    }

    fn epoch(&mut self, record: &EpochRecord) -> Result<()> {
        self.events.epoch(record);
        if self.unit == Unit::Epochs {
            self.events.advance(1);
        }
        self.append(record)
    }
}

fn scalars(record: &EpochRecord) -> Vec<(String, f64)> {
    let train = [
        ("train/loss", record.train_loss),
        ("train/learning_rate", record.learning_rate),
        ("train/max_grad_norm", record.max_grad_norm),
        ("train/images_per_second", record.images_per_second),
        ("epoch", record.epoch as f64),
    ];
    let train = train.map(|(name, value)| (name.to_owned(), value));
    let select = record.val_select.iter();
    train
        .into_iter()
        .chain(select.map(|(name, value)| (format!("val_select/{name}"), *value)))
        .collect()
}
