use super::{ImportError, torch::TorchFile};
use crate::Result;
use stage1_core::artifact::tensors::TensorFile;
use std::{collections::BTreeMap, path::PathBuf};

/// A file of named tensors.
pub(super) enum Source {
    Safetensors(TensorFile),
    Torch { path: PathBuf, file: TorchFile },
}

impl Source {
    pub(super) fn shapes(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        let mut shapes = match self {
            Self::Safetensors(file) => file.shapes()?,
            Self::Torch { file, .. } => file.shapes(),
        };
        // A tensor without values says nothing: "no registers", for example.
        shapes.retain(|_, shape| !shape.contains(&0));
        Ok(shapes)
    }

    /// The values of a tensor, row-major, widened to float32.
    pub(super) fn read(&mut self, name: &str) -> Result<Vec<f32>> {
        match self {
            Self::Safetensors(file) => Ok(file.f32(name)?.1),
            Self::Torch { path, file } => {
                Ok(file.read(name).map_err(|reason| ImportError::Torch {
                    path: path.clone(),
                    reason,
                })?)
            }
        }
    }
}
