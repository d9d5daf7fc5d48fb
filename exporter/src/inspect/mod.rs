//! What a model file consists of, and what it costs to run.

mod shapes;

use crate::{
    Error, Result,
    onnx::{ModelProto, TensorProto, tensor_proto::DataType},
};
use prost::Message as _;
use serde::Serialize;
use shapes::Shapes;
use std::collections::BTreeMap;

/// The property under which the exporter notes what it folded: a JSON list of sentences.
pub(crate) const FOLDED: &str = "stage1.folded";

/// A model in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Nodes by the type of their operator.
    pub nodes: BTreeMap<String, usize>,
    /// Values in constants, tables for the image size included; the 64-bit integers that only say shapes aren't counted.
    pub parameters: u64,
    /// Twice the multiplications with an addition, of `Conv`, `MatMul` and `Gemm`, for one image; none where the shapes
    /// that such a node works on can't be told from the file.
    pub flops_per_image: Option<u64>,
    /// Bytes of the file, and of the weights that lie outside of it.
    pub bytes: u64,
    /// What the exporter folded into weights or left out; none in files of others.
    pub folded: Vec<String>,
}

/// Counts what an ONNX file holds. It isn't run.
///
/// # Errors
/// [`Error::NotOnnx`].
pub fn inspect(model: &[u8]) -> Result<Inspection> {
    let broken = |reason: String| Error::NotOnnx { reason };
    let proto = ModelProto::decode(model).map_err(|error| broken(error.to_string()))?;
    let graph = proto.graph.as_ref();
    let graph = graph.ok_or_else(|| broken("it has no graph".to_owned()))?;
    let mut nodes = BTreeMap::new();
    for node in &graph.node {
        *nodes.entry(node.op_type().to_owned()).or_default() += 1;
    }
    // What isn't the size of anything, or is beyond all numbers, mustn't wrap to a small one.
    let size = |dims: &[i64]| {
        let sizes = dims.iter().map(|n| u64::try_from(*n).unwrap_or(0));
        sizes.fold(1, u64::saturating_mul)
    };
    let constants = graph.initializer.iter();
    let counted = constants.filter(|tensor| tensor.data_type() != DataType::Int64 as i32);
    let folded = proto
        .metadata_props
        .iter()
        .find(|entry| entry.key() == FOLDED);
    Ok(Inspection {
        nodes,
        parameters: counted
            .map(|tensor| size(&tensor.dims))
            .fold(0, u64::saturating_add),
        flops_per_image: Shapes::of(graph).flops(),
        bytes: model.len() as u64 + graph.initializer.iter().map(outside).sum::<u64>(),
        folded: folded
            .and_then(|entry| serde_json::from_str(entry.value()).ok())
            .unwrap_or_default(),
    })
}

/// Bytes of the tensor in another file.
fn outside(tensor: &TensorProto) -> u64 {
    let length = tensor
        .external_data
        .iter()
        .find(|entry| entry.key() == "length");
    length.map_or(0, |entry| entry.value().parse().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_is_said_to_be_none() {
        for bytes in [&b"not a model"[..], b""] {
            let error = inspect(bytes).unwrap_err().to_string();
            assert!(error.contains("not an ONNX file"), "{error}");
        }
    }
}
