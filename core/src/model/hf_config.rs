//! Hugging Face's `config.json`. Keys that don't change the forward pass in evaluation are ignored; a value that this
//! version doesn't implement is refused by name.

mod convnext;
#[cfg(test)]
mod tests;
mod vit;
mod write;

pub(super) use write::write;

use super::{BackboneSpec, ConvNextSpec, ModelError, Result, VitFamily};
use crate::artifact;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::{fs, path::Path};

pub(super) fn read(path: &Path) -> Result<BackboneSpec> {
    let bytes = fs::read(path).map_err(|source| artifact::Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    parse(&bytes, path)
}

/// `path` is for messages.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<BackboneSpec> {
    let json: Value = from_json(bytes, path)?;
    let model_type = json.get("model_type").and_then(Value::as_str);
    let file = |model_type| File {
        json: &json,
        bytes,
        path,
        model_type,
    };
    if model_type == Some(ConvNextSpec::MODEL_TYPE) {
        let spec = convnext::read(&file(ConvNextSpec::MODEL_TYPE))?;
        return Ok(BackboneSpec::ConvNext(spec));
    }
    let vit = VitFamily::ALL
        .into_iter()
        .find(|family| Some(family.model_type()) == model_type);
    match vit {
        Some(family) => Ok(BackboneSpec::Vit(vit::read(
            &file(family.model_type()),
            family,
        )?)),
        None => Err(ModelError::UnsupportedModel {
            path: path.to_owned(),
            model_type: model_type.unwrap_or("(none)").to_owned(),
            supported: BackboneSpec::MODEL_TYPES.join(", "),
        }),
    }
}

fn from_json<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader);
    Ok(parsed.map_err(|error| artifact::Error::Json {
        path: path.to_owned(),
        kind: "config.json",
        field: error.path().to_string(),
        reason: error.into_inner().to_string(),
    })?)
}

/// A size in pixels: one side of a square, or `[height, width]`.
#[derive(Deserialize, Clone, Copy)]
#[serde(untagged)]
enum Side {
    Square(usize),
    Pair([usize; 2]),
}

/// The file, and what all readers ask of it.
struct File<'a> {
    json: &'a Value,
    bytes: &'a [u8],
    path: &'a Path,
    model_type: &'static str,
}

impl File<'_> {
    fn keys<T: DeserializeOwned>(&self) -> Result<T> {
        from_json(self.bytes, self.path)
    }

    /// Keys that must have one value, or be absent: any other asks for a computation that isn't implemented.
    fn only(&self, keys: &[(&'static str, Value)]) -> Result<()> {
        for (key, want) in keys {
            match self.json.get(key) {
                Some(got) if got != want && !got.is_null() => {
                    return Err(self.unsupported(key, got, want));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn activation(&self, got: &str, want: &'static str) -> Result<()> {
        if got == want {
            return Ok(());
        }
        let with = format!("`{want}` with this feed-forward network");
        Err(self.unsupported("hidden_act", format!("`{got}`"), with))
    }

    fn need<T>(&self, key: &'static str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| ModelError::MissingKey {
            path: self.path.to_owned(),
            key,
            model_type: self.model_type,
        })
    }

    fn square(&self, key: &'static str, value: Option<Side>) -> Result<usize> {
        match self.need(key, value)? {
            Side::Square(side) => Ok(side),
            Side::Pair([height, width]) if height == width => Ok(height),
            Side::Pair(pair) => Err(self.unsupported(key, format!("{pair:?}"), "a square")),
        }
    }

    fn at_most(&self, key: &'static str, value: usize, limit: usize) -> Result<()> {
        match value > limit {
            true => Err(self.unsupported(key, value, format!("up to {limit}"))),
            false => Ok(()),
        }
    }

    fn positive(&self, keys: &str, value: usize) -> Result<()> {
        match value {
            0 => Err(self.contradiction(format!("{keys} is 0, a backbone needs at least 1"))),
            _ => Ok(()),
        }
    }

    fn positive_number(&self, key: &'static str, value: f64) -> Result<()> {
        match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(self.unsupported(key, value, "a positive number")),
        }
    }

    fn unsupported(
        &self,
        key: &'static str,
        got: impl ToString,
        want: impl ToString,
    ) -> ModelError {
        ModelError::UnsupportedValue {
            path: self.path.to_owned(),
            key,
            got: got.to_string(),
            want: want.to_string(),
        }
    }

    fn contradiction(&self, reason: String) -> ModelError {
        ModelError::Contradiction {
            path: self.path.to_owned(),
            reason,
        }
    }
}

fn yes() -> bool {
    true
}

fn gelu() -> String {
    "gelu".to_owned()
}
