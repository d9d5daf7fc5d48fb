//! Labelled images: a folder per class, or a CSV file.

mod error;
mod options;

pub use error::{Error, Result};
pub use options::{Content, DataOptions, NearOptions, OnBadImage, OnConflict};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One labelled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The path relative to the data root, with `/` between the parts.
    pub id: String,
    /// The index of its label in [`Dataset::labels`].
    pub label: usize,
    /// What it has in common with other images (a place, a person, a video): a group stays in one split.
    pub group: Option<String>,
    /// The split that the CSV gives it.
    pub given: Option<GivenSplit>,
}

/// The splits that a CSV may name: `train` and `val`, or `train` and the three parts of validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GivenSplit {
    /// For training.
    Train,
    /// To be divided into `val_select`, `val_calib` and `val_test`.
    Val,
    /// For choices.
    ValSelect,
    /// For the certificate.
    ValCalib,
    /// For the verdict.
    ValTest,
}

/// Files beside the images that are no images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub count: u64,
    /// The first few, relative to the root, sorted.
    pub examples: Vec<String>,
}

/// A list of labelled images, not opened yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// What [`Sample::id`] is relative to.
    pub root: PathBuf,
    /// The labels, sorted; a label's place is its index.
    pub labels: Vec<String>,
    /// The images, sorted by id.
    pub samples: Vec<Sample>,
    /// Files that were passed over because their names aren't image names.
    pub skipped: Skipped,
    /// The options that it was opened with.
    pub options: DataOptions,
}

impl Dataset {
    /// Where the file of `sample` is.
    pub fn path(&self, sample: &Sample) -> PathBuf {
        self.root.join(&sample.id)
    }
}
