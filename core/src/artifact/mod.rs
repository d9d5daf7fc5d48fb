//! Files that others read: written whole or not at all, versioned, and addressed by SHA-256.
//!
//! - [`atomic`]: temporary file, fsync, rename;
//! - [`Digest`]: a SHA-256, as 64 hexadecimal digits in JSON;
//! - [`Lock`]: one writer to a folder;
//! - [`json`]: JSON documents with a `schema_version`, parsed and validated in one step;
//! - [`tensors`]: safetensors files.

pub mod atomic;
mod digest;
pub mod json;
mod lock;
pub mod tensors;

pub use digest::{Digest, Hasher};
pub use json::Document;
pub use lock::Lock;

use std::{io, path::PathBuf};

/// What can go wrong between a file and a valid artifact.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb: `read`, `write`, `rename`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Somebody else works there.
    #[error("{}: another process is at work in this folder; wait until it has ended", path.display())]
    Locked {
        /// The lock's file.
        path: PathBuf,
    },
    /// The file isn't JSON of the expected form.
    #[error("{}: not a valid {kind}: at `{field}`: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The kind of document expected, e.g. `bundle.json`.
        kind: &'static str,
        /// The path inside the document (`.` for the root).
        field: String,
        /// What the parser says.
        reason: String,
    },
    /// The document was written by another version of the format.
    #[error("{}: {kind} has schema_version {got}, this program reads {want}; make it again with this version", path.display())]
    SchemaVersion {
        /// The file.
        path: PathBuf,
        /// The kind of document.
        kind: &'static str,
        /// Version found.
        got: u64,
        /// Version understood.
        want: u32,
    },
    /// The document parses, but contradicts itself.
    #[error("{}: invalid {kind}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The kind of document.
        kind: &'static str,
        /// Which rule is broken, with the values.
        reason: String,
    },
    /// The bytes aren't those that were recorded.
    #[error("{}: digest mismatch: expected {want}, found {got}; the file was changed or damaged after it was written", path.display())]
    DigestMismatch {
        /// The file.
        path: PathBuf,
        /// The recorded digest.
        want: Digest,
        /// The digest of the bytes that are there.
        got: Digest,
    },
    /// A safetensors file can't be parsed.
    #[error("{}: not a valid safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// A tensor is missing.
    #[error("{}: tensor `{name}` is missing", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another type than expected.
    #[error("{}: tensor `{name}` has dtype {got}, expected {want}", path.display())]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Found.
        got: String,
        /// Expected.
        want: &'static str,
    },
    /// A tensor has another shape than expected.
    #[error("{}: tensor `{name}` has shape {got:?}, expected {want}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Found.
        got: Vec<usize>,
        /// Expected, in words or as a shape.
        want: String,
    },
}

/// The result of reading or writing an artifact.
pub type Result<T, E = Error> = std::result::Result<T, E>;
