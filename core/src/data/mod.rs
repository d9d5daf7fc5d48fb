//! Labelled images: a folder per class, or a CSV file.

mod error;
mod folder;
mod listing;
mod options;
mod table;

pub use error::{Error, Result};
pub use folder::{has_image_extension, images_below};
pub use listing::Listing;
pub use options::{Content, DataOptions, NearOptions, OnBadImage, OnConflict};

use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

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

impl GivenSplit {
    const ALL: [Self; 5] = [
        Self::Train,
        Self::Val,
        Self::ValSelect,
        Self::ValCalib,
        Self::ValTest,
    ];

    /// Its name in a CSV.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::ValSelect => "val_select",
            Self::ValCalib => "val_calib",
            Self::ValTest => "val_test",
        }
    }
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
    /// Files in the class folders that were passed over because their names aren't image names.
    pub skipped: Listing,
    /// The options that it was opened with.
    pub options: DataOptions,
}

impl Dataset {
    /// Where the file of `sample` is.
    pub fn path(&self, sample: &Sample) -> PathBuf {
        self.root.join(&sample.id)
    }
}

/// Lists the labelled images of `source` without opening them.
///
/// `source` is one of
/// - a folder with a folder per class: `source/<label>/**/<image>`. Labels are the folders' names, sorted. Names that
///   begin with a dot are ignored, files without an image's extension are counted in [`Dataset::skipped`]. Symbolic links
///   are followed, to files as to folders;
/// - a CSV file (UTF-8, commas) with the header `path,label[,group][,split]`, columns in any order, cells trimmed. Paths
///   are relative to [`DataOptions::root`], else to the CSV's folder, and stay below it. Labels are sorted, as numbers if
///   all are integers. A row with an empty `group` stands alone. `split` is `train` or `val` on every row, or one of
///   `train`, `val_select`, `val_calib` and `val_test`.
///
/// # Errors
/// An [`Error`] that names the file, the place, what was expected and what was found.
pub fn open(source: &Path, options: &DataOptions) -> Result<Dataset> {
    options.near.check()?;
    let kind = fs::metadata(source).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoSource {
            path: source.to_owned(),
        },
        _ => Error::io("open", source)(error),
    })?;
    let dataset = if kind.is_dir() {
        if let Some(root) = &options.root {
            return Err(Error::RootOfFolder {
                path: source.to_owned(),
                root: root.clone(),
            });
        }
        folder::open(source, options)?
    } else {
        table::open(source, options)?
    };
    let broken = |label: &&String| label.chars().any(char::is_control);
    if let Some(label) = dataset.labels.iter().find(broken) {
        return Err(Error::ControlCharacters {
            path: source.to_owned(),
            label: label.clone(),
        });
    }
    match dataset.labels.as_slice() {
        [label] => Err(Error::OneClass {
            path: source.to_owned(),
            label: label.clone(),
        }),
        _ => Ok(dataset),
    }
}
