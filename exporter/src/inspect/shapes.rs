//! Shapes of values for one image, as far as the operators that exported models consist of need it.

use crate::onnx::{
    AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType,
    tensor_shape_proto::dimension, type_proto,
};
use std::collections::BTreeMap;

type Shape = Vec<usize>;

/// The shapes that are known, by the value's name.
pub(super) struct Shapes<'a> {
    graph: &'a GraphProto,
    known: BTreeMap<&'a str, Shape>,
    constants: BTreeMap<&'a str, &'a TensorProto>,
}

impl<'a> Shapes<'a> {
    pub(super) fn of(graph: &'a GraphProto) -> Self {
        let constants = graph
            .initializer
            .iter()
            .map(|tensor| (tensor.name(), tensor));
        let mut shapes = Self {
            graph,
            known: BTreeMap::new(),
            constants: constants.collect(),
        };
        for tensor in &graph.initializer {
            let dims = tensor.dims.iter().map(|n| usize::try_from(*n).unwrap_or(0));
            shapes.known.insert(tensor.name(), dims.collect());
        }
        for input in &graph.input {
            if let Some(shape) = declared(input) {
                shapes.known.insert(input.name(), shape);
            }
        }
        for node in &graph.node {
            let outputs = shapes.outputs(node).unwrap_or_default();
            shapes
                .known
                .extend(node.output.iter().map(String::as_str).zip(outputs));
        }
        shapes
    }

    /// Twice the multiplications with an addition of all nodes; none when a shape isn't known.
    pub(super) fn flops(&self) -> Option<u64> {
        let mut nodes = self.graph.node.iter();
        nodes.try_fold(0_u64, |sum, node| {
            Some(sum.saturating_add(self.flops_of(node)?))
        })
    }

    fn flops_of(&self, node: &NodeProto) -> Option<u64> {
        let terms = match node.op_type() {
            "MatMul" => *self.input(node, 0)?.last()?,
            "Gemm" => {
                let transposed = int(node, "transA").unwrap_or(0) != 0;
                *self.input(node, 0)?.get(usize::from(!transposed))?
            }
            "Conv" => {
                let kernel = self.input(node, 1)?.get(1..)?.iter();
                kernel.fold(1, |all, n| usize::saturating_mul(all, *n))
            }
            _ => return Some(0),
        };
        let output = self.known.get(node.output.first()?.as_str())?;
        let products = output
            .iter()
            .chain([&terms])
            .fold(2, |all, n| u64::saturating_mul(all, *n as u64));
        Some(products)
    }

    fn input(&self, node: &NodeProto, index: usize) -> Option<&Shape> {
        self.known.get(node.input.get(index)?.as_str())
    }

    fn outputs(&self, node: &NodeProto) -> Option<Vec<Shape>> {
        let x = self.input(node, 0)?;
        let one = |shape| Some(vec![shape]);
        match node.op_type() {
            "Conv" => one(convolved(node, x, self.input(node, 1)?)?),
            "MatMul" => one(product(x, self.input(node, 1)?)?),
            "Gemm" => {
                let w = self.input(node, 1)?;
                let side = |name, plain: usize| match int(node, name).unwrap_or(0) {
                    0 => plain,
                    _ => 1 - plain,
                };
                one(vec![*x.get(side("transA", 0))?, *w.get(side("transB", 1))?])
            }
            "Reshape" => one(reshaped(x, &self.integers(node, 1)?)?),
            "Transpose" => {
                let axes = ints(node, "perm")?.iter();
                one(axes
                    .map(|axis| x.get(*axis as usize).copied())
                    .collect::<Option<_>>()?)
            }
            "Pad" => {
                let pads = self.integers(node, 1)?;
                let sides = |i: usize| Some(pads.get(i)? + pads.get(i + x.len())?);
                let padded = |(i, n): (usize, &usize)| n.checked_add_signed(sides(i)? as isize);
                one(x.iter().enumerate().map(padded).collect::<Option<_>>()?)
            }
            "Gather" => {
                let axis = axis(int(node, "axis").unwrap_or(0), x.len())?;
                let parts = [&x[..axis], self.input(node, 1)?, x.get(axis + 1..)?];
                one(parts.concat())
            }
            "Slice" => one(self.sliced(node, x)?),
            "ReduceMean" => {
                let axes = self.integers(node, 1)?;
                let axes: Option<Vec<_>> = axes.iter().map(|a| axis(*a, x.len())).collect();
                let (axes, keep) = (axes?, int(node, "keepdims").unwrap_or(1) != 0);
                let reduced = |(i, n): (usize, &usize)| match (axes.contains(&i), keep) {
                    (false, _) => Some(*n),
                    (true, true) => Some(1),
                    (true, false) => None,
                };
                one(x.iter().enumerate().filter_map(reduced).collect())
            }
            "Split" => {
                let axis = axis(int(node, "axis").unwrap_or(0), x.len())?;
                let part = |length: &i64| {
                    let mut shape = x.clone();
                    shape[axis] = *length as usize;
                    shape
                };
                Some(self.integers(node, 1)?.iter().map(part).collect())
            }
            "Concat" => {
                let axis = axis(int(node, "axis")?, x.len())?;
                let mut shape = x.clone();
                let lengths =
                    (0..node.input.len()).map(|i| self.input(node, i)?.get(axis).copied());
                shape[axis] = lengths.sum::<Option<usize>>()?;
                one(shape)
            }
            "Add" | "Sub" | "Mul" | "Div" | "Pow" => one(broadcast(x, self.input(node, 1)?)?),
            "LayerNormalization" | "Softmax" | "Erf" | "Sigmoid" | "Tanh" | "Relu" | "Gelu"
            | "Sqrt" | "Clip" | "Cast" | "Identity" | "QuantizeLinear" | "DequantizeLinear" => {
                one(x.clone())
            }
            _ => None,
        }
    }

    fn sliced(&self, node: &NodeProto, x: &Shape) -> Option<Shape> {
        let [starts, ends, axes] = [1, 2, 3].map(|i| self.integers(node, i));
        let (starts, ends, axes) = (starts?, ends?, axes?);
        if node.input.len() > 4 {
            return None;
        }
        let mut shape = x.clone();
        for ((start, end), at) in starts.iter().zip(&ends).zip(&axes) {
            let length = shape.get_mut(axis(*at, x.len())?)?;
            let inside = |place: i64| match place < 0 {
                true => (place + *length as i64).max(0),
                false => place.min(*length as i64),
            };
            *length = (inside(*end) - inside(*start)).max(0) as usize;
        }
        Some(shape)
    }

    /// The values of a constant input of 64-bit integers.
    fn integers(&self, node: &NodeProto, index: usize) -> Option<Vec<i64>> {
        let tensor = self.constants.get(node.input.get(index)?.as_str())?;
        if tensor.data_type() != DataType::Int64 as i32 {
            return None;
        }
        match &tensor.raw_data {
            Some(raw) => Some(
                raw.as_chunks()
                    .0
                    .iter()
                    .map(|b| i64::from_le_bytes(*b))
                    .collect(),
            ),
            None => Some(tensor.int64_data.clone()),
        }
    }
}

/// An input's shape; an axis without a number is the batch, which is one image.
fn declared(input: &ValueInfoProto) -> Option<Shape> {
    let Some(type_proto::Value::TensorType(tensor)) = &input.r#type.as_ref()?.value else {
        return None;
    };
    let side = |(i, dim): (usize, &crate::onnx::tensor_shape_proto::Dimension)| match &dim.value {
        Some(dimension::Value::DimValue(n)) if i > 0 => usize::try_from(*n).ok(),
        _ if i == 0 => Some(1),
        _ => None,
    };
    tensor
        .shape
        .as_ref()?
        .dim
        .iter()
        .enumerate()
        .map(side)
        .collect()
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute
        .iter()
        .find(|attribute| attribute.name() == name)
}

fn int(node: &NodeProto, name: &str) -> Option<i64> {
    attribute(node, name)?.i
}

fn ints<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [i64]> {
    Some(&attribute(node, name)?.ints)
}

/// An axis counted from the front.
fn axis(axis: i64, rank: usize) -> Option<usize> {
    let front = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(front).ok().filter(|axis| *axis < rank)
}

fn convolved(node: &NodeProto, x: &Shape, kernel: &Shape) -> Option<Shape> {
    let (strides, pads) = (ints(node, "strides")?, ints(node, "pads")?);
    let side = |i: usize| {
        let padding = pads.get(i)? + pads.get(i + 2)?;
        let room = (*x.get(2 + i)? as i64) + padding - (*kernel.get(2 + i)? as i64);
        usize::try_from(room / strides.get(i)? + 1).ok()
    };
    Some(vec![*x.first()?, *kernel.first()?, side(0)?, side(1)?])
}

fn product(a: &Shape, b: &Shape) -> Option<Shape> {
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let (a, b) = (a.split_at(a.len() - 2), b.split_at(b.len() - 2));
    let mut shape = broadcast(a.0, b.0)?;
    shape.extend([a.1[0], b.1[1]]);
    Some(shape)
}

fn broadcast(a: &[usize], b: &[usize]) -> Option<Shape> {
    let rank = a.len().max(b.len());
    let side = |shape: &[usize], i: usize| match (i + shape.len()).checked_sub(rank) {
        Some(i) => shape[i],
        None => 1,
    };
    let joined = |i| match (side(a, i), side(b, i)) {
        (a, b) if a == b || b == 1 => Some(a),
        (1, b) => Some(b),
        _ => None,
    };
    (0..rank).map(joined).collect()
}

/// 0 copies the axis, -1 takes what is left.
fn reshaped(x: &Shape, wanted: &[i64]) -> Option<Shape> {
    let total: usize = x.iter().product();
    let side = |(i, n): (usize, &i64)| match n {
        0 => x.get(i).copied(),
        n => Some(usize::try_from(*n).unwrap_or(0)),
    };
    let mut shape: Shape = wanted.iter().enumerate().map(side).collect::<Option<_>>()?;
    if let Some(open) = wanted.iter().position(|n| *n < 0) {
        let others: usize = shape.iter().filter(|n| **n > 0).product();
        shape[open] = total.checked_div(others)?;
    }
    Some(shape)
}
