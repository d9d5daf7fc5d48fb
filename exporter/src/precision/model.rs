//! A finished model, opened again: its nodes, constants, and which node reads what.

use crate::{
    Error, Exported, ExternalData, Result,
    graph::{BATCH, DATA_DIGEST, External, check_size},
    onnx::{
        ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto,
        tensor_proto::DataType,
        tensor_shape_proto::{Dimension, dimension},
        type_proto,
    },
};
use prost::Message as _;
use stage1_core::artifact::Digest;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A model in the making.
#[derive(Clone)]
pub(super) struct Model {
    pub(super) proto: ModelProto,
    /// Images per run of the finished model, if that is fixed. Until it is finished it takes any number, so that it can be
    /// looked at one image at a time.
    batch: Option<i64>,
    /// The weights, where they lie outside of the file. Constants that are made or changed are in `proto` until it is finished.
    data: Option<Arc<ExternalData>>,
}

/// A product of a value with a constant matrix, of the backbone: the head is small and stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    /// The node's name.
    pub(super) name: String,
    /// The value that is multiplied, [..., inputs].
    pub(super) input: String,
    /// The product, [..., outputs].
    pub(super) output: String,
    /// The constant, `[inputs, outputs]`.
    pub(super) weight: String,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Model {
    pub(super) fn read(model: &Exported) -> Result<Self> {
        let proto = ModelProto::decode(model.model.as_slice()).map_err(|error| Error::Form {
            reason: error.to_string(),
        })?;
        if proto.graph.is_none() {
            return Err(Error::Form {
                reason: "it has no graph".to_owned(),
            });
        }
        let mut model = Self {
            proto,
            batch: None,
            data: model.data.clone().map(Arc::new),
        };
        let fixed = |dim: &mut Dimension| match dim.value {
            Some(dimension::Value::DimValue(n)) => Some(n),
            _ => None,
        };
        model.batch = model.batch_axes().into_iter().find_map(fixed);
        model.set_batch(None);
        Ok(model)
    }

    fn set_batch(&mut self, batch: Option<i64>) {
        for dim in self.batch_axes() {
            dim.value = Some(match batch {
                Some(n) => dimension::Value::DimValue(n),
                None => dimension::Value::DimParam(BATCH.to_owned()),
            });
        }
    }

    /// The first axis of every input and output; the graph between them names no number of images.
    fn batch_axes(&mut self) -> Vec<&mut Dimension> {
        let graph = self.graph_mut();
        let ends = graph.input.iter_mut().chain(&mut graph.output);
        ends.filter_map(batch_axis).collect()
    }

    /// As it is, for any number of images.
    pub(super) fn exported(&self) -> Result<Exported> {
        let (proto, data) = match &self.data {
            Some(data) => {
                let (proto, data) = self.with_data_beside(data);
                (proto.encode_to_vec(), Some(data))
            }
            None => (self.proto.encode_to_vec(), None),
        };
        check_size(proto.len())?;
        Ok(Exported {
            digest: Digest::of_bytes(&proto),
            model: proto,
            data,
        })
    }

    /// Its large constants in a file of their own, those of `old` that are still used and those that were made.
    fn with_data_beside(&self, old: &ExternalData) -> (ModelProto, ExternalData) {
        let mut proto = self.proto.clone();
        let mut file = External::new(old.name.clone(), old.bytes.len());
        let constants = proto
            .graph
            .iter_mut()
            .flat_map(|graph| &mut graph.initializer);
        for tensor in constants {
            if let Some(raw) = old.of(tensor) {
                tensor.raw_data = Some(raw.to_vec());
            }
            if External::takes(tensor.raw_data().len()) {
                file.take(tensor);
            }
        }
        let data = file.finish();
        for property in &mut proto.metadata_props {
            if property.key() == DATA_DIGEST {
                property.value = Some(data.digest.to_string());
            }
        }
        (proto, data)
    }

    pub(super) fn finish(mut self) -> Result<Exported> {
        self.set_batch(self.batch);
        self.exported()
    }

    pub(super) fn nodes(&self) -> &[NodeProto] {
        &self.graph().node
    }

    pub(super) fn graph(&self) -> &crate::onnx::GraphProto {
        self.proto.graph.as_ref().expect("checked on reading")
    }

    pub(super) fn graph_mut(&mut self) -> &mut crate::onnx::GraphProto {
        self.proto.graph.as_mut().expect("checked on reading")
    }

    /// Constants by name, with their place.
    pub(super) fn constants(&self) -> BTreeMap<String, usize> {
        let named = |(i, tensor): (usize, &TensorProto)| (tensor.name().to_owned(), i);
        self.graph()
            .initializer
            .iter()
            .enumerate()
            .map(named)
            .collect()
    }

    /// The float32 values of a constant; none if it is of another type.
    pub(super) fn values(&self, place: usize) -> Option<Vec<f32>> {
        let tensor = &self.graph().initializer[place];
        if tensor.data_type() != i32::from(DataType::Float) {
            return None;
        }
        let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        Some(self.raw(tensor).chunks_exact(4).map(value).collect())
    }

    /// The bytes of a constant.
    pub(super) fn raw<'a>(&'a self, tensor: &'a TensorProto) -> &'a [u8] {
        let outside = self.data.as_ref().and_then(|data| data.of(tensor));
        outside.unwrap_or(tensor.raw_data())
    }

    pub(super) fn set_values(&mut self, place: usize, values: &[f32]) {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.set_raw(place, DataType::Float, raw);
    }

    /// Other values of a constant, of the same shape.
    pub(super) fn set_raw(&mut self, place: usize, kind: DataType, raw: Vec<u8>) {
        let tensor = &mut self.graph_mut().initializer[place];
        *tensor = constant(tensor.name(), kind, &tensor.dims, raw);
    }

    pub(super) fn add_constant(&mut self, name: &str, kind: DataType, shape: &[i64], raw: Vec<u8>) {
        self.graph_mut()
            .initializer
            .push(constant(name, kind, shape, raw));
    }

    /// The nodes that read a value.
    pub(super) fn readers(&self) -> BTreeMap<String, Vec<usize>> {
        let mut readers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (i, node) in self.nodes().iter().enumerate() {
            for input in node.input.iter().collect::<BTreeSet<_>>() {
                readers.entry(input.clone()).or_default().push(i);
            }
        }
        readers
    }

    /// The backbone's linear layers, in the order of the graph.
    pub(super) fn layers(&self) -> Vec<Layer> {
        let constants = self.constants();
        let layer = |node: &NodeProto| {
            let [input, weight] = &node.input[..] else {
                return None;
            };
            let of_head = ["head.", "gate.", "logits"];
            let is_head = of_head.iter().any(|part| node.name().starts_with(part));
            if node.op_type() != "MatMul" || is_head || constants.contains_key(input) {
                return None;
            }
            let tensor = &self.graph().initializer[*constants.get(weight)?];
            let [inputs, outputs] = tensor.dims[..] else {
                return None;
            };
            Some(Layer {
                name: node.name().to_owned(),
                input: input.clone(),
                output: node.output[0].clone(),
                weight: weight.clone(),
                inputs: usize::try_from(inputs).ok()?,
                outputs: usize::try_from(outputs).ok()?,
            })
        };
        self.nodes().iter().filter_map(layer).collect()
    }

    /// The name of the first output.
    pub(super) fn output(&self) -> Result<String> {
        let first = self.graph().output.first();
        let name = first.map(|info| info.name().to_owned());
        name.ok_or_else(|| Error::Form {
            reason: "it has no output".to_owned(),
        })
    }

    /// Makes float32 values outputs, beside those that are.
    pub(super) fn with_outputs(&self, names: &BTreeSet<String>) -> Self {
        let mut model = self.clone();
        let known: BTreeSet<String> = self
            .graph()
            .output
            .iter()
            .map(|info| info.name().to_owned())
            .collect();
        let tensor = type_proto::Tensor {
            elem_type: Some(DataType::Float.into()),
            shape: None,
        };
        let info = |name: &String| ValueInfoProto {
            name: Some(name.clone()),
            r#type: Some(TypeProto {
                value: Some(type_proto::Value::TensorType(tensor.clone())),
                ..TypeProto::default()
            }),
            ..ValueInfoProto::default()
        };
        let further = names.difference(&known).map(info);
        model.graph_mut().output.extend(further);
        model
    }
}

fn batch_axis(info: &mut ValueInfoProto) -> Option<&mut Dimension> {
    match info.r#type.as_mut()?.value.as_mut()? {
        type_proto::Value::TensorType(tensor) => tensor.shape.as_mut()?.dim.first_mut(),
        _ => None,
    }
}

pub(super) fn constant(name: &str, kind: DataType, shape: &[i64], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(kind.into()),
        dims: shape.to_vec(),
        raw_data: Some(raw),
        ..TensorProto::default()
    }
}

/// A node with one output, which has the node's name.
pub(super) fn node(op: &str, name: &str, inputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op.to_owned()),
        name: Some(name.to_owned()),
        input: inputs.iter().map(|input| (*input).to_owned()).collect(),
        output: vec![name.to_owned()],
        ..NodeProto::default()
    }
}
