//! What a training leaves to look at: `metrics.jsonl` (and `metrics.explora.jsonl`), TensorBoard's events, and the story as it happens.

use crate::{
    Error, Result,
    events::{EpochRecord, Events, PretrainingRecord},
    fit::Watch,
    tensorboard::Board,
};
use serde::Serialize;
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

/// An epoch's line.
pub(crate) trait Line: Serialize {
    /// Optimiser steps since the training began.
    fn steps(&self) -> usize;
    /// What is drawn over them.
    fn scalars(&self) -> Vec<(String, f64)>;
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
    pub(crate) fn create<L: Line>(
        path: PathBuf,
        board: &Path,
        ended: &[L],
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

    fn append(&mut self, record: &impl Line) -> Result<()> {
        let mut line = serde_json::to_vec(record).expect("a record has a JSON form");
        line.push(b'\n');
        let written = self
            .metrics
            .write_all(&line)
            .and_then(|()| self.board.scalars(record.steps(), &record.scalars()));
        written.map_err(|source| Error::MetricsFile {
            path: self.path.clone(),
            source,
        })
    }
}

/// Of self-supervised training.
impl Log<'_> {
    /// So many images were trained on.
    pub(crate) fn advance(&self, images: usize) {
        self.events.advance(images as u64);
    }

    /// An epoch has ended.
    pub(crate) fn record(&mut self, record: &PretrainingRecord) -> Result<()> {
        self.events.pretraining(record);
        self.append(record)
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

impl Line for EpochRecord {
    fn steps(&self) -> usize {
        self.steps
    }

    fn scalars(&self) -> Vec<(String, f64)> {
        let train = [
            ("train/loss", self.train_loss),
            ("train/learning_rate", self.learning_rate),
            ("train/max_grad_norm", self.max_grad_norm),
            ("train/images_per_second", self.images_per_second),
            ("epoch", self.epoch as f64),
        ];
        let train = train.map(|(name, value)| (name.to_owned(), value));
        let select = self.val_select.iter();
        train
            .into_iter()
            .chain(select.map(|(name, value)| (format!("val_select/{name}"), *value)))
            .collect()
    }
}

impl Line for PretrainingRecord {
    fn steps(&self) -> usize {
        self.steps
    }

    fn scalars(&self) -> Vec<(String, f64)> {
        let course = [
            ("explora/learning_rate", self.learning_rate),
            ("explora/teacher_momentum", self.teacher_momentum),
            ("explora/teacher_temperature", self.teacher_temperature),
            ("explora/max_grad_norm", self.max_grad_norm),
            ("explora/images_per_second", self.images_per_second),
            ("epoch", self.epoch as f64),
        ];
        let course = course.map(|(name, value)| (name.to_owned(), value));
        let metrics = self.metrics.iter();
        course
            .into_iter()
            .chain(metrics.map(|(name, value)| (format!("explora/{name}"), *value)))
            .collect()
    }
}
