//! Half precision, where it is safe.
//!
//! The linear layers, and what lies between them (heads, rotations, activations), become float16. The residual stream,
//! norms, softmax, convolutions and the head stay float32: DINOv3's residual stream leaves float16's range, and they
//! are cheap. A layer stays float32, and is recorded, when a weight doesn't fit, or when a value that was seen on the
//! sample comes within a factor of two of float16's largest number.

use super::{Runtime, Sample, model::Model, observe};
use crate::{
    Exported, Result,
    onnx::{AttributeProto, NodeProto, attribute_proto::AttributeType, tensor_proto::DataType},
};
use half::f16;
use std::collections::{BTreeMap, BTreeSet};

/// Which precision the attention's scores have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attention {
    /// Scores in float16, the softmax over them in float32.
    Half,
    /// Scores and softmax in float32: TensorRT gets DINOv3 wrong otherwise (TensorRT #4742, #4723).
    Single,
}

/// A model in half precision, and what was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Fp16 {
    /// The model.
    pub model: Exported,
    /// Nodes in float16.
    pub half: usize,
    /// Layers that stay in float32, with the largest magnitude of a weight or a value, which float16 can't hold with a
    /// margin of two.
    pub kept: BTreeMap<String, f64>,
}

/// Puts `model` into half precision; the images of `sample`, training images, show which values get too large.
///
/// # Errors
/// [`crate::Error::Session`]; [`crate::Error::NotFinite`]; [`crate::Error::Form`] when it isn't a model of this exporter.
pub fn fp16(
    model: &Exported,
    sample: Sample<'_>,
    runtime: &mut dyn Runtime,
    attention: Attention,
) -> Result<Fp16> {
    let mut model = Model::read(model)?;
    let kept = too_large(&model, sample, runtime)?;
    let half = half_nodes(&model, attention, &kept);
    convert(&mut model, &half);
    Ok(Fp16 {
        model: model.finish()?,
        half: half.len(),
        kept,
    })
}

/// Layers whose weights, inputs or results are too large, with the largest of them.
fn too_large(
    model: &Model,
    sample: Sample<'_>,
    runtime: &mut dyn Runtime,
) -> Result<BTreeMap<String, f64>> {
    let layers = model.layers();
    let mut values: BTreeMap<String, usize> = BTreeMap::new();
    for layer in &layers {
        values.insert(layer.input.clone(), layer.inputs);
        values.insert(layer.output.clone(), layer.outputs);
    }
    let seen = match values.is_empty() {
        true => BTreeMap::new(),
        false => observe::channels(runtime, model, sample, &values)?,
    };
    let constants = model.constants();
    let largest = |values: &[f32]| values.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let limit = f32::from(f16::MAX);
    let mut kept = BTreeMap::new();
    for layer in layers {
        let weight = largest(&model.values(constants[&layer.weight]).unwrap_or_default());
        let value = [&layer.input, &layer.output]
            .iter()
            .map(|name| largest(&seen[*name].magnitudes()))
            .fold(0.0, f32::max);
        if weight > limit || 2.0 * value > limit {
            kept.insert(layer.name, f64::from(weight.max(value)));
        }
    }
    Ok(kept)
}

/// Between two layers these may be in float16.
const ELEMENTWISE: [&str; 11] = [
    "MatMul",
    "Add",
    "Mul",
    "Div",
    "Erf",
    "Sigmoid",
    "Reshape",
    "Transpose",
    "Split",
    "Concat",
    "Slice",
];

/// Indices of the nodes that become float16: layers, and what follows them up to the residual stream.
fn half_nodes(
    model: &Model,
    attention: Attention,
    kept: &BTreeMap<String, f64>,
) -> BTreeSet<usize> {
    let layers: BTreeSet<String> = model.layers().into_iter().map(|l| l.name).collect();
    let (constants, readers) = (model.constants(), model.readers());
    let stream = residual_stream(model);
    let outputs: BTreeSet<&str> = model.graph().output.iter().map(|o| o.name()).collect();
    let mut half = BTreeSet::new();
    let mut of_layers: BTreeSet<&str> = BTreeSet::new();
    for (i, node) in model.nodes().iter().enumerate() {
        let follows = node
            .input
            .iter()
            .any(|input| of_layers.contains(input.as_str()));
        let is_layer = layers.contains(node.name());
        if node.op_type() == "Softmax" && follows {
            // What is mixed by these probabilities is float16 again.
            of_layers.extend(node.output.iter().map(String::as_str));
            continue;
        }
        let is_score = node.op_type() == "MatMul"
            && !node.input.iter().any(|input| constants.contains_key(input))
            && leads_to_softmax(model, &readers, node);
        let fits = ELEMENTWISE.contains(&node.op_type())
            && !stream.contains(&i)
            && !node.output.iter().any(|o| outputs.contains(o.as_str()));
        if !fits || !(is_layer || follows) {
            continue;
        }
        of_layers.extend(node.output.iter().map(String::as_str));
        let single = kept.contains_key(node.name())
            || (is_score && attention == Attention::Single)
            || overflows(model, &constants, node);
        if !single {
            half.insert(i);
        }
    }
    half
}

/// Whether a small constant of the node, such as a bias, is beyond float16.
fn overflows(model: &Model, constants: &BTreeMap<String, usize>, node: &NodeProto) -> bool {
    node.input
        .iter()
        .filter_map(|input| model.values(*constants.get(input)?))
        .any(|values| values.iter().any(|x| x.abs() > f32::from(f16::MAX)))
}

fn leads_to_softmax(
    model: &Model,
    readers: &BTreeMap<String, Vec<usize>>,
    node: &NodeProto,
) -> bool {
    let next = readers.get(&node.output[0]).into_iter().flatten();
    next.into_iter()
        .any(|i| model.nodes()[*i].op_type() == "Softmax")
}

/// Additions of a block's result to what went into the block: those whose sum a norm, a convolution or another of them
/// reads.
fn residual_stream(model: &Model) -> BTreeSet<usize> {
    /// These leave the values of the stream as they are.
    const CARRIERS: [&str; 7] = [
        "Reshape",
        "Transpose",
        "Gather",
        "Slice",
        "Concat",
        "ReduceMean",
        "Squeeze",
    ];
    let (constants, readers) = (model.constants(), model.readers());
    let mut stream = BTreeSet::new();
    let mut carries: BTreeSet<&str> = BTreeSet::new();
    for (i, node) in model.nodes().iter().enumerate().rev() {
        let is_read = |output: &String| {
            let reads = |reader: &usize| {
                let node = &model.nodes()[*reader];
                let is_end = ["LayerNormalization", "Conv"].contains(&node.op_type())
                    && node.input[0] == *output;
                is_end || stream.contains(reader)
            };
            carries.contains(output.as_str())
                || readers.get(output).is_some_and(|all| all.iter().any(reads))
        };
        if !node.output.iter().any(is_read) {
            continue;
        }
        let is_sum = node.op_type() == "Add"
            && !node.input.iter().any(|input| constants.contains_key(input));
        if is_sum {
            stream.insert(i);
        } else if CARRIERS.contains(&node.op_type()) {
            carries.insert(node.input[0].as_str());
        }
    }
    stream
}

/// Changes the constants of `half`'s nodes, and puts a cast wherever a value crosses the border.
fn convert(model: &mut Model, half: &BTreeSet<usize>) {
    let floats = float_values(model);
    let produced: BTreeSet<String> = half
        .iter()
        .flat_map(|i| model.nodes()[*i].output.clone())
        .collect();
    let constants = model.constants();
    let (mut nodes, mut made) = (Vec::new(), BTreeSet::new());
    let mut half_constants = BTreeSet::new();
    for (i, mut node) in std::mem::take(&mut model.graph_mut().node)
        .into_iter()
        .enumerate()
    {
        for input in &mut node.input {
            if !floats.contains(input.as_str()) || half.contains(&i) == produced.contains(input) {
                continue;
            }
            let to_half = half.contains(&i);
            let cast = format!("{input}.{}", if to_half { "fp16" } else { "fp32" });
            if made.insert(cast.clone()) {
                match constants.contains_key(input) {
                    true => _ = half_constants.insert(input.clone()),
                    false => nodes.push(cast_node(&cast, input, to_half)),
                }
            }
            *input = cast;
        }
        nodes.push(node);
    }
    model.graph_mut().node = nodes;
    halve(model, &half_constants);
}

/// The constants as float16, under their new name; a constant that float32 nodes read, too, is there twice.
fn halve(model: &mut Model, names: &BTreeSet<String>) {
    let readers = model.readers();
    for tensor in std::mem::take(&mut model.graph_mut().initializer) {
        if names.contains(tensor.name()) {
            let half = |bytes: &[u8]| {
                let value = f32::from_le_bytes(bytes.try_into().expect("four bytes"));
                f16::from_f32(value).to_le_bytes()
            };
            let raw = model.raw(&tensor).chunks_exact(4).flat_map(half).collect();
            let name = format!("{}.fp16", tensor.name());
            model.add_constant(&name, DataType::Float16, &tensor.dims, raw);
            if !readers.contains_key(tensor.name()) {
                continue;
            }
        }
        model.graph_mut().initializer.push(tensor);
    }
}

/// Names of float32 values: constants by their type; all that nodes compute, but for integers made of pixels.
fn float_values(model: &Model) -> BTreeSet<String> {
    let graph = model.graph();
    let float = i32::from(DataType::Float);
    let constants = graph.initializer.iter().filter(|t| t.data_type() == float);
    let computed = graph
        .node
        .iter()
        .flat_map(|node| node.output.iter().cloned());
    constants
        .map(|tensor| tensor.name().to_owned())
        .chain(computed)
        .collect()
}

fn cast_node(name: &str, input: &str, to_half: bool) -> NodeProto {
    let kind = match to_half {
        true => DataType::Float16,
        false => DataType::Float,
    };
    let mut cast = super::model::node("Cast", name, &[input]);
    cast.attribute.push(AttributeProto {
        name: Some("to".to_owned()),
        i: Some(i32::from(kind).into()),
        r#type: Some(AttributeType::Int.into()),
        ..AttributeProto::default()
    });
    cast
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::{Axis, Graph},
        linear::Linear,
        precision::{Failure, Observed},
    };

    /// Says that every value is 1, but for one.
    struct Says {
        name: &'static str,
        value: f32,
    }

    impl Runtime for Says {
        fn open(&mut self, _: &Exported) -> Result<Box<dyn Observed>, Failure> {
            let Self { name, value } = *self;
            Ok(Box::new(Self { name, value }))
        }
    }

    impl Observed for Says {
        fn run(
            &mut self,
            _: &[f32],
            _: [usize; 4],
            outputs: &[&str],
        ) -> Result<Vec<Vec<f32>>, Failure> {
            let value = |name: &&str| vec![if *name == self.name { self.value } else { 1.0 }; 3];
            Ok(outputs.iter().map(value).collect())
        }
    }

    /// One block without attention: norm, two layers, residual; then norm and head.
    fn block(second_weight: f32) -> Exported {
        let mut graph = Graph::new("g");
        let pixels = graph.input(
            "pixel_values",
            &[Axis::Batch, Axis::Fixed(3), Axis::Fixed(1), Axis::Fixed(1)],
        );
        let x = graph.reshape("x", &pixels, &[0, 1, 3]);
        let square = |value: f32| Linear::new(3, vec![value; 9], Some(vec![0.5; 3]));
        let normed = graph.layer_norm("norm1", &x, &[1.0; 3], &[0.0; 3], 1e-5);
        let up = graph.linear("up", &normed, &square(1.0));
        let up = graph.gelu("gelu", &up);
        let down = graph.linear("down", &up, &square(second_weight));
        let x = graph.add("residual", &x, &down);
        let normed = graph.layer_norm("norm2", &x, &[1.0; 3], &[0.0; 3], 1e-5);
        let class = graph.first("class", &normed);
        let logits = graph.linear("logits", &class, &square(1.0));
        graph.output(&logits, &[Axis::Batch, Axis::Fixed(3)]);
        graph.finish(&BTreeMap::new()).unwrap()
    }

    #[test]
    fn layers_whose_numbers_float16_cannot_hold_stay_in_float32() {
        let cases = [
            ("all fit", 1.0, "", 1.0, vec![]),
            ("a weight beyond 65504", 7e4, "", 1.0, vec!["down.matmul"]),
            (
                "a value within a factor of two",
                1.0,
                "up.matmul",
                4e4,
                vec!["up.matmul"],
            ),
            (
                "a value that two layers share",
                1.0,
                "gelu",
                4e4,
                vec!["down.matmul"],
            ),
        ];
        for (case, weight, name, value, want) in cases {
            let pixels = [0.0; 3];
            let sample = Sample::new(&pixels, [3, 1, 1]).unwrap();
            let mut says = Says { name, value };
            let made = fp16(&block(weight), sample, &mut says, Attention::Half).unwrap();
            let kept: Vec<&str> = made.kept.keys().map(String::as_str).collect();
            assert_eq!(kept, want, "{case}");
        }
    }

    #[test]
    fn the_residual_stream_norms_and_head_stay_in_float32() {
        let pixels = [0.0; 3];
        let sample = Sample::new(&pixels, [3, 1, 1]).unwrap();
        let mut says = Says {
            name: "",
            value: 1.0,
        };
        let made = fp16(&block(1.0), sample, &mut says, Attention::Half).unwrap();
        let model = Model::read(&made.model).unwrap();
        let reads = |name: &str| {
            let node = model
                .nodes()
                .iter()
                .find(|node| node.name() == name)
                .unwrap();
            node.input.join(" ")
        };
        assert_eq!(reads("up.matmul"), "norm1.fp16 up.weight.fp16");
        assert_eq!(reads("residual"), "x down.fp32");
        assert_eq!(reads("norm2"), "residual norm2.weight norm2.bias");
        assert_eq!(reads("logits.matmul"), "class logits.weight");
        assert!(!model.constants().contains_key("up.weight"), "not twice");
    }
}
