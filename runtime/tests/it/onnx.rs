//! ONNX files of a few hundred bytes, written field by field: runtime must not depend on the exporter.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<Opset>,
}

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    ty: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dim>,
}

#[derive(Clone, PartialEq, Message)]
struct Dim {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
}

const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT64: i32 = 7;
const ATTRIBUTE_INT: i32 = 2;
const ATTRIBUTE_INTS: i32 = 7;

/// What a model of the tests takes.
pub(crate) struct Input {
    pub(crate) name: &'static str,
    pub(crate) elem_type: i32,
    pub(crate) channels: i64,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            name: "pixel_values",
            elem_type: FLOAT,
            channels: 3,
        }
    }
}

impl Input {
    /// An input of grey levels, [N, side, side, 3].
    pub(crate) fn levels() -> Self {
        Self {
            elem_type: UINT8,
            ..Self::default()
        }
    }

    /// The shape of an image, and its axes of pixels.
    fn image(&self, side: i64) -> ([i64; 3], [i64; 2]) {
        match self.elem_type {
            UINT8 => ([side, side, self.channels], [1, 2]),
            _ => ([self.channels, side, side], [2, 3]),
        }
    }

    /// An input of integers.
    pub(crate) fn integers() -> Self {
        Self {
            elem_type: INT64,
            ..Self::default()
        }
    }
}

/// `logits = mean over the pixels of each channel (3) x weights [3, classes] + bias [classes]`, and those means as `features`.
/// Input [N, 3, `side`, `side`] or [N, `side`, `side`, 3], N dynamic.
pub(crate) fn channel_means(
    input: &Input,
    side: i64,
    weights: &[[f32; 3]; 3],
    bias: [f32; 3],
) -> Vec<u8> {
    model(input, side, weights, bias, "Identity")
}

/// As [`channel_means`], and `logits` are the exponentials of that: they overflow above 88.
pub(crate) fn exponential(
    input: &Input,
    side: i64,
    weights: &[[f32; 3]; 3],
    bias: [f32; 3],
) -> Vec<u8> {
    model(input, side, weights, bias, "Exp")
}

fn model(input: &Input, side: i64, weights: &[[f32; 3]; 3], bias: [f32; 3], last: &str) -> Vec<u8> {
    let (image, axes) = input.image(side);
    let mut nodes = Vec::new();
    let mut pixels = input.name;
    if input.elem_type != FLOAT {
        nodes.push(node(
            "Cast",
            &[pixels],
            "cast",
            vec![int("to", i64::from(FLOAT))],
        ));
        pixels = "cast";
    }
    nodes.push(node(
        "ReduceMean",
        &[pixels],
        "features",
        vec![ints("axes", &axes), int("keepdims", 0)],
    ));
    nodes.push(node(
        "MatMul",
        &["features", "weights"],
        "product",
        Vec::new(),
    ));
    nodes.push(node("Add", &["product", "bias"], "sum", Vec::new()));
    nodes.push(node(last, &["sum"], "logits", Vec::new()));
    let graph = Graph {
        node: nodes,
        name: "channel means".to_owned(),
        initializer: vec![
            tensor(
                "weights",
                &[input.channels, 3],
                weights[..input.channels as usize].as_flattened(),
            ),
            tensor("bias", &[3], &bias),
        ],
        input: vec![value(input.name, input.elem_type, &image)],
        output: vec![value("logits", FLOAT, &[3]), value("features", FLOAT, &[3])],
    };
    let model = Model {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![Opset { version: 17 }],
    };
    model.encode_to_vec()
}

fn node(op_type: &str, input: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
    Node {
        input: input.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        op_type: op_type.to_owned(),
        attribute,
    }
}

fn int(name: &str, i: i64) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i: Some(i),
        ints: Vec::new(),
        kind: ATTRIBUTE_INT,
    }
}

fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute {
        name: name.to_owned(),
        i: None,
        ints: ints.to_vec(),
        kind: ATTRIBUTE_INTS,
    }
}

fn tensor(name: &str, dims: &[i64], values: &[f32]) -> Tensor {
    Tensor {
        dims: dims.to_vec(),
        data_type: FLOAT,
        name: name.to_owned(),
        raw_data: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// A value of shape [N, `dims`…].
fn value(name: &str, elem_type: i32, dims: &[i64]) -> Value {
    let batch = Dim {
        value: None,
        name: Some("N".to_owned()),
    };
    let fixed = dims.iter().map(|&d| Dim {
        value: Some(d),
        name: None,
    });
    let shape = Shape {
        dim: std::iter::once(batch).chain(fixed).collect(),
    };
    Value {
        name: name.to_owned(),
        ty: Some(Type {
            tensor: Some(TensorType {
                elem_type,
                shape: Some(shape),
            }),
        }),
    }
}
