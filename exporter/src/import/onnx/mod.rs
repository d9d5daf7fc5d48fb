//! A DINOv2 inside an ONNX file, as PyTorch exports it.
//!
//! PyTorch keeps the names of biases, norms and embeddings, but stores the weight of a linear layer transposed and under
//! a number: it is found by the `MatMul` that feeds the `Add` of the bias. The position table is split in two.

mod dinov2;
mod index;
#[cfg(test)]
mod tests;

use super::{Found, ImportError};
use crate::{Result, onnx::ModelProto};
use index::Index;
use prost::Message as _;
use stage1_core::{artifact, model::BackboneSpec};
use std::{fs, path::Path};

/// Reads the DINOv2 (without registers, MLP blocks) in the file.
pub(super) fn read(path: &Path) -> Result<Found> {
    let bytes = fs::read(path).map_err(|source| artifact::Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let model = ModelProto::decode(&*bytes).map_err(|reason| ImportError::UnknownFormat {
        path: path.to_owned(),
        reason,
    })?;
    let graph = model.graph.unwrap_or_default();
    let backbone = dinov2::find(&Index::new(path, &graph))?;
    let used = &backbone.used;
    let names = graph.initializer.iter().map(|tensor| tensor.name());
    let mut left_out: Vec<_> = names
        .filter(|name| !used.contains(*name))
        .map(str::to_owned)
        .collect();
    left_out.sort();
    Ok(Found {
        spec: BackboneSpec::Vit(backbone.spec),
        format: "an ONNX model",
        tensors: backbone.tensors,
        left_out,
    })
}
