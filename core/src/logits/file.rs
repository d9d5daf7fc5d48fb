//! Reading and writing the safetensors form.

use super::{LogitSet, LogitsError, Result, Source};
use crate::artifact::{
    self, Digest,
    tensors::{self, Tensor, TensorFile},
};
use std::collections::BTreeMap;
use std::path::Path;

impl LogitSet {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// [`LogitsError`] naming the file, or the row.
    pub fn load(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        refuse_unknown(&file)?;
        let (classes, logits) = load_logits(&file)?;
        let set = Self {
            logits,
            classes,
            labels: load_column(&file, "labels")?,
            ids: load_names(&file, "id")?.unwrap_or_default(),
            units: load_units(&file)?,
            split: load_names(&file, "split")?,
            gate: load_gates(&file)?,
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
        if let Some(gate) = &self.gate {
            out.insert("gate".to_owned(), Tensor::f32([n], gate.clone()));
        }
        let source = self.source.as_ref().map(|source| {
            let json = serde_json::to_string(source).expect("plain data has a JSON form");
            ("source".to_owned(), json)
        });
        Ok(tensors::save(path, &out, &source.into_iter().collect())?)
    }
}

/// What a logits file may hold.
const TENSORS: [&str; 6] = ["logits", "labels", "group", "split", "id", "gate"];

/// A misspelt `group` that was passed over would turn clustered rows into independent ones.
fn refuse_unknown(file: &TensorFile) -> Result<()> {
    let shapes = file.shapes()?;
    match shapes.keys().find(|name| !TENSORS.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(LogitsError::UnknownTensor {
            path: file.path().to_owned(),
            name: name.clone(),
        }),
    }
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

fn load_gates(file: &TensorFile) -> Result<Option<Vec<f32>>> {
    if !file.contains("gate")? {
        return Ok(None);
    }
    let (shape, values) = file.f32("gate")?;
    match shape[..] {
        [_] => Ok(Some(values)),
        _ => Err(shape_error(file, "gate", shape, "[n]")),
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
