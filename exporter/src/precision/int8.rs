//! Static int8: each chosen layer reads its input as uint8 and multiplies it by int8 weights.
//!
//! Between layers all is float32: ONNX Runtime fuses `QuantizeLinear → DequantizeLinear → MatMul` into one integer
//! product with a float32 result (MatMulIntegerToFloat). The ranges are constants, so that an image's logits don't
//! depend on its batch.

use super::{
    Runtime, Sample, choose,
    model::{Layer, Model, node},
    observe, smooth, weights,
};
use crate::{
    Error, Exported, Result,
    onnx::{AttributeProto, NodeProto, attribute_proto::AttributeType, tensor_proto::DataType},
};
use std::collections::{BTreeMap, BTreeSet};

/// How a model is quantised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Int8Options {
    /// Bits of a weight, the sign among them: 8; 7 where the CPU adds products of bytes in 16 bits, which saturates
    /// (AVX2's `vpmaddubsw`; no VNNI).
    pub weight_bits: u8,
    /// The largest error of the logits on the sample, as [`Int8::error`] measures it; layers stay in float32 until it
    /// holds.
    pub max_error: f64,
}

/// A quantised model, and what was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8 {
    /// The model.
    pub model: Exported,
    /// Layers in integers.
    pub quantised: Vec<String>,
    /// Layers that stay in float32, with the error that each alone would cause.
    pub kept: BTreeMap<String, f64>,
    /// Root mean square of the logits' error on the sample, as a share of that of the logits; both less their image's
    /// mean, which no probability depends on.
    pub error: f64,
}

/// Quantises `model`; ranges and choices come from the images of `sample`, which must be training images.
///
/// # Errors
/// [`Error::Option`]; [`Error::Session`]; [`Error::NotFinite`]; [`Error::Form`] when it isn't a model of this exporter;
/// [`Error::NothingQuantised`] when no layer can be within the limit.
pub fn int8(
    model: &Exported,
    sample: Sample<'_>,
    runtime: &mut dyn Runtime,
    options: Int8Options,
) -> Result<Int8> {
    check(options)?;
    let original = Model::read(model)?;
    let layers = original.layers();
    let inputs: BTreeMap<String, usize> = layers
        .iter()
        .map(|layer| (layer.input.clone(), layer.inputs))
        .collect();
    if layers.is_empty() {
        return Err(Error::NothingQuantised {
            max_error: options.max_error,
        });
    }
    let mut seen = observe::channels(runtime, &original, sample, &inputs)?;
    let mut smoothed = original.clone();
    smooth::smooth(&mut smoothed, &layers, &mut seen);
    let quantiser = Quantiser::new(smoothed, layers, &seen, options.weight_bits)?;
    choose::choose(&original, &quantiser, sample, runtime, options.max_error)
}

fn check(options: Int8Options) -> Result<()> {
    let Int8Options {
        weight_bits,
        max_error,
    } = options;
    let option = |name, value: f64, expected| {
        Err(Error::Option {
            name,
            value,
            expected,
        })
    };
    if !(7..=8).contains(&weight_bits) {
        return option("weight_bits", f64::from(weight_bits), "7 or 8");
    }
    if !max_error.is_finite() || max_error <= 0.0 {
        return option("max_error", max_error, "a number above 0");
    }
    Ok(())
}

/// A model whose layers can be put into integers, any set of them.
pub(super) struct Quantiser {
    model: Model,
    layers: Vec<Prepared>,
}

/// A layer with its integers.
pub(super) struct Prepared {
    pub(super) layer: Layer,
    /// Multiplications for one image.
    pub(super) cost: f64,
    weights: weights::Quantised,
    /// Of its input.
    scale: f32,
    zero: u8,
}

impl Quantiser {
    fn new(
        model: Model,
        layers: Vec<Layer>,
        seen: &BTreeMap<String, observe::Channels>,
        bits: u8,
    ) -> Result<Self> {
        let constants = model.constants();
        let prepare = |layer: Layer| {
            let channels = &seen[&layer.input];
            let (scale, zero) = input_scale(channels.range());
            let values = model.values(constants[&layer.weight]);
            let values = values.ok_or_else(|| Error::Form {
                reason: format!("`{}` isn't float32", layer.weight),
            })?;
            Ok(Prepared {
                cost: (channels.rows * layer.inputs * layer.outputs) as f64,
                weights: weights::quantise(&values, layer.outputs, bits),
                scale,
                zero,
                layer,
            })
        };
        let layers = layers.into_iter().map(prepare).collect::<Result<_>>()?;
        Ok(Self { model, layers })
    }

    pub(super) fn layers(&self) -> &[Prepared] {
        &self.layers
    }

    /// The model with those layers in integers whose index is in `chosen`.
    pub(super) fn model(&self, chosen: &BTreeSet<usize>) -> Model {
        let mut model = self.model.clone();
        let layers: BTreeMap<&str, &Prepared> = chosen
            .iter()
            .map(|i| (self.layers[*i].layer.name.as_str(), &self.layers[*i]))
            .collect();
        let (mut nodes, mut quantised) = (Vec::new(), BTreeSet::new());
        for mut product in std::mem::take(&mut model.graph_mut().node) {
            if let Some(prepared) = layers.get(product.name()) {
                let input = &prepared.layer.input;
                if quantised.insert(input.clone()) {
                    nodes.push(prepared.quantise_input(&mut model));
                }
                nodes.extend(prepared.in_integers(&mut model, &mut product));
            }
            nodes.push(product);
        }
        model.graph_mut().node = nodes;
        model
    }
}

/// Scale and zero point of the uint8 that covers a range, and 0.
fn input_scale((low, high): (f32, f32)) -> (f32, u8) {
    let (low, high) = (low.min(0.0), high.max(0.0));
    let scale = ((high - low) / 255.0).max(f32::MIN_POSITIVE);
    let zero = (-low / scale).round_ties_even().clamp(0.0, 255.0);
    (scale, zero as u8)
}

impl Prepared {
    /// The input as uint8; layers that read the same value share it.
    fn quantise_input(&self, model: &mut Model) -> NodeProto {
        let input = &self.layer.input;
        let (scale, zero) = (format!("{input}.scale"), format!("{input}.zero"));
        let raw = self.scale.to_le_bytes().to_vec();
        model.add_constant(&scale, DataType::Float, &[], raw);
        model.add_constant(&zero, DataType::Uint8, &[], vec![self.zero]);
        let name = format!("{input}.uint8");
        node("QuantizeLinear", &name, &[input, &scale, &zero])
    }

    /// Replaces the weight by integers, and lets the product read both through `DequantizeLinear`: that is the pattern
    /// which runtimes recognise.
    fn in_integers(&self, model: &mut Model, product: &mut NodeProto) -> [NodeProto; 2] {
        let Layer {
            input,
            weight,
            outputs,
            ..
        } = &self.layer;
        let place = model.constants()[weight];
        let values = self.weights.values.iter();
        let raw = values.map(|v| v.cast_unsigned()).collect();
        model.set_raw(place, DataType::Int8, raw);
        let (scale, zero) = (format!("{weight}.scale"), format!("{weight}.zero"));
        let raw = self.weights.scales.iter().flat_map(|s| s.to_le_bytes());
        model.add_constant(&scale, DataType::Float, &[*outputs as i64], raw.collect());
        model.add_constant(&zero, DataType::Int8, &[*outputs as i64], vec![0; *outputs]);
        let quantised = format!("{input}.uint8");
        let (of_input, of_input_zero) = (format!("{input}.scale"), format!("{input}.zero"));
        // Each reader has its own: ONNX Runtime fuses a `DequantizeLinear` with one reader only.
        let input = format!("{}.input", self.layer.name);
        let read = node(
            "DequantizeLinear",
            &input,
            &[&quantised, &of_input, &of_input_zero],
        );
        let weights = format!("{weight}.dequantised");
        let mut dequantised = node("DequantizeLinear", &weights, &[weight, &scale, &zero]);
        dequantised.attribute.push(AttributeProto {
            name: Some("axis".to_owned()),
            i: Some(1),
            r#type: Some(AttributeType::Int.into()),
            ..AttributeProto::default()
        });
        product.input = vec![input, weights];
        [read, dequantised]
    }
}
