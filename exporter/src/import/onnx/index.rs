//! Looking things up in a graph that somebody else wrote.

use super::super::ImportError;
use crate::onnx::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A graph by names.
pub(super) struct Index<'a> {
    path: &'a Path,
    graph: &'a GraphProto,
    constants: BTreeMap<&'a str, &'a TensorProto>,
    producers: BTreeMap<&'a str, &'a NodeProto>,
}

impl<'a> Index<'a> {
    pub(super) fn new(path: &'a Path, graph: &'a GraphProto) -> Self {
        let initializers = graph
            .initializer
            .iter()
            .map(|tensor| (tensor.name(), tensor));
        let constants = graph
            .node
            .iter()
            .filter_map(|node| Some((node.output.first()?.as_str(), constant(node)?)));
        let outputs =
            |node: &'a NodeProto| node.output.iter().map(move |name| (name.as_str(), node));
        Self {
            path,
            graph,
            constants: initializers.chain(constants).collect(),
            producers: graph.node.iter().flat_map(outputs).collect(),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.path.to_owned()
    }

    /// The names and shapes of the graph's initialisers.
    pub(super) fn initializers(&self) -> impl Iterator<Item = (&'a str, Vec<usize>)> {
        self.graph
            .initializer
            .iter()
            .map(|tensor| (tensor.name(), shape(tensor)))
    }

    /// How many nodes there are of an operator.
    pub(super) fn count(&self, op: &str) -> usize {
        self.graph
            .node
            .iter()
            .filter(|node| node.op_type() == op)
            .count()
    }

    /// The shape of a constant, if `name` is one.
    pub(super) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.constants.get(name).map(|tensor| shape(tensor))
    }

    /// The node that computes `name`, if it is of this operator.
    pub(super) fn producer(&self, name: &str, op: &str) -> Option<&'a NodeProto> {
        self.producers
            .get(name)
            .copied()
            .filter(|node| node.op_type() == op)
    }

    /// The first node of this operator that reads `name`.
    pub(super) fn consumer(&self, name: &str, op: &str) -> Option<&'a NodeProto> {
        let reads = |node: &&NodeProto| {
            node.op_type() == op && node.input.iter().any(|input| input == name)
        };
        self.graph.node.iter().find(reads)
    }

    /// The values of a float constant.
    ///
    /// # Errors
    /// [`ImportError::TensorValues`].
    pub(super) fn floats(&self, name: &str) -> Result<Vec<f32>, ImportError> {
        let read = self
            .constants
            .get(name)
            .ok_or_else(|| "it is no constant".to_owned());
        read.and_then(|tensor| floats(tensor))
            .map_err(|reason| ImportError::TensorValues {
                path: self.path(),
                name: name.to_owned(),
                reason,
            })
    }

    /// A float constant that has one value.
    pub(super) fn scalar(&self, name: &str) -> Option<f32> {
        match self.floats(name).ok()?[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The last entry of a shape: of a constant, or of one that is concatenated from pieces.
    pub(super) fn last_of_shape(&self, name: &str) -> Option<i64> {
        if let Some(tensor) = self.constants.get(name) {
            return integers(tensor)?.last().copied();
        }
        let pieces = self.producer(name, "Concat")?;
        self.last_of_shape(pieces.input.last()?)
    }
}

fn constant(node: &NodeProto) -> Option<&TensorProto> {
    let value = node
        .attribute
        .iter()
        .find(|attribute| attribute.name() == "value")?;
    value.t.as_ref().filter(|_| node.op_type() == "Constant")
}

fn shape(tensor: &TensorProto) -> Vec<usize> {
    // A negative length can't match any expected shape, nor can the largest.
    tensor
        .dims
        .iter()
        .map(|n| usize::try_from(*n).unwrap_or(usize::MAX))
        .collect()
}

fn floats(tensor: &TensorProto) -> Result<Vec<f32>, String> {
    if tensor.data_type() != i32::from(DataType::Float) {
        let kind = DataType::try_from(tensor.data_type()).unwrap_or_default();
        return Err(format!("its type is {}", kind.as_str_name()));
    }
    if !tensor.external_data.is_empty() {
        return Err("its values are in another file".to_owned());
    }
    let values = match &tensor.raw_data {
        Some(raw) => raw
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect(),
        None => tensor.float_data.clone(),
    };
    let shape = shape(tensor);
    let count = shape
        .iter()
        .try_fold(1_usize, |product, n| product.checked_mul(*n));
    match count == Some(values.len()) {
        true => Ok(values),
        false => Err(format!(
            "it has {} values for the shape {shape:?}",
            values.len()
        )),
    }
}

fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    if tensor.data_type() != i32::from(DataType::Int64) {
        return None;
    }
    Some(match &tensor.raw_data {
        Some(raw) => raw
            .as_chunks()
            .0
            .iter()
            .map(|bytes| i64::from_le_bytes(*bytes))
            .collect(),
        None => tensor.int64_data.clone(),
    })
}
