//! Constants of a graph.

use super::{DataType, External, Graph, TensorProto, Value};
use prost::encoding::message;

impl Graph {
    /// A float32 constant.
    pub(crate) fn f32(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Value {
        assert_eq!(
            shape.iter().product::<usize>(),
            values.len(),
            "`{name}` {shape:?}"
        );
        let mut raw = vec![0; 4 * values.len()];
        for (bytes, value) in raw.as_chunks_mut().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
        self.constant(name, DataType::Float, shape, raw)
    }

    /// An integer constant of one axis.
    pub(crate) fn i64(&mut self, name: &str, values: &[i64]) -> Value {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, DataType::Int64, &[values.len()], raw)
    }

    /// An integer constant without axes.
    pub(crate) fn index(&mut self, name: &str, value: i64) -> Value {
        self.constant(name, DataType::Int64, &[], value.to_le_bytes().to_vec())
    }

    /// A float32 constant without axes, made when it is first asked for.
    pub(crate) fn shared_scalar(&mut self, name: &str, value: f32) -> Value {
        match self.names.contains(name) {
            true => Value(name.to_owned()),
            false => self.f32(name, &[], &[value]),
        }
    }

    /// An integer constant of one axis, made when it is first asked for.
    pub(crate) fn shared_i64(&mut self, name: &str, values: &[i64]) -> Value {
        match self.names.contains(name) {
            true => Value(name.to_owned()),
            false => self.i64(name, values),
        }
    }

    fn constant(&mut self, name: &str, kind: DataType, shape: &[usize], raw: Vec<u8>) -> Value {
        /// The field's number in a graph of `onnx.proto`.
        const INITIALIZER: u32 = 5;
        let outside = External::takes(raw.len());
        let mut tensor = TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(kind.into()),
            dims: shape.iter().map(|n| *n as i64).collect(),
            raw_data: Some(raw),
            ..TensorProto::default()
        };
        if let Some(external) = self.external.as_mut().filter(|_| outside) {
            external.take(&mut tensor);
        }
        message::encode(INITIALIZER, &tensor, &mut self.constants);
        self.claim(name)
    }
}
