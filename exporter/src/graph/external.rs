//! Weights outside of the ONNX file: protobuf ends at 2 GB.

use crate::onnx::{StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use stage1_core::artifact::Digest;

/// Where a tensor may begin: a memory page, so that readers can map the file.
const PAGE: usize = 4096;

/// The file that holds a model's large tensors; it lies beside the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalData {
    /// Its name, by which the model refers to it.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
}

impl ExternalData {
    /// The values that a tensor of the model refers to; none if it refers to none, or to what isn't there.
    pub(crate) fn of<'a>(&'a self, tensor: &TensorProto) -> Option<&'a [u8]> {
        let entry = |key: &str| {
            let mut entries = tensor.external_data.iter();
            entries
                .find(|entry| entry.key() == key)
                .map(StringStringEntryProto::value)
        };
        let number = |key| entry(key)?.parse::<usize>().ok();
        let (offset, length) = (number("offset")?, number("length")?);
        self.bytes.get(offset..offset.checked_add(length)?)
    }
}

/// That file in the making.
pub(crate) struct External {
    name: String,
    bytes: Vec<u8>,
}

impl External {
    /// An empty file with room for this many bytes.
    pub(crate) fn new(name: String, capacity: usize) -> Self {
        Self {
            name,
            bytes: Vec::with_capacity(capacity),
        }
    }

    /// Whether a tensor of this many bytes belongs here. Small ones stay in the model: shapes are read from them.
    pub(crate) fn takes(bytes: usize) -> bool {
        bytes >= PAGE
    }

    /// Takes over the tensor's values, and leaves a reference to them.
    pub(crate) fn take(&mut self, tensor: &mut TensorProto) {
        let values = tensor.raw_data.take().unwrap_or_default();
        let offset = self.bytes.len().next_multiple_of(PAGE);
        self.bytes.resize(offset, 0);
        let entry = |key: &str, value: String| StringStringEntryProto {
            key: Some(key.to_owned()),
            value: Some(value),
        };
        tensor.data_location = Some(DataLocation::External.into());
        tensor.external_data = vec![
            entry("location", self.name.clone()),
            entry("offset", offset.to_string()),
            entry("length", values.len().to_string()),
        ];
        self.bytes.extend(values);
    }

    pub(crate) fn finish(self) -> ExternalData {
        ExternalData {
            name: self.name,
            digest: Digest::of_bytes(&self.bytes),
            bytes: self.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_begin_at_pages_and_are_referred_to() {
        let mut external = External::new("m.onnx.data".to_owned(), 0);
        let mut tensors = Vec::new();
        for (bytes, offset) in [(5000, "0"), (4096, "8192"), (9000, "12288")] {
            let mut tensor = TensorProto {
                raw_data: Some(vec![7; bytes]),
                ..TensorProto::default()
            };
            external.take(&mut tensor);
            let entries: Vec<_> = tensor
                .external_data
                .iter()
                .map(|entry| (entry.key(), entry.value()))
                .collect();
            let length = bytes.to_string();
            let want = [
                ("location", "m.onnx.data"),
                ("offset", offset),
                ("length", &length),
            ];
            assert_eq!(entries, want);
            assert_eq!(tensor.raw_data, None);
            tensors.push(tensor);
        }
        let data = external.finish();
        let lengths: Vec<_> = tensors
            .iter()
            .map(|tensor| data.of(tensor).unwrap().len())
            .collect();
        assert_eq!(lengths, [5000, 4096, 9000]);
        assert_eq!(data.of(&TensorProto::default()), None);
        assert_eq!(data.bytes.len(), 12288 + 9000);
        assert_eq!(
            data.bytes.iter().filter(|byte| **byte == 7).count(),
            5000 + 4096 + 9000
        );
    }
}
