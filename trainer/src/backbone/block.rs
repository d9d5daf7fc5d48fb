//! A pre-norm transformer block with LayerScale on both branches.

use super::{
    layers::{LayerNorm, Linear, Tensors},
    rotary::Rotary,
};
use stage1_core::model::{BlockRole, Role, VitSpec};
use tch::Tensor;

pub(super) struct Block {
    norm1: LayerNorm,
    attention: Attention,
    scale1: Tensor,
    norm2: LayerNorm,
    ffn: FeedForward,
    scale2: Tensor,
}

impl Block {
    pub(super) fn new(spec: &VitSpec, tensors: &Tensors<'_>, index: usize) -> Self {
        let role = |part| Role::Block(index, part);
        let norm = |weight, bias| tensors.norm(role(weight), role(bias), spec.norm_eps);
        Self {
            norm1: norm(BlockRole::Norm1Weight, BlockRole::Norm1Bias),
            attention: Attention::new(spec, tensors, index),
            scale1: tensors.get(role(BlockRole::Scale1)),
            norm2: norm(BlockRole::Norm2Weight, BlockRole::Norm2Bias),
            ffn: FeedForward::new(tensors, index),
            scale2: tensors.get(role(BlockRole::Scale2)),
        }
    }

    /// `[B, T, D]` → `[B, T, D]`.
    pub(super) fn forward(&self, x: &Tensor, rotary: Option<&Rotary>) -> Tensor {
        let x = x.addcmul(
            &self.attention.forward(&self.norm1.forward(x), rotary),
            &self.scale1,
        );
        x.addcmul(&self.ffn.forward(&self.norm2.forward(&x)), &self.scale2)
    }
}

struct Attention {
    heads: i64,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

impl Attention {
    fn new(spec: &VitSpec, tensors: &Tensors<'_>, index: usize) -> Self {
        use BlockRole as R;
        let linear =
            |weight, bias| tensors.linear(Role::Block(index, weight), Role::Block(index, bias));
        Self {
            heads: spec.heads as i64,
            query: linear(R::QWeight, R::QBias),
            key: linear(R::KWeight, R::KBias),
            value: linear(R::VWeight, R::VBias),
            output: linear(R::ProjWeight, R::ProjBias),
        }
    }

    fn forward(&self, x: &Tensor, rotary: Option<&Rotary>) -> Tensor {
        let (batch, tokens, width) = x.size3().expect("[B, T, D]");
        let split = |linear: &Linear| {
            linear
                .forward(x)
                .view([batch, tokens, self.heads, -1])
                .transpose(1, 2)
        };
        let (mut query, mut key, value) =
            (split(&self.query), split(&self.key), split(&self.value));
        if let Some(rotary) = rotary {
            query = rotary.turn(&query);
            key = rotary.turn(&key);
        }
        let mixed = Tensor::scaled_dot_product_attention(
            &query,
            &key,
            &value,
            None::<Tensor>,
            0.0,
            false,
            None,
            false,
        );
        self.output
            .forward(&mixed.transpose(1, 2).reshape([batch, tokens, width]))
    }
}

enum FeedForward {
    /// `down(gelu(up(x)))`.
    Mlp { up: Linear, down: Linear },
    /// `down(silu(gate(x)) · up(x))`.
    SwiGlu {
        gate: Linear,
        up: Linear,
        down: Linear,
    },
    /// The same, with gate and up in one layer, gate first.
    PackedSwiGlu { gate_and_up: Linear, down: Linear },
}

impl FeedForward {
    fn new(tensors: &Tensors<'_>, index: usize) -> Self {
        use BlockRole as R;
        let linear =
            |weight, bias| tensors.linear(Role::Block(index, weight), Role::Block(index, bias));
        let has = |part| tensors.has(Role::Block(index, part));
        let down = linear(R::DownWeight, R::DownBias);
        if has(R::GateUpWeight) {
            let gate_and_up = linear(R::GateUpWeight, R::GateUpBias);
            return Self::PackedSwiGlu { gate_and_up, down };
        }
        let up = linear(R::UpWeight, R::UpBias);
        if has(R::GateWeight) {
            let gate = linear(R::GateWeight, R::GateBias);
            return Self::SwiGlu { gate, up, down };
        }
        Self::Mlp { up, down }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Self::Mlp { up, down } => down.forward(&up.forward(x).gelu("none")),
            Self::SwiGlu { gate, up, down } => {
                down.forward(&(gate.forward(x).silu() * up.forward(x)))
            }
            Self::PackedSwiGlu { gate_and_up, down } => {
                let halves = gate_and_up.forward(x).chunk(2, -1);
                down.forward(&(halves[0].silu() * &halves[1]))
            }
        }
    }
}
