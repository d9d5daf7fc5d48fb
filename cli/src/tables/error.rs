use stage1_core::{artifact, logits::LogitsError};
use std::{io, path::PathBuf};

/// What can be wrong with a file of logits. Rows count from 0, lines of a CSV file from 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// The extension isn't one of ours.
    #[error("{}: expected a file that ends in .safetensors, .npz or .csv", path.display())]
    Extension { path: PathBuf },
    /// The file can't be opened.
    #[error("{}: cannot read: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    /// A safetensors file that can't be read, or lacks a tensor.
    #[error(transparent)]
    File(artifact::Error),
    /// A safetensors tensor of names that isn't one.
    #[error(transparent)]
    Text(LogitsError),
    /// There is not one row.
    #[error("{}: no rows: at least one with logits and a label is needed", path.display())]
    Empty { path: PathBuf },
    /// The columns contradict each other, or a value is none.
    #[error("{}: {source}", path.display())]
    Rows { path: PathBuf, source: LogitsError },
    /// A split of another name.
    #[error("{}: row {row}: split `{got}` is unknown: expected train, val_select, val_calib or val_test, or a code from 0 to 3 in that order", path.display())]
    Split {
        path: PathBuf,
        row: usize,
        got: String,
    },
    /// The CSV file can't be taken apart.
    #[error("{}: {source}", path.display())]
    Csv { path: PathBuf, source: csv::Error },
    /// A header that isn't one of ours.
    #[error("{}: unexpected column `{column}`: expected `label`, `logit_0`, `logit_1`, … (or one `logit`, of class 1) and, if wanted, `id`, `group`, `split`, `gate`", path.display())]
    StrayColumn { path: PathBuf, column: String },
    /// A header that is there twice.
    #[error("{}: column `{column}` is there twice", path.display())]
    RepeatedColumn { path: PathBuf, column: String },
    /// A header that isn't there.
    #[error("{}: no column `{column}`; the first line must name the columns, and it says: {found}", path.display())]
    MissingColumn {
        path: PathBuf,
        column: String,
        found: String,
    },
    /// A field of a CSV file.
    #[error("{}: line {line}: column `{column}`: expected {want}, got `{got}`", path.display())]
    Field {
        path: PathBuf,
        line: u64,
        column: String,
        want: &'static str,
        got: String,
    },
    /// The file is no zip archive of arrays, or an array is cut.
    #[error("{}: {}not readable as NumPy wrote it: {source}", path.display(), array.map(|name| format!("array `{name}`: ")).unwrap_or_default())]
    Npz {
        path: PathBuf,
        array: Option<&'static str>,
        source: io::Error,
    },
    /// An array that isn't there.
    #[error("{}: no array `{array}`; it holds: {found}", path.display())]
    MissingArray {
        path: PathBuf,
        array: &'static str,
        found: String,
    },
    /// An array that nothing reads: a misspelt `group` would turn clustered rows into independent ones.
    #[error("{}: unknown array `{array}`; expected `logits`, `labels` and, if there are any, `group`, `split`, `id`, `gate`", path.display())]
    UnknownArray { path: PathBuf, array: String },
    /// Python objects.
    #[error("{}: array `{array}` holds Python objects (dtype object), which only unpickling could read, and that runs code; save it as {want}, e.g. `{array}.astype({example})`", path.display())]
    Pickle {
        path: PathBuf,
        array: &'static str,
        want: &'static str,
        example: &'static str,
    },
    /// An array of another type.
    #[error("{}: array `{array}` has dtype {got}, expected {want}", path.display())]
    Dtype {
        path: PathBuf,
        array: &'static str,
        got: String,
        want: &'static str,
    },
    /// An array of another shape.
    #[error("{}: array `{array}` has shape {got:?}, expected {want}", path.display())]
    Shape {
        path: PathBuf,
        array: &'static str,
        got: Vec<u64>,
        want: &'static str,
    },
}
