//! A small builder of ONNX graphs. Values are named after what computes them; the order of calls is the order in the
//! file, so that equal calls give equal bytes.

mod external;
mod ops;
mod tensor;

pub use external::ExternalData;
pub(crate) use ops::Conv;

use crate::{
    Error, Form, Result,
    onnx::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
        StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
        attribute_proto::AttributeType,
        tensor_proto::DataType,
        tensor_shape_proto::{self, dimension},
        type_proto,
    },
};
pub(crate) use external::External;
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use stage1_core::artifact::Digest;
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZero,
};

/// The oldest pair of versions that has everything used here (LayerNormalization came with 17): what TensorRT 10 and
/// every ONNX Runtime of the last years read.
const OPSET: i64 = 18;
const IR_VERSION: i64 = 8;
/// Protobuf refuses longer messages.
const MAX_BYTES: usize = i32::MAX as usize;
/// The property that holds the digest of the weights' own file.
pub(crate) const DATA_DIGEST: &str = "stage1.data_digest";
/// What the dynamic batch axis is called.
pub(crate) const BATCH: &str = "N";

/// A finished model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The bytes of the ONNX file.
    pub model: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// The weights, where they are too large for the ONNX file. The model's property `stage1.data_digest` names them, so
    /// that its digest is theirs, too.
    pub data: Option<ExternalData>,
}

/// A tensor in the graph, by name.
#[derive(Debug, Clone)]
pub(crate) struct Value(String);

/// One axis of an input's or output's shape.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Axis {
    /// The number of images, known only at run time unless the graph's form says it.
    Batch,
    /// Always this many.
    Fixed(usize),
}

/// The value of a node's attribute.
pub(crate) enum Attribute {
    Float(f64),
    Int(i64),
    Ints(Vec<i64>),
}

/// A graph in the making.
pub(crate) struct Graph {
    proto: GraphProto,
    /// Its constants, encoded as fields of the graph: weights are large, and so are in memory once only.
    constants: Vec<u8>,
    /// The values of large constants, where they go into a file of their own.
    external: Option<External>,
    /// Images per run, if that is fixed.
    batch: Option<NonZero<usize>>,
    /// Every name that is taken: a second one would silently replace the first in some readers.
    names: BTreeSet<String>,
}

impl Graph {
    /// An empty graph, of the usual form.
    #[cfg(test)]
    pub(crate) fn new(name: &str) -> Self {
        Self::of_form(name, &Form::default(), 0)
    }

    /// An empty graph; `weights` is the number of bytes that its weights will have, about.
    pub(crate) fn of_form(name: &str, form: &Form, weights: usize) -> Self {
        let proto = GraphProto {
            name: Some(name.to_owned()),
            ..GraphProto::default()
        };
        Self {
            proto,
            constants: Vec::new(),
            external: (weights > form.external_above)
                .then(|| External::new(form.data_name(), weights)),
            batch: form.batch,
            names: BTreeSet::new(),
        }
    }

    /// A float32 input.
    pub(crate) fn input(&mut self, name: &str, shape: &[Axis]) -> Value {
        self.input_of(DataType::Float, name, shape)
    }

    /// An input of bytes.
    pub(crate) fn input_u8(&mut self, name: &str, shape: &[Axis]) -> Value {
        self.input_of(DataType::Uint8, name, shape)
    }

    fn input_of(&mut self, kind: DataType, name: &str, shape: &[Axis]) -> Value {
        let info = self.value_info(kind, name, shape);
        self.proto.input.push(info);
        self.claim(name)
    }

    /// Declares a float32 value that a node has computed to be an output.
    pub(crate) fn output(&mut self, value: &Value, shape: &[Axis]) {
        let info = self.value_info(DataType::Float, &value.0, shape);
        self.proto.output.push(info);
    }

    /// Adds a node with one output, which has the node's name.
    pub(crate) fn node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
    ) -> Value {
        let output = self.claim(name);
        self.push_node(op, name, inputs, vec![name.to_owned()], attributes);
        output
    }

    fn push_node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&Value],
        output: Vec<String>,
        attributes: &[(&str, Attribute)],
    ) {
        self.proto.node.push(NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(name.to_owned()),
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output,
            attribute: attributes
                .iter()
                .map(|(name, value)| attribute(name, value))
                .collect(),
            ..NodeProto::default()
        });
    }

    fn value_info(&self, kind: DataType, name: &str, shape: &[Axis]) -> ValueInfoProto {
        let axis = |axis: &Axis| tensor_shape_proto::Dimension {
            value: Some(match (axis, self.batch) {
                (Axis::Batch, None) => dimension::Value::DimParam(BATCH.to_owned()),
                (Axis::Batch, Some(n)) => dimension::Value::DimValue(n.get() as i64),
                (Axis::Fixed(n), _) => dimension::Value::DimValue(*n as i64),
            }),
            ..tensor_shape_proto::Dimension::default()
        };
        let tensor = type_proto::Tensor {
            elem_type: Some(kind.into()),
            shape: Some(TensorShapeProto {
                dim: shape.iter().map(axis).collect(),
            }),
        };
        ValueInfoProto {
            name: Some(name.to_owned()),
            r#type: Some(TypeProto {
                value: Some(type_proto::Value::TensorType(tensor)),
                ..TypeProto::default()
            }),
            ..ValueInfoProto::default()
        }
    }

    fn claim(&mut self, name: &str) -> Value {
        let fresh = self.names.insert(name.to_owned());
        assert!(fresh, "two values of the graph are called `{name}`");
        Value(name.to_owned())
    }

    /// The model as bytes, with string properties.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub(crate) fn finish(self, metadata: &BTreeMap<String, String>) -> Result<Exported> {
        let data = self.external.map(External::finish);
        let mut metadata = metadata.clone();
        if let Some(data) = &data {
            metadata.insert(DATA_DIGEST.to_owned(), data.digest.to_string());
        }
        let entry = |(key, value): (&String, &String)| StringStringEntryProto {
            key: Some(key.clone()),
            value: Some(value.clone()),
        };
        let model = ModelProto {
            ir_version: Some(IR_VERSION),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(OPSET),
            }],
            producer_name: Some("stage1".to_owned()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            metadata_props: metadata.iter().map(entry).collect(),
            ..ModelProto::default()
        };
        let model = encode(&model, &self.proto, self.constants)?;
        Ok(Exported {
            digest: Digest::of_bytes(&model),
            model,
            data,
        })
    }
}

/// The model with its graph, whose constants are encoded already: the rest goes around them, where they are.
fn encode(model: &ModelProto, graph: &GraphProto, mut constants: Vec<u8>) -> Result<Vec<u8>> {
    /// The field's number in `onnx.proto`.
    const GRAPH: u32 = 7;
    graph.encode_raw(&mut constants);
    let mut start = model.encode_to_vec();
    encode_key(GRAPH, WireType::LengthDelimited, &mut start);
    encode_varint(constants.len() as u64, &mut start);
    check_size(start.len() + constants.len())?;
    constants.splice(..0, start);
    Ok(constants)
}

/// Fails when an ONNX file can't have this many bytes.
///
/// # Errors
/// [`Error::TooLarge`].
pub(crate) fn check_size(bytes: usize) -> Result<()> {
    match bytes > MAX_BYTES {
        true => Err(Error::TooLarge {
            bytes,
            limit: MAX_BYTES,
        }),
        false => Ok(()),
    }
}

fn attribute(name: &str, value: &Attribute) -> AttributeProto {
    let mut proto = AttributeProto {
        name: Some(name.to_owned()),
        ..AttributeProto::default()
    };
    let kind = match value {
        Attribute::Float(x) => {
            proto.f = Some(*x as f32);
            AttributeType::Float
        }
        Attribute::Int(x) => {
            proto.i = Some(*x);
            AttributeType::Int
        }
        Attribute::Ints(xs) => {
            proto.ints.clone_from(xs);
            AttributeType::Ints
        }
    };
    proto.r#type = Some(kind.into());
    proto
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_beyond_protobufs_limit_is_refused_with_its_size() {
        check_size(MAX_BYTES).unwrap();
        let error = check_size(MAX_BYTES + 1).unwrap_err().to_string();
        assert!(error.contains("2147483648 bytes"), "{error}");
    }

    #[test]
    #[should_panic(expected = "two values of the graph are called `x`")]
    fn a_name_is_given_once() {
        let mut graph = Graph::new("g");
        graph.input("x", &[Axis::Batch]);
        graph.f32("x", &[1], &[0.0]);
    }
}
