//! The operators that the models consist of. `name` is the name of the result.

use super::{
    Attribute::{Float, Int, Ints},
    Graph, Value,
};
use crate::{linear::Linear, onnx::tensor_proto::DataType};
use std::f32::consts::SQRT_2;

/// A two-dimensional convolution with square kernels.
pub(crate) struct Conv<'a> {
    /// `[out, in / groups, side, side]`.
    pub(crate) weight: &'a [f32],
    /// `[out]`.
    pub(crate) bias: &'a [f32],
    pub(crate) side: usize,
    pub(crate) stride: usize,
    /// Zeros on each of the four sides.
    pub(crate) padding: usize,
    pub(crate) groups: usize,
}

impl Graph {
    pub(crate) fn add(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        self.node("Add", name, &[a, b], &[])
    }

    pub(crate) fn mul(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        self.node("Mul", name, &[a, b], &[])
    }

    pub(crate) fn matmul(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        self.node("MatMul", name, &[a, b], &[])
    }

    /// `x` [..., in] to [..., out]. The weight is stored `[in, out]`, as MatMul takes it.
    pub(crate) fn linear(&mut self, name: &str, x: &Value, layer: &Linear) -> Value {
        let shape = [layer.inputs(), layer.outputs()];
        let weight = self.f32(&format!("{name}.weight"), &shape, &layer.transposed());
        let Some(bias) = layer.bias() else {
            return self.matmul(name, x, &weight);
        };
        let bias = self.f32(&format!("{name}.bias"), &[layer.outputs()], bias);
        let product = self.matmul(&format!("{name}.matmul"), x, &weight);
        self.add(name, &product, &bias)
    }

    /// Normalises the last axis.
    pub(crate) fn layer_norm(
        &mut self,
        name: &str,
        x: &Value,
        weight: &[f32],
        bias: &[f32],
        eps: f64,
    ) -> Value {
        let weight = self.f32(&format!("{name}.weight"), &[weight.len()], weight);
        let bias = self.f32(&format!("{name}.bias"), &[bias.len()], bias);
        let attributes = [("axis", Int(-1)), ("epsilon", Float(eps))];
        self.node(
            "LayerNormalization",
            name,
            &[x, &weight, &bias],
            &attributes,
        )
    }

    /// Over the last axis.
    pub(crate) fn softmax(&mut self, name: &str, x: &Value) -> Value {
        self.node("Softmax", name, &[x], &[("axis", Int(-1))])
    }

    /// The exact GELU, in the form that ONNX Runtime recognises and fuses.
    pub(crate) fn gelu(&mut self, name: &str, x: &Value) -> Value {
        let (root, one, half) = (
            self.shared_scalar("gelu.sqrt2", SQRT_2),
            self.shared_scalar("gelu.one", 1.0),
            self.shared_scalar("gelu.half", 0.5),
        );
        let scaled = self.node("Div", &format!("{name}.scaled"), &[x, &root], &[]);
        let erf = self.node("Erf", &format!("{name}.erf"), &[&scaled], &[]);
        let twice_cdf = self.add(&format!("{name}.twice_cdf"), &erf, &one);
        let twice = self.mul(&format!("{name}.twice"), x, &twice_cdf);
        self.mul(name, &twice, &half)
    }

    pub(crate) fn silu(&mut self, name: &str, x: &Value) -> Value {
        let sigmoid = self.node("Sigmoid", &format!("{name}.sigmoid"), &[x], &[]);
        self.mul(name, x, &sigmoid)
    }

    /// A shape entry of 0 copies the input's axis: that is how the batch stays dynamic.
    pub(crate) fn reshape(&mut self, name: &str, x: &Value, shape: &[i64]) -> Value {
        let key: Vec<_> = shape.iter().map(i64::to_string).collect();
        let shape = self.shared_i64(&format!("shape.{}", key.join("x")), shape);
        self.node("Reshape", name, &[x, &shape], &[])
    }

    pub(crate) fn transpose(&mut self, name: &str, x: &Value, axes: &[i64]) -> Value {
        self.node("Transpose", name, &[x], &[("perm", Ints(axes.to_vec()))])
    }

    /// The values as float32.
    pub(crate) fn cast_f32(&mut self, name: &str, x: &Value) -> Value {
        let to = i32::from(DataType::Float);
        self.node("Cast", name, &[x], &[("to", Int(to.into()))])
    }

    /// Cuts `axis` into parts of the given names and lengths.
    pub(crate) fn split<const P: usize>(
        &mut self,
        x: &Value,
        axis: i64,
        parts: [(&str, usize); P],
    ) -> [Value; P] {
        let lengths = parts.map(|(_, length)| length as i64);
        let key = lengths.map(|length| length.to_string()).join("+");
        let lengths = self.shared_i64(&format!("split.{key}"), &lengths);
        let values = parts.map(|(name, _)| self.claim(name));
        let outputs = parts.iter().map(|(name, _)| (*name).to_owned()).collect();
        let node = format!("{}.split", x.0);
        self.push_node(
            "Split",
            &node,
            &[x, &lengths],
            outputs,
            &[("axis", Int(axis))],
        );
        values
    }

    pub(crate) fn concat(&mut self, name: &str, parts: &[&Value], axis: i64) -> Value {
        self.node("Concat", name, parts, &[("axis", Int(axis))])
    }

    /// `x` [N, in, H, W] to [N, out, H', W'].
    pub(crate) fn conv(&mut self, name: &str, x: &Value, conv: &Conv<'_>) -> Value {
        let inputs = conv.weight.len() / (conv.bias.len() * conv.side * conv.side);
        let shape = [conv.bias.len(), inputs, conv.side, conv.side];
        let weight = self.f32(&format!("{name}.weight"), &shape, conv.weight);
        let bias = self.f32(&format!("{name}.bias"), &[conv.bias.len()], conv.bias);
        let ints = |value: usize, count| Ints(vec![value as i64; count]);
        let attributes = [
            ("kernel_shape", ints(conv.side, 2)),
            ("strides", ints(conv.stride, 2)),
            ("pads", ints(conv.padding, 4)),
            ("group", Int(conv.groups as i64)),
        ];
        self.node("Conv", name, &[x, &weight, &bias], &attributes)
    }

    /// Puts `count` zero rows before axis 1 of a value with three axes.
    pub(crate) fn pad_front(&mut self, name: &str, x: &Value, count: usize) -> Value {
        let pads = self.i64(&format!("{name}.pads"), &[0, count as i64, 0, 0, 0, 0]);
        self.node("Pad", name, &[x, &pads], &[])
    }

    /// Row 0 of axis 1, without that axis.
    pub(crate) fn first(&mut self, name: &str, x: &Value) -> Value {
        let zero = self.index(&format!("{name}.index"), 0);
        self.node("Gather", name, &[x, &zero], &[("axis", Int(1))])
    }

    /// Rows `start..end` of axis 1.
    pub(crate) fn rows(&mut self, name: &str, x: &Value, start: usize, end: usize) -> Value {
        let start = self.i64(&format!("{name}.start"), &[start as i64]);
        let end = self.i64(&format!("{name}.end"), &[end as i64]);
        let axis = self.i64(&format!("{name}.axis"), &[1]);
        self.node("Slice", name, &[x, &start, &end, &axis], &[])
    }

    /// The mean over `axes`, which stay with length 1 if `keep`.
    pub(crate) fn mean_axes(&mut self, name: &str, x: &Value, axes: &[i64], keep: bool) -> Value {
        let axes = self.i64(&format!("{name}.axes"), axes);
        let keep = [("keepdims", Int(i64::from(keep)))];
        self.node("ReduceMean", name, &[x, &axes], &keep)
    }
}
