//! Backbones in other forms, into Hugging Face folders: PyTorch's files (`.pth`) and safetensors with Meta's, timm's or
//! Hugging Face's names, and a DINOv2 inside an ONNX file. What a file is, is seen from its content.

mod assemble;
mod error;
mod naming;
mod onnx;
mod source;
#[cfg(test)]
mod tests;
mod torch;

pub use error::ImportError;
pub use torch::TorchError;

use crate::{Error, Result};
use source::Source;
use stage1_core::{
    artifact::{
        self, Digest, atomic,
        tensors::{self, Tensor, TensorFile, Values},
    },
    model::{BackboneSpec, Weights, check_finite},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Seek},
    path::Path,
};
use torch::{Container, TorchFile};

/// What an import found.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportReport {
    /// The backbone.
    pub spec: BackboneSpec,
    /// What the file was, in words.
    pub format: &'static str,
    /// The digest of the file.
    pub source: Digest,
    /// The digest of spec and weights: what a checkpoint on this backbone will name.
    pub backbone: Digest,
    /// Number of tensors written.
    pub tensors: usize,
    /// Number of values in them.
    pub parameters: usize,
    /// The file's tensors that are no part of the backbone (a decoder, a mask token), sorted.
    pub left_out: Vec<String>,
}

/// A backbone that was read.
struct Found {
    spec: BackboneSpec,
    format: &'static str,
    /// By Hugging Face name, without prefix.
    tensors: BTreeMap<String, Tensor>,
    left_out: Vec<String>,
}

/// Reads the backbone in `file` and writes `out/model.safetensors` (float32), then `out/config.json`: a folder without the
/// latter is not finished. Files of those names are replaced.
///
/// `wanted` is the architecture that the file holds; without it, the published backbone whose tensors have the file's
/// shapes, or what an ONNX graph says itself. A file that lacks the biases of queries and values becomes the same
/// backbone without them.
///
/// # Errors
/// [`ImportError`] names the tensor, node or instruction that isn't there, isn't of the expected form, or is refused;
/// [`Error::Artifact`] when a file can't be read or written.
pub fn import(file: &Path, out: &Path, wanted: Option<&BackboneSpec>) -> Result<ImportReport> {
    let found = read(file, wanted)?;
    // What was there is replaced only by what can be opened.
    for (name, tensor) in &found.tensors {
        if let Values::F32(values) = &tensor.values {
            check_finite(file, name, values).map_err(Error::Model)?;
        }
    }
    let config = out.join("config.json");
    remove(&config)?;
    tensors::save(
        &out.join("model.safetensors"),
        &found.tensors,
        &BTreeMap::new(),
    )?;
    atomic::write_bytes(&config, &config_json(&found.spec))?;
    let weights = Weights::open(out)?;
    Ok(ImportReport {
        spec: weights.spec().clone(),
        format: found.format,
        source: Digest::of_file(file)?,
        backbone: weights.digest(),
        tensors: found.tensors.len(),
        parameters: weights.spec().parameter_count(),
        left_out: found.left_out,
    })
}

fn read(path: &Path, wanted: Option<&BackboneSpec>) -> Result<Found> {
    let mut file = File::open(path).map_err(|error| io_error("read", path, error))?;
    let mut start = [0; 9];
    let length = file
        .metadata()
        .map_err(|e| io_error("read", path, e))?
        .len();
    let count = file
        .by_ref()
        .take(9)
        .read(&mut start)
        .map_err(|error| io_error("read", path, error))?;
    let start = &start[..count];
    if let Some(container) = Container::of(start) {
        file.rewind()
            .map_err(|error| io_error("read", path, error))?;
        return read_torch(path, &container, file, wanted);
    }
    if is_safetensors(start, length) {
        let source = Source::Safetensors(TensorFile::open(path)?);
        return read_tensors(path, source, "safetensors", wanted);
    }
    let found = onnx::read(path)?;
    match wanted {
        Some(wanted) if *wanted != found.spec => Err(ImportError::OtherArchitecture {
            path: path.to_owned(),
            got: found.spec.to_string(),
            want: wanted.to_string(),
        })?,
        _ => Ok(found),
    }
}

/// A header's length that is in the file, and the start of its JSON.
fn is_safetensors(start: &[u8], length: u64) -> bool {
    match start {
        [header @ .., b'{'] => header
            .try_into()
            .is_ok_and(|header| u64::from_le_bytes(header) < length),
        _ => false,
    }
}

fn read_torch(
    path: &Path,
    container: &Container,
    file: File,
    wanted: Option<&BackboneSpec>,
) -> Result<Found> {
    let format = match container {
        Container::Zip => "a ZIP file of torch.save",
        Container::Legacy => "a legacy file of torch.save",
    };
    let file = TorchFile::open(container, file).map_err(|reason| ImportError::Torch {
        path: path.to_owned(),
        reason,
    })?;
    let source = Source::Torch {
        path: path.to_owned(),
        file,
    };
    read_tensors(path, source, format, wanted)
}

fn read_tensors(
    path: &Path,
    mut source: Source,
    format: &'static str,
    wanted: Option<&BackboneSpec>,
) -> Result<Found> {
    let plan = assemble::plan(path, &source.shapes()?, wanted)?;
    Ok(Found {
        tensors: plan.read(path, &mut source)?,
        spec: plan.spec,
        format,
        left_out: plan.left_out,
    })
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Artifact(artifact::Error::Io {
        action,
        path: path.to_owned(),
        source,
    })
}

fn config_json(spec: &BackboneSpec) -> Vec<u8> {
    let config = spec.to_hf_config();
    let mut bytes = serde_json::to_vec_pretty(&config).expect("plain data has a JSON form");
    bytes.push(b'\n');
    bytes
}
