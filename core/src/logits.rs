//! `logits/<split>.safetensors`: raw logits with their labels, and who made them.
//!
//! | tensor | type | holds |
//! |---|---|---|
//! | `logits` | f32 `[n, classes]`, or `[n]` or `[n, 1]`: the logit of class 1 | raw logits |
//! | `labels` | i64 `[n]` | class indices |
//! | `group` (optional) | i64 `[n]`, or text | rows with the same value are one unit |
//! | `split` (optional) | text | names of splits |
//! | `id` (optional) | i64 `[n]`, or text | what the row is called |
//!
//! Text is u8 `[n, width]`: UTF-8, filled up with zeros (what NumPy's `S` arrays hold).

use crate::artifact::{
    self, Digest,
    tensors::{self, Tensor, TensorFile},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// Who made a file of logits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Execution provider, e.g. `cpu`.
    pub provider: String,
    /// Its version, e.g. `onnxruntime 1.31.1`.
    pub provider_version: String,
    /// E.g. `fp32`.
    pub precision: String,
    /// Of the model file.
    pub model_digest: Digest,
    /// Of the preprocessing.
    pub preprocessing_digest: Digest,
}

/// Logits and labels of `n` rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogitSet {
    /// Raw logits `[n, classes]`, row-major.
    pub logits: Vec<f32>,
    /// Number of classes, at least 2.
    pub classes: usize,
    /// Class indices `[n]`.
    pub labels: Vec<i64>,
    /// What the rows are called `[n]`; empty if they have no names.
    pub ids: Vec<String>,
    /// Rows with the same number are one unit `[n]`; none: every row is its own.
    pub units: Option<Vec<u64>>,
    /// Names of splits `[n]`.
    pub split: Option<Vec<String>>,
    /// Who made them, where known.
    pub source: Option<Source>,
}

/// What can be wrong with a set of logits.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogitsError {
    /// The file can't be read, or lacks a tensor.
    #[error(transparent)]
    Artifact(#[from] artifact::Error),
    /// A tensor of names isn't what this page describes.
    #[error("{}: tensor `{name}`: {reason}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Fewer than two classes.
    #[error(
        "logits have {got} classes: at least 2 are needed (one column is read as the logit of class 1)"
    )]
    Classes {
        /// Number found.
        got: usize,
    },
    /// A column has another length than the logits have rows.
    #[error("`{field}` has {got} values, but `logits` has {want} rows")]
    Length {
        /// The column.
        field: &'static str,
        /// Found.
        got: usize,
        /// Expected.
        want: usize,
    },
    /// A logit is NaN or infinite.
    #[error(
        "row {row}{}: logit {class} is {value}, a finite number is needed; rows like this: {rows}",
        named(id)
    )]
    NonFinite {
        /// Index of the row.
        row: usize,
        /// Its name, or nothing.
        id: String,
        /// Index of the logit.
        class: usize,
        /// Its value.
        value: f32,
        /// In how many rows that is so.
        rows: usize,
    },
    /// A label is no class.
    #[error("row {row}{}: label {label} is outside 0..{classes}", named(id))]
    Label {
        /// Index of the row.
        row: usize,
        /// Its name, or nothing.
        id: String,
        /// The label.
        label: i64,
        /// Number of classes.
        classes: usize,
    },
    /// Two rows have one name.
    #[error("id `{id}` occurs twice (the second time in row {row}): ids must be unique")]
    DuplicateId {
        /// The name.
        id: String,
        /// Where it occurs again.
        row: usize,
    },
}

fn named(id: &str) -> String {
    if id.is_empty() {
        String::new()
    } else {
        format!(" (`{id}`)")
    }
}

/// The result of reading logits.
pub type Result<T, E = LogitsError> = std::result::Result<T, E>;

impl LogitSet {
    /// Number of rows.
    pub fn n(&self) -> usize {
        self.logits.len() / self.classes.max(1)
    }

    /// The logits of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.logits[i * self.classes..(i + 1) * self.classes]
    }

    /// Two columns (0, z) of the logits of class 1: what one column means.
    pub fn binary_columns(class_1: &[f32]) -> Vec<f32> {
        class_1.iter().flat_map(|z| [0.0, *z]).collect()
    }

    /// The unit of a group's name.
    pub fn unit_of_name(name: &str) -> u64 {
        Digest::of_bytes(name.as_bytes()).as_u64()
    }

    /// The rows `rows`, in that order.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn subset(&self, rows: &[usize]) -> Self {
        Self {
            logits: rows.iter().flat_map(|i| self.row(*i)).copied().collect(),
            classes: self.classes,
            labels: pick(&self.labels, rows),
            ids: if self.ids.is_empty() {
                Vec::new()
            } else {
                pick(&self.ids, rows)
            },
            units: self.units.as_ref().map(|units| pick(units, rows)),
            split: self.split.as_ref().map(|split| pick(split, rows)),
            source: self.source.clone(),
        }
    }

    /// Checks lengths, that logits are finite, labels are classes and ids are unique.
    ///
    /// # Errors
    /// The first thing that is wrong, with its row.
    pub fn validate(&self) -> Result<()> {
        if self.classes < 2 {
            return Err(LogitsError::Classes { got: self.classes });
        }
        self.check_lengths()?;
        if let Some(at) = self.logits.iter().position(|z| !z.is_finite()) {
            let row = at / self.classes;
            let is_bad = |row: &&[f32]| row.iter().any(|z| !z.is_finite());
            return Err(LogitsError::NonFinite {
                row,
                id: self.id(row),
                class: at % self.classes,
                value: self.logits[at],
                rows: self.logits.chunks(self.classes).filter(is_bad).count(),
            });
        }
        self.check_labels()?;
        self.check_ids()
    }

    fn check_lengths(&self) -> Result<()> {
        let want = self.labels.len();
        let columns = [
            ("id", (!self.ids.is_empty()).then_some(self.ids.len())),
            ("group", self.units.as_ref().map(Vec::len)),
            ("split", self.split.as_ref().map(Vec::len)),
        ];
        if self.logits.len() != want * self.classes {
            return Err(LogitsError::Length {
                field: "labels",
                got: want,
                want: self.logits.len() / self.classes,
            });
        }
        for (field, length) in columns {
            if let Some(got) = length.filter(|got| *got != want) {
                return Err(LogitsError::Length { field, got, want });
            }
        }
        Ok(())
    }

    fn check_labels(&self) -> Result<()> {
        let is_class = |label: i64| usize::try_from(label).is_ok_and(|label| label < self.classes);
        match self.labels.iter().position(|label| !is_class(*label)) {
            None => Ok(()),
            Some(row) => Err(LogitsError::Label {
                row,
                id: self.id(row),
                label: self.labels[row],
                classes: self.classes,
            }),
        }
    }

    fn check_ids(&self) -> Result<()> {
        let mut seen = HashSet::new();
        match self.ids.iter().position(|id| !seen.insert(id)) {
            None => Ok(()),
            Some(row) => Err(LogitsError::DuplicateId {
                id: self.id(row),
                row,
            }),
        }
    }

    fn id(&self, row: usize) -> String {
        self.ids.get(row).cloned().unwrap_or_default()
    }

    /// Reads and validates a file.
    ///
    /// # Errors
    /// [`LogitsError`] naming the file, or the row.
    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let (classes, logits) = load_logits(&file)?;
        let set = Self {
            logits,
            classes,
            labels: load_column(&file, "labels")?,
            ids: load_names(&file, "id")?.unwrap_or_default(),
            units: load_units(&file)?,
            split: load_names(&file, "split")?,
            source: load_source(&file)?,
        };
        set.validate()?;
        Ok(set)
    }

    /// Validates and writes a file whose bytes depend on the content alone; returns their digest.
    ///
    /// # Errors
    /// [`LogitsError`].
    pub fn save(&self, path: &Path) -> Result<Digest> {
        self.validate()?;
        let n = self.n();
        let mut out = BTreeMap::from([
            (
                "logits".to_owned(),
                Tensor::f32([n, self.classes], self.logits.clone()),
            ),
            ("labels".to_owned(), Tensor::i64([n], self.labels.clone())),
        ]);
        if !self.ids.is_empty() {
            out.insert("id".to_owned(), text_tensor(&self.ids));
        }
        if let Some(units) = &self.units {
            let units = units.iter().map(|unit| unit.cast_signed()).collect();
            out.insert("group".to_owned(), Tensor::i64([n], units));
        }
        if let Some(split) = &self.split {
            out.insert("split".to_owned(), text_tensor(split));
        }
        let source = self.source.as_ref().map(|source| {
            let json = serde_json::to_string(source).expect("plain data has a JSON form");
            ("source".to_owned(), json)
        });
        Ok(tensors::save(path, &out, &source.into_iter().collect())?)
    }
}

fn pick<T: Clone>(values: &[T], rows: &[usize]) -> Vec<T> {
    rows.iter().map(|i| values[*i].clone()).collect()
}

fn load_logits(file: &TensorFile) -> Result<(usize, Vec<f32>)> {
    let (shape, values) = file.f32("logits")?;
    match shape[..] {
        [_] | [_, 1] => Ok((2, LogitSet::binary_columns(&values))),
        [_, classes] => Ok((classes, values)),
        _ => Err(shape_error(file, "logits", shape, "[n, classes] or [n]")),
    }
}

fn load_column(file: &TensorFile, name: &'static str) -> Result<Vec<i64>> {
    let (shape, values) = file.i64(name)?;
    match shape[..] {
        [_] => Ok(values),
        _ => Err(shape_error(file, name, shape, "[n]")),
    }
}

fn load_units(file: &TensorFile) -> Result<Option<Vec<u64>>> {
    if is_text(file, "group")? {
        let names = load_names(file, "group")?;
        return Ok(names.map(|names| {
            names
                .iter()
                .map(|name| LogitSet::unit_of_name(name))
                .collect()
        }));
    }
    if !file.contains("group")? {
        return Ok(None);
    }
    let groups = load_column(file, "group")?;
    Ok(Some(groups.into_iter().map(i64::cast_unsigned).collect()))
}

fn load_names(file: &TensorFile, name: &'static str) -> Result<Option<Vec<String>>> {
    if !file.contains(name)? {
        return Ok(None);
    }
    if !is_text(file, name)? {
        let numbers = load_column(file, name)?;
        return Ok(Some(numbers.iter().map(i64::to_string).collect()));
    }
    let (shape, bytes) = file.u8(name)?;
    let width = shape[1].max(1);
    let rows = bytes
        .chunks(width)
        .map(|row| text(row).map_err(|reason| text_error(file, name, reason)));
    // Rows of width zero leave no bytes to cut.
    let names = if shape[1] == 0 {
        vec![String::new(); shape[0]]
    } else {
        rows.collect::<Result<_>>()?
    };
    Ok(Some(names))
}

fn is_text(file: &TensorFile, name: &str) -> Result<bool> {
    Ok(file
        .shapes()?
        .get(name)
        .is_some_and(|shape| shape.len() == 2))
}

fn text(row: &[u8]) -> Result<String, String> {
    let end = row
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let text = std::str::from_utf8(&row[..end]).map_err(|error| format!("not UTF-8: {error}"))?;
    Ok(text.to_owned())
}

fn text_tensor(names: &[String]) -> Tensor {
    let width = names.iter().map(String::len).max().unwrap_or(0);
    let mut bytes = vec![0; names.len() * width];
    for (row, name) in bytes.chunks_mut(width.max(1)).zip(names) {
        row[..name.len()].copy_from_slice(name.as_bytes());
    }
    Tensor::u8([names.len(), width], bytes)
}

fn load_source(file: &TensorFile) -> Result<Option<Source>> {
    let metadata = file.metadata()?;
    let Some(json) = metadata.get("source") else {
        return Ok(None);
    };
    let source = serde_json::from_str(json).map_err(|error| artifact::Error::Json {
        path: file.path().to_owned(),
        kind: "source of the logits",
        field: "source".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Some(source))
}

fn shape_error(file: &TensorFile, name: &str, got: Vec<usize>, want: &str) -> LogitsError {
    LogitsError::Artifact(artifact::Error::TensorShape {
        path: file.path().to_owned(),
        name: name.to_owned(),
        got,
        want: want.to_owned(),
    })
}

fn text_error(file: &TensorFile, name: &'static str, reason: String) -> LogitsError {
    LogitsError::Text {
        path: file.path().to_owned(),
        name,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> LogitSet {
        let digest = Digest::of_bytes(b"model");
        LogitSet {
            logits: vec![1.0, -2.0, 0.5, 0.25, f32::MAX, f32::MIN],
            classes: 2,
            labels: vec![0, 1, 1],
            ids: vec!["a/b.png".into(), "é.png".into(), "c".into()],
            units: Some(vec![u64::MAX, 3, 3]),
            split: Some(vec!["val_select".into(), "val_calib".into(), String::new()]),
            source: Some(Source {
                provider: "cpu".into(),
                provider_version: "onnxruntime 1.31.1".into(),
                precision: "fp32".into(),
                model_digest: digest,
                preprocessing_digest: digest,
            }),
        }
    }

    fn saved(tensors: &[(&str, Tensor)]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.safetensors");
        let map = tensors
            .iter()
            .map(|(name, tensor)| ((*name).to_owned(), tensor.clone()))
            .collect();
        tensors::save(&path, &map, &BTreeMap::new()).unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_saved_is_loaded_and_the_bytes_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logits/val_calib.safetensors");
        let digest = full().save(&path).unwrap();
        assert_eq!(LogitSet::load(&path).unwrap(), full());
        assert_eq!(full().save(&path).unwrap(), digest);
        let plain = LogitSet {
            logits: vec![0.0, 1.0],
            classes: 2,
            labels: vec![1],
            ..LogitSet::default()
        };
        plain.save(&path).unwrap();
        assert_eq!(LogitSet::load(&path).unwrap(), plain);
    }

    #[test]
    fn one_column_is_the_logit_of_class_1_and_ids_may_be_numbers() {
        for shape in [vec![2], vec![2, 1]] {
            let (_dir, path) = saved(&[
                ("logits", Tensor::f32(shape, vec![3.0, -1.0])),
                ("labels", Tensor::i64([2], vec![1, 0])),
                ("id", Tensor::i64([2], vec![7, -8])),
                ("group", Tensor::u8([2, 3], b"ab\0ab\0".to_vec())),
            ]);
            let set = LogitSet::load(&path).unwrap();
            assert_eq!(
                (set.n(), set.row(0), set.row(1)),
                (2, &[0.0, 3.0][..], &[0.0, -1.0][..])
            );
            assert_eq!(set.ids, ["7", "-8"]);
            assert_eq!(set.units, Some(vec![LogitSet::unit_of_name("ab"); 2]));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let edits: [(&str, fn(&mut LogitSet)); 7] = [
            ("logit 1 is NaN", |s| s.logits[3] = f32::NAN),
            ("row 1 (`é.png`): label 2 is outside 0..2", |s| {
                s.labels[1] = 2
            }),
            ("label -1", |s| s.labels[0] = -1),
            ("`labels` has 2 values, but `logits` has 3", |s| {
                s.labels.truncate(2)
            }),
            ("`group` has 1 values", |s| s.units = Some(vec![1])),
            ("occurs twice", |s| s.ids[2] = "a/b.png".into()),
            ("1 classes", |s| s.classes = 1),
        ];
        for (message, edit) in edits {
            let mut set = full();
            edit(&mut set);
            let got = set.validate().unwrap_err().to_string();
            assert!(got.contains(message), "{got}");
        }
    }

    #[test]
    fn files_of_another_form_are_refused() {
        let labels = ("labels", Tensor::i64([1], vec![0]));
        let logits = ("logits", Tensor::f32([1, 2], vec![0.0, 1.0]));
        let cases = [
            ("`labels` is missing", vec![logits.clone()]),
            (
                "expected [n, classes]",
                vec![
                    ("logits", Tensor::f32([1, 2, 1], vec![0.0; 2])),
                    labels.clone(),
                ],
            ),
            (
                "expected [n]",
                vec![logits.clone(), ("labels", Tensor::i64([1, 1], vec![0]))],
            ),
            (
                "not UTF-8",
                vec![logits, labels, ("id", Tensor::u8([1, 1], vec![0xff]))],
            ),
        ];
        for (message, tensors) in cases {
            let (_dir, path) = saved(&tensors);
            let got = LogitSet::load(&path).unwrap_err().to_string();
            assert!(got.contains(message), "{got}");
        }
    }

    #[test]
    fn a_subset_keeps_its_columns() {
        let set = full().subset(&[2, 0]);
        assert_eq!(
            (set.labels, set.ids, set.units),
            (
                vec![1, 0],
                vec!["c".into(), "a/b.png".into()],
                Some(vec![3, u64::MAX])
            )
        );
        assert_eq!(set.logits, [f32::MAX, f32::MIN, 1.0, -2.0]);
    }
}
