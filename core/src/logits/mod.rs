//! `logits/<split>.safetensors`: raw logits with their labels, and who made them.
//!
//! | tensor | type | holds |
//! |---|---|---|
//! | `logits` | f32 `[n, classes]`, or `[n]` or `[n, 1]`: the logit of class 1 | raw logits |
//! | `labels` | i64 `[n]` | class indices |
//! | `group` (optional) | i64 `[n]`, or text | rows with the same value are one unit |
//! | `split` (optional) | text | names of splits |
//! | `id` (optional) | i64 `[n]`, or text | what the row is called |
//! | `gate` (optional) | f32 `[n]` | the output of a learned correctness gate |
//!
//! Text is u8 `[n, width]`: UTF-8, filled up with zeros (what NumPy's `S` arrays hold).

mod file;

use crate::artifact::{self, Digest};
use crate::policy::Row;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::PathBuf;

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
    /// The output of a learned correctness gate `[n]`: larger where the model is more likely right.
    pub gate: Option<Vec<f32>>,
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
    /// A tensor that nothing reads.
    #[error(
        "{}: unknown tensor `{name}`; expected `logits`, `labels` and, if there are any, `group`, `split`, `id`, `gate`",
        path.display()
    )]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
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
    /// A gate is NaN or infinite.
    #[error("row {row}{}: gate is {value}, a finite number is needed", named(id))]
    NonFiniteGate {
        /// Index of the row.
        row: usize,
        /// Its name, or nothing.
        id: String,
        /// Its value.
        value: f32,
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

    /// What the model says of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn model_row(&self, i: usize) -> Row<'_> {
        Row {
            logits: self.row(i),
            gate: self.gate.as_ref().map(|gate| gate[i]),
        }
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
            gate: self.gate.as_ref().map(|gate| pick(gate, rows)),
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
        self.check_gates()?;
        self.check_labels()?;
        self.check_ids()
    }

    fn check_lengths(&self) -> Result<()> {
        let want = self.labels.len();
        let columns = [
            ("id", (!self.ids.is_empty()).then_some(self.ids.len())),
            ("group", self.units.as_ref().map(Vec::len)),
            ("split", self.split.as_ref().map(Vec::len)),
            ("gate", self.gate.as_ref().map(Vec::len)),
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

    fn check_gates(&self) -> Result<()> {
        let gates = self.gate.as_deref().unwrap_or_default();
        match gates.iter().position(|gate| !gate.is_finite()) {
            None => Ok(()),
            Some(row) => Err(LogitsError::NonFiniteGate {
                row,
                id: self.id(row),
                value: gates[row],
            }),
        }
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
}

fn pick<T: Clone>(values: &[T], rows: &[usize]) -> Vec<T> {
    rows.iter().map(|i| values[*i].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::tensors::{self, Tensor};
    use std::collections::BTreeMap;

    fn full() -> LogitSet {
        let digest = Digest::of_bytes(b"model");
        LogitSet {
            logits: vec![1.0, -2.0, 0.5, 0.25, f32::MAX, f32::MIN],
            classes: 2,
            labels: vec![0, 1, 1],
            ids: vec!["a/b.png".into(), "é.png".into(), "c".into()],
            units: Some(vec![u64::MAX, 3, 3]),
            split: Some(vec!["val_select".into(), "val_calib".into(), String::new()]),
            gate: Some(vec![0.5, -1.0, f32::MAX]),
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
        type Edit = (&'static str, fn(&mut LogitSet));
        let edits: [Edit; 9] = [
            ("row 2 (`c`): gate is inf", |s| {
                s.gate = Some(vec![0.0, 0.0, f32::INFINITY])
            }),
            ("`gate` has 1 values", |s| s.gate = Some(vec![0.0])),
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
                "unknown tensor `groups`; expected `logits`, `labels`",
                vec![
                    logits.clone(),
                    labels.clone(),
                    ("groups", Tensor::i64([1], vec![0])),
                ],
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
        assert_eq!(set.gate, Some(vec![f32::MAX, 0.5]));
    }
}
