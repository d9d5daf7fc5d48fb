//! JSON documents: a type that was loaded is a type that is valid.

use super::{Digest, Error, Result, atomic};
use serde::{Serialize, de::DeserializeOwned};
use std::{fs, path::Path};

/// A JSON file of the project. The type has a `schema_version: u32` field that equals [`Document::SCHEMA_VERSION`].
pub trait Document: Serialize + DeserializeOwned {
    /// What messages call it, e.g. `splits.json`.
    const KIND: &'static str;
    /// The version that this program writes and reads.
    const SCHEMA_VERSION: u32;

    /// Checks what the type can't express.
    ///
    /// # Errors
    /// The broken rule, with the values.
    fn validate(&self) -> Result<(), String>;
}

/// The bytes that [`save`] writes: indented, in field order, with a final newline.
pub fn to_bytes<T: Document>(document: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(document).expect("plain data has a JSON form");
    bytes.push(b'\n');
    bytes
}

/// A value in one line for messages, as a configuration would have it: `[1,2]`, `null`, `multi_start` without quotes.
pub fn brief(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(value) => value.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Validates and writes a document; returns the digest of its bytes.
///
/// # Errors
/// [`Error::Invalid`] before anything is written, or [`Error::Io`].
pub fn save<T: Document>(document: &T, path: &Path) -> Result<Digest> {
    document
        .validate()
        .map_err(|reason| invalid::<T>(path, reason))?;
    let bytes = to_bytes(document);
    atomic::write_bytes(path, &bytes)?;
    Ok(Digest::of_bytes(&bytes))
}

/// Reads, parses and validates a document; returns it with the digest of its bytes.
///
/// # Errors
/// [`Error::Io`], [`Error::Json`] with the field's path, [`Error::SchemaVersion`] or [`Error::Invalid`].
pub fn load<T: Document>(path: &Path) -> Result<(T, Digest)> {
    let bytes = fs::read(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok((parse(&bytes, path)?, Digest::of_bytes(&bytes)))
}

/// As [`load`], and the bytes must have the digest that was recorded elsewhere.
///
/// # Errors
/// As [`load`], and [`Error::DigestMismatch`].
pub fn load_verified<T: Document>(path: &Path, want: Digest) -> Result<T> {
    let (document, got) = load(path)?;
    if got == want {
        return Ok(document);
    }
    Err(Error::DigestMismatch {
        path: path.to_owned(),
        want,
        got,
    })
}

fn parse<T: Document>(bytes: &[u8], path: &Path) -> Result<T> {
    check_version::<T>(bytes, path)?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let document: T =
        serde_path_to_error::deserialize(&mut reader).map_err(|error| Error::Json {
            path: path.to_owned(),
            kind: T::KIND,
            field: error.path().to_string(),
            reason: error.into_inner().to_string(),
        })?;
    document
        .validate()
        .map_err(|reason| invalid::<T>(path, reason))?;
    Ok(document)
}

/// The version comes first: a field that another version knows shouldn't be reported as a typing error.
fn check_version<T: Document>(bytes: &[u8], path: &Path) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        schema_version: u64,
    }
    let found: Versioned = serde_json::from_slice(bytes).map_err(|error| Error::Json {
        path: path.to_owned(),
        kind: T::KIND,
        field: "schema_version".to_owned(),
        reason: error.to_string(),
    })?;
    if found.schema_version == u64::from(T::SCHEMA_VERSION) {
        return Ok(());
    }
    Err(Error::SchemaVersion {
        path: path.to_owned(),
        kind: T::KIND,
        got: found.schema_version,
        want: T::SCHEMA_VERSION,
    })
}

fn invalid<T: Document>(path: &Path, reason: String) -> Error {
    Error::Invalid {
        path: path.to_owned(),
        kind: T::KIND,
        reason,
    }
}
