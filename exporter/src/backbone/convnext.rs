//! The ConvNeXt of DINOv3 as a graph.
//!
//! The map is kept as [N, H, W, C], in which norms and linear layers work: each convolution has a transposition before
//! and after it, and no other node needs one. LayerScale is folded into the layer before it.

use super::Picture;
use crate::{
    graph::{Conv, Graph, Value},
    linear::Linear,
};
use stage1_core::model::{ConvNextSpec, LayerRole, Role, StageRole, Weights};

/// The last stage's map, not normed: [N, H, W, D].
pub(super) fn map(
    graph: &mut Graph,
    spec: &ConvNextSpec,
    weights: &Weights,
    picture: &Picture,
) -> Value {
    let network = ConvNext { spec, weights };
    let mut x = network.stem(graph, picture);
    for stage in 0..spec.widths.len() {
        if stage > 0 {
            x = network.step(graph, stage, &x);
        }
        for layer in 0..spec.depths[stage] {
            x = network.layer(graph, stage, layer, &x);
        }
    }
    x
}

struct ConvNext<'a> {
    spec: &'a ConvNextSpec,
    weights: &'a Weights,
}

impl ConvNext<'_> {
    /// A picture [N, 3, H, W] to [N, H / 4, W / 4, C], normed.
    fn stem(&self, graph: &mut Graph, picture: &Picture) -> Value {
        let conv = picture.conv(graph, "stages.0.down", &self.down(0));
        let last = graph.transpose("stages.0.down.last", &conv, &TO_CHANNELS_LAST);
        self.norm_of(graph, "stages.0.norm", 0, &last)
    }

    /// [N, H, W, B] to [N, H / 2, W / 2, C].
    fn step(&self, graph: &mut Graph, stage: usize, x: &Value) -> Value {
        let name = |part: &str| format!("stages.{stage}.{part}");
        let normed = self.norm_of(graph, &name("norm"), stage, x);
        let first = graph.transpose(&name("norm.first"), &normed, &TO_CHANNELS_FIRST);
        let conv = graph.conv(&name("down"), &first, &self.down(stage));
        graph.transpose(&name("down.last"), &conv, &TO_CHANNELS_LAST)
    }

    fn norm_of(&self, graph: &mut Graph, name: &str, stage: usize, x: &Value) -> Value {
        let role = |part| Role::Stage(stage, part);
        let (weight, bias) = (role(StageRole::NormWeight), role(StageRole::NormBias));
        let (weight, bias) = (self.weights.get(weight), self.weights.get(bias));
        graph.layer_norm(name, x, weight, bias, self.spec.norm_eps)
    }

    fn down(&self, stage: usize) -> Conv<'_> {
        let side = ConvNextSpec::step_side(stage);
        Conv {
            weight: self.weights.get(Role::Stage(stage, StageRole::ConvWeight)),
            bias: self.weights.get(Role::Stage(stage, StageRole::ConvBias)),
            side,
            stride: side,
            padding: 0,
            groups: 1,
        }
    }

    /// [N, H, W, C] to the same shape.
    fn layer(&self, graph: &mut Graph, stage: usize, layer: usize, x: &Value) -> Value {
        use LayerRole as R;
        let name = |part: &str| format!("stages.{stage}.layers.{layer}.{part}");
        let role = |part| Role::Layer(stage, layer, part);
        let weight = |part| self.weights.get(role(part));
        let conv = Conv {
            weight: weight(R::ConvWeight),
            bias: weight(R::ConvBias),
            side: ConvNextSpec::KERNEL,
            stride: 1,
            padding: ConvNextSpec::KERNEL / 2,
            groups: self.spec.widths[stage],
        };
        let first = graph.transpose(&name("first"), x, &TO_CHANNELS_FIRST);
        let mixed = graph.conv(&name("conv"), &first, &conv);
        let last = graph.transpose(&name("conv.last"), &mixed, &TO_CHANNELS_LAST);
        let (scale, shift) = (weight(R::NormWeight), weight(R::NormBias));
        let normed = graph.layer_norm(&name("norm"), &last, scale, shift, self.spec.norm_eps);
        let linear = |weight, bias| Linear::of(self.weights, role(weight), role(bias));
        let up = graph.linear(&name("up"), &normed, &linear(R::UpWeight, R::UpBias));
        let inner = graph.gelu(&name("gelu"), &up);
        let down = linear(R::DownWeight, R::DownBias).scaled(weight(R::Scale));
        let fed = graph.linear(&name("down"), &inner, &down);
        graph.add(&format!("stages.{stage}.layers.{layer}"), x, &fed)
    }
}

/// What is folded, for people.
pub(super) const FOLDED: [&str; 1] = ["LayerScale into the layer before it"];

const TO_CHANNELS_LAST: [i64; 4] = [0, 2, 3, 1];
const TO_CHANNELS_FIRST: [i64; 4] = [0, 3, 1, 2];
