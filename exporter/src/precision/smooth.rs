//! Moves the outliers of a normalised value's channels into the weights that read it (SmoothQuant, arXiv:2211.10438,
//! with exponent 1/2). The factors go into the norm's own weight and bias, so that the model computes the same in
//! float32, at no cost; one range for all channels then loses less.

use super::{
    model::{Layer, Model},
    observe::Channels,
};
use crate::onnx::NodeProto;
use std::collections::BTreeMap;

/// Ops that take tokens out of a value and leave its channels as they are.
const SELECTIONS: [&str; 2] = ["Gather", "Slice"];

/// Rewrites the model, and `seen` with it.
pub(super) fn smooth(model: &mut Model, layers: &[Layer], seen: &mut BTreeMap<String, Channels>) {
    let norms: Vec<NodeProto> = model
        .nodes()
        .iter()
        .filter(|node| node.op_type() == "LayerNormalization" && node.input.len() == 3)
        .cloned()
        .collect();
    for norm in norms {
        let Some((values, readers)) = only_layers(model, layers, &norm.output[0]) else {
            continue;
        };
        let factors = factors(model, &values, &readers, seen);
        if factors.is_empty() {
            continue;
        }
        let inverse: Vec<f32> = factors.iter().map(|factor| factor.recip()).collect();
        for name in &norm.input[1..] {
            scale_rows(model, name, 1, &inverse);
        }
        for layer in readers {
            scale_rows(model, &layer.weight, layer.outputs, &factors);
        }
        for value in values {
            seen.entry(value)
                .and_modify(|channels| channels.divide(&factors));
        }
    }
}

/// What holds a norm's channels (itself, and tokens taken out of it), and the layers that read them; none if anything
/// else reads them, too.
fn only_layers<'a>(
    model: &Model,
    layers: &'a [Layer],
    norm: &str,
) -> Option<(Vec<String>, Vec<&'a Layer>)> {
    let readers = model.readers();
    let is_output = |value: &str| model.graph().output.iter().any(|info| info.name() == value);
    let (mut values, mut found) = (vec![norm.to_owned()], Vec::new());
    let mut at = 0;
    while let Some(value) = values.get(at).cloned() {
        at += 1;
        if is_output(&value) {
            return None;
        }
        for reader in readers.get(&value).into_iter().flatten() {
            let node = &model.nodes()[*reader];
            let is_layer = |layer: &&Layer| layer.name == node.name() && layer.input == value;
            match layers.iter().find(is_layer) {
                Some(layer) => found.push(layer),
                None if selects_tokens(model, node, &value) => {
                    values.push(node.output[0].clone());
                }
                None => return None,
            }
        }
    }
    (!found.is_empty()).then_some((values, found))
}

/// Whether a node takes rows of axis 1 out of `value`.
fn selects_tokens(model: &Model, node: &NodeProto, value: &str) -> bool {
    if !SELECTIONS.contains(&node.op_type()) || node.input[0] != value {
        return false;
    }
    let attribute = node.attribute.iter().find(|a| a.name() == "axis");
    let axes = node.input.get(3).and_then(|name| {
        let place = *model.constants().get(name)?;
        let raw = model.raw(&model.graph().initializer[place]);
        <[u8; 8]>::try_from(raw).ok().map(i64::from_le_bytes)
    });
    attribute.map(|a| a.i()).or(axes) == Some(1)
}

/// One for each channel, with geometric mean 1; none if the value wasn't looked at.
fn factors(
    model: &Model,
    values: &[String],
    layers: &[&Layer],
    seen: &BTreeMap<String, Channels>,
) -> Vec<f32> {
    let channels = layers[0].inputs;
    let mut inputs = vec![0.0_f32; channels];
    for magnitudes in values.iter().filter_map(|value| seen.get(value)) {
        largest(&mut inputs, &magnitudes.magnitudes());
    }
    let mut weights = vec![0.0_f32; channels];
    let constants = model.constants();
    for layer in layers {
        let Some(weight) = model.values(constants[&layer.weight]) else {
            return Vec::new();
        };
        let rows = weight.chunks_exact(layer.outputs);
        let rows = rows.map(|row| row.iter().fold(0.0_f32, |max, w| max.max(w.abs())));
        largest(&mut weights, &rows.collect::<Vec<_>>());
    }
    // A channel that is nearly always 0 must not get a factor that float32 can't undo.
    let floor = |x: f32| f64::from(x).max(1e-5);
    let logs: Vec<f64> = inputs
        .iter()
        .zip(&weights)
        .map(|(input, weight)| 0.5 * (floor(*input) / floor(*weight)).ln())
        .collect();
    let mean = logs.iter().sum::<f64>() / channels as f64;
    logs.iter().map(|log| (log - mean).exp() as f32).collect()
}

fn largest(all: &mut [f32], further: &[f32]) {
    all.iter_mut()
        .zip(further)
        .for_each(|(max, x)| *max = max.max(*x));
}

/// Multiplies row `i` of a constant, `width` values, by `factors[i]`.
fn scale_rows(model: &mut Model, name: &str, width: usize, factors: &[f32]) {
    let place = model.constants()[name];
    let mut values = model.values(place).expect("float32, as the layer is");
    for (row, factor) in values.chunks_exact_mut(width).zip(factors) {
        row.iter_mut().for_each(|value| *value *= factor);
    }
    model.set_values(place, &values);
}
