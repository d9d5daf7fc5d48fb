//! Files of logits that others made: safetensors, NumPy's npz, and CSV.
//!
//! | | safetensors | npz | CSV |
//! |---|---|---|---|
//! | logits | `logits` f32 (f16, bf16) `[N, K]` | `logits` f4 or f8 `[N, K]` | `logit_0`, …, `logit_{K-1}` |
//! | two classes, short | `[N]` or `[N, 1]`: the logit of class 1 | the same | `logit` |
//! | labels | `labels` i64, i32 or u8 `[N]` | `labels`, any integers `[N]` | `label` |
//! | `group`, `id` (optional) | i64 `[N]`, or u8 text `[N, width]` | integers, `U` or `S` strings | text |
//! | `gate` (optional) | f32 `[N]` | f4 or f8 `[N]` | a number |
//! | `split` (optional) | the same; numbers are codes | the same; numbers are codes | text |
//!
//! Splits are `train`, `val_select`, `val_calib` and `val_test`, or their codes 0, 1, 2 and 3. Rows of one group are one
//! unit. Logits are float32 from here on: wider ones are rounded, and [`LogitTable::notes`] says so.

mod csv;
mod error;
mod npz;

pub(crate) use error::TableError;

use stage1_core::logits::{LogitSet, LogitsError};
use std::path::Path;

type Result<T, E = TableError> = std::result::Result<T, E>;

/// The names of splits; the position is the code.
const SPLITS: [&str; 4] = ["train", "val_select", "val_calib", "val_test"];

/// A file that was read and checked.
#[derive(Debug)]
pub(crate) struct LogitTable {
    /// Its rows: at least one, finite, with labels in range.
    pub(crate) set: LogitSet,
    /// What the reader did that the caller should tell.
    pub(crate) notes: Vec<String>,
}

/// Reads a file of logits; the extension says how.
///
/// # Errors
/// [`TableError`], naming the file, the column or array, the row, what was expected and what was found.
pub(crate) fn read(path: &Path) -> Result<LogitTable> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let mut table = match extension.as_deref() {
        Some("safetensors") => read_safetensors(path)?,
        Some("npz") => npz::read(path)?,
        Some("csv") => csv::read(path)?,
        _ => {
            return Err(TableError::Extension {
                path: path.to_owned(),
            });
        }
    };
    check(path, &mut table.set)?;
    if are_probabilities(&table.set) {
        table.notes.push(format!(
            "{}: every row is of numbers from 0 to 1 whose sum is 1, so probabilities, it seems, where logits are expected; their \
             logarithms are logits",
            path.display()
        ));
    }
    Ok(table)
}

fn are_probabilities(set: &LogitSet) -> bool {
    let is_one = |row: &[f32]| {
        row.iter().all(|p| (0.0..=1.0).contains(p)) && (row.iter().sum::<f32>() - 1.0).abs() < 1e-3
    };
    (0..set.n()).all(|i| is_one(set.row(i)))
}

fn read_safetensors(path: &Path) -> Result<LogitTable> {
    let set = LogitSet::load(path).map_err(|source| rows_error(path, source))?;
    Ok(LogitTable {
        set,
        notes: Vec::new(),
    })
}

fn check(path: &Path, set: &mut LogitSet) -> Result<()> {
    if set.labels.is_empty() {
        return Err(TableError::Empty {
            path: path.to_owned(),
        });
    }
    for (row, value) in set.split.iter_mut().flatten().enumerate() {
        let Some(name) = split_name(value) else {
            return Err(TableError::Split {
                path: path.to_owned(),
                row,
                got: value.clone(),
            });
        };
        *value = name.to_owned();
    }
    set.validate().map_err(|source| rows_error(path, source))
}

fn split_name(value: &str) -> Option<&'static str> {
    let is_it = |(code, name): &(usize, &str)| *name == value || code.to_string() == value;
    SPLITS
        .into_iter()
        .enumerate()
        .find(is_it)
        .map(|(_, name)| name)
}

/// Errors about rows don't name the file; those about files do.
fn rows_error(path: &Path, source: LogitsError) -> TableError {
    match source {
        LogitsError::Artifact(error) => TableError::File(error),
        LogitsError::Text { .. } | LogitsError::UnknownTensor { .. } => TableError::Text(source),
        _ => TableError::Rows {
            path: path.to_owned(),
            source,
        },
    }
}

#[cfg(test)]
mod tests;
