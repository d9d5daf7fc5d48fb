//! Tensors out of a file of PyTorch's `torch.save`, without running anything.
//!
//! Such a file is a pickle, a program for a small stack machine, that names Python functions to call. [`pickle`] knows the
//! few names that a dictionary of tensors needs and calls nothing; any other name ends the reading. Files since PyTorch
//! 1.6 are ZIP archives (`data.pkl`, and one uncompressed entry per storage); older ones are five pickles, then the
//! storages.

mod error;
mod legacy;
mod pickle;
#[cfg(test)]
mod tests;
mod value;
mod zip;

pub use error::TorchError;

use error::Result;
use legacy::Legacy;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read, Seek},
};
use value::{Element, TensorRef};
use zip::Zip;

/// What a file of PyTorch's begins with.
pub(super) enum Container {
    Zip,
    Legacy,
}

impl Container {
    pub(super) fn of(start: &[u8]) -> Option<Self> {
        if start.starts_with(b"PK\x03\x04") {
            return Some(Self::Zip);
        }
        matches!(start, [0x80, 1..=5, ..]).then_some(Self::Legacy)
    }
}

/// A file's tensors; their values are read when they are asked for.
pub(super) struct TorchFile {
    tensors: BTreeMap<String, TensorRef>,
    storages: Storages,
}

enum Storages {
    Zip(Zip<BufReader<File>>),
    Legacy(Legacy<BufReader<File>>),
}

impl TorchFile {
    pub(super) fn open(container: &Container, file: File) -> Result<Self> {
        let reader = BufReader::new(file);
        let (root, storages) = match container {
            Container::Zip => {
                let (root, zip) = Zip::open(reader)?;
                (root, Storages::Zip(zip))
            }
            Container::Legacy => {
                let (root, legacy) = Legacy::open(reader)?;
                (root, Storages::Legacy(legacy))
            }
        };
        Ok(Self {
            tensors: root.tensors()?,
            storages,
        })
    }

    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let shape = |(name, tensor): (&String, &TensorRef)| (name.clone(), tensor.shape.clone());
        self.tensors.iter().map(shape).collect()
    }

    /// The values of a tensor, row-major, widened to float32.
    pub(super) fn read(&mut self, name: &str) -> Result<Vec<f32>> {
        let tensor = &self.tensors[name];
        let storage = &tensor.storage;
        if !storage.element.is_weight() {
            return Err(TorchError::Element {
                name: name.to_owned(),
                got: storage.element.name(),
            });
        }
        let bytes = match &mut self.storages {
            Storages::Zip(zip) => zip.storage(storage)?,
            Storages::Legacy(legacy) => legacy.storage(storage)?,
        };
        Ok(gather(tensor, &bytes))
    }
}

/// The elements that a tensor shows of its storage. That they lie inside was checked when the tensor was made.
fn gather(tensor: &TensorRef, bytes: &[u8]) -> Vec<f32> {
    let element = tensor.storage.element;
    let count = tensor.shape.iter().product();
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0; tensor.shape.len()];
    for _ in 0..count {
        let steps = index.iter().zip(&tensor.strides);
        let at = tensor.offset + steps.map(|(i, stride)| i * stride).sum::<usize>();
        values.push(element.widen(&bytes[at * element.size()..]));
        for (i, size) in index.iter_mut().zip(&tensor.shape).rev() {
            *i += 1;
            if *i < *size {
                break;
            }
            *i = 0;
        }
    }
    values
}

impl Element {
    /// Of the first bytes; of weights only.
    fn widen(self, bytes: &[u8]) -> f32 {
        let two = || [bytes[0], bytes[1]];
        match self {
            Self::F16 => half::f16::from_le_bytes(two()).to_f32(),
            Self::Bf16 => half::bf16::from_le_bytes(two()).to_f32(),
            _ => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        }
    }
}

/// Reads `count` bytes, or says that the file ends before.
fn take(reader: &mut impl Read, count: usize, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Not with the capacity of what the file claims: it may claim anything.
    let read = reader.by_ref().take(count as u64).read_to_end(&mut bytes);
    read.map_err(|source| TorchError::Read { source })?;
    match bytes.len() == count {
        true => Ok(bytes),
        false => Err(TorchError::Container {
            reason: format!("{what} has {} bytes, {count} are announced", bytes.len()),
        }),
    }
}

fn position(reader: &mut impl Seek) -> Result<u64> {
    reader
        .stream_position()
        .map_err(|source| TorchError::Read { source })
}
