use super::Listing;
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a source is no data set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A folder of images doesn't need to be told where its images are.
    #[error(
        "data.root is {}, but data.source {} is a folder: `root` is what the paths in a CSV are relative to; leave it out",
        root.display(),
        path.display()
    )]
    RootOfFolder {
        /// The folder.
        path: PathBuf,
        /// The root that was given.
        root: PathBuf,
    },
    /// The file system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// An option that means nothing.
    #[error("`{option}` is {got}, expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        got: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// There is nothing at the path.
    #[error("{}: no such file or folder; expected a folder with one folder of images per class, or a CSV file with the columns path,label[,group][,split]", path.display())]
    NoSource {
        /// The path.
        path: PathBuf,
    },
    /// Images lie beside the class folders.
    #[error("{}: {images} lie(s) beside the class folders, without a label; move each image into the folder of its class", root.display())]
    StrayImages {
        /// The data root.
        root: PathBuf,
        /// The images.
        images: Listing,
    },
    /// The folder has no folders.
    #[error("{}: no class folders; expected one folder of images per class, e.g. `{}`", root.display(), root.join("cat/1.jpg").display())]
    NoClasses {
        /// The data root.
        root: PathBuf,
    },
    /// The folders at the root are splits, not classes.
    #[error("{}: its folders ({folders}) are named like splits, not like classes; put the class folders here, or list the images in a CSV file with the columns path,label,split", root.display())]
    SplitFolders {
        /// The data root.
        root: PathBuf,
        /// The folders.
        folders: Listing,
    },
    /// Class folders hold no image.
    #[error("{}: no images in the class folder(s) {folders}; add images or remove the folders", root.display())]
    EmptyClasses {
        /// The data root.
        root: PathBuf,
        /// The folders.
        folders: Listing,
    },
    /// There is nothing to tell apart.
    #[error("{}: the only label is `{label}`; a classifier needs at least two", path.display())]
    OneClass {
        /// The source.
        path: PathBuf,
        /// The label.
        label: String,
    },
    /// A label that would break the lines of what is printed, and that no bundle may have.
    #[error("{}: the label {label:?} has control characters; rename the class", path.display())]
    ControlCharacters {
        /// The source.
        path: PathBuf,
        /// The label.
        label: String,
    },
    /// A name that can't be written into a manifest.
    #[error("{}: the name isn't UTF-8; rename it", path.display())]
    NotUtf8 {
        /// The file or folder.
        path: PathBuf,
    },
    /// A linked folder contains itself.
    #[error("{}: the symbolic link leads back to a folder that contains it; remove it", path.display())]
    LinkLoop {
        /// The link.
        path: PathBuf,
    },
    /// The file isn't a table.
    #[error("{}: not a valid CSV file: {reason}", path.display())]
    Csv {
        /// The CSV.
        path: PathBuf,
        /// What the parser says, with the line.
        reason: String,
    },
    /// The CSV has no rows.
    #[error("{}: no rows below the header; expected one row per image", path.display())]
    NoRows {
        /// The CSV.
        path: PathBuf,
    },
    /// A column that means nothing.
    #[error("{}: unknown column `{column}`{}; expected path,label[,group][,split]", path.display(), did_you_mean(*nearest))]
    UnknownColumn {
        /// The CSV.
        path: PathBuf,
        /// The column's name.
        column: String,
        /// The known column with the most similar name.
        nearest: Option<&'static str>,
    },
    /// A column that every CSV has.
    #[error("{}: no column `{column}` in the header `{header}`; expected path,label[,group][,split]", path.display())]
    MissingColumn {
        /// The CSV.
        path: PathBuf,
        /// The column.
        column: &'static str,
        /// The header found.
        header: String,
    },
    /// A column that is there twice.
    #[error("{}: the column `{column}` is there twice; expected path,label[,group][,split]", path.display())]
    RepeatedColumn {
        /// The CSV.
        path: PathBuf,
        /// The column.
        column: &'static str,
    },
    /// A cell that must hold something.
    #[error("{}: line {line}: the column `{column}` is empty", path.display())]
    EmptyCell {
        /// The CSV.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column.
        column: &'static str,
    },
    /// A path that can't be an id.
    #[error("{}: line {line}: the path `{got}` {reason}; expected a path below {}, see the option `root`", path.display(), root.display())]
    BadPath {
        /// The CSV.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The cell.
        got: String,
        /// What is wrong with it.
        reason: &'static str,
        /// What paths are relative to.
        root: PathBuf,
    },
    /// A split that doesn't exist.
    #[error("{}: line {line}: unknown split `{got}`{}; expected train or val on every row, or train, val_select, val_calib and val_test", path.display(), did_you_mean(*nearest))]
    UnknownSplit {
        /// The CSV.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The cell.
        got: String,
        /// The known split with the most similar name.
        nearest: Option<&'static str>,
    },
    /// Some rows have a split.
    #[error("{}: line {without} has no split, line {with} has one; give a split to every row or to none", path.display())]
    PartialSplit {
        /// The CSV.
        path: PathBuf,
        /// A line with a split, from 1.
        with: u64,
        /// A line without.
        without: u64,
    },
    /// Both `val` and parts of it.
    #[error("{}: line {val} says `val`, line {part} says `{name}`; divide validation on every row or on none", path.display())]
    MixedSplits {
        /// The CSV.
        path: PathBuf,
        /// A line with `val`, from 1.
        val: u64,
        /// A line with a part of it.
        part: u64,
        /// That part.
        name: &'static str,
    },
    /// An image that is listed twice.
    #[error("{}: paths that are listed more than once: {rows}; keep one row for each image", path.display())]
    RepeatedPaths {
        /// The CSV.
        path: PathBuf,
        /// The paths with their lines.
        rows: Listing,
    },
    /// Images that aren't there.
    #[error("{}: {} of {rows} images are missing below {}: {files}; paths are relative to the CSV's folder or to the option `root`", path.display(), files.count, root.display())]
    MissingFiles {
        /// The CSV.
        path: PathBuf,
        /// What paths are relative to.
        root: PathBuf,
        /// The images.
        files: Listing,
        /// The number of rows.
        rows: usize,
    },
}

/// The result of reading a source.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(", did you mean `{name}`?"))
}
