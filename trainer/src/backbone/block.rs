//! A pre-norm transformer block with LayerScale on both branches.

use super::{
    change::{Pass, single},
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

    /// `[B, T, D]` → `[B, T, D]`, in float32 whatever the inside computes in.
    pub(super) fn forward(&self, x: &Tensor, rotary: Option<&Rotary>, pass: Pass<'_>) -> Tensor {
        let mixed = self.attention.forward(&self.norm1.forward(x), rotary, pass);
        let x = x.addcmul(&single(&mixed), &self.scale1);
        let inner = self.ffn.forward(&self.norm2.forward(&x), pass);
        x.addcmul(&single(&inner), &self.scale2)
    }

    /// Makes copies of the linear layers in bfloat16.
    pub(super) fn keep_half(&mut self) {
        let attention = &mut self.attention;
        let layers = [
            &mut attention.query,
            &mut attention.key,
            &mut attention.value,
            &mut attention.output,
        ];
        layers.into_iter().for_each(Linear::keep_half);
        self.ffn.layers().into_iter().for_each(Linear::keep_half);
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

    fn forward(&self, x: &Tensor, rotary: Option<&Rotary>, pass: Pass<'_>) -> Tensor {
        use BlockRole as R;
        let (batch, tokens, width) = x.size3().expect("[B, T, D]");
        let split = |linear: &Linear, role| {
            pass.linear(linear, role, x)
                .view([batch, tokens, self.heads, -1])
                .transpose(1, 2)
        };
        let (mut query, mut key, value) = (
            split(&self.query, R::QWeight),
            split(&self.key, R::KWeight),
            split(&self.value, R::VWeight),
        );
        if let Some(rotary) = rotary {
            // In float32, as the positions are, and back.
            query = rotary.turn(&query).to_kind(value.kind());
            key = rotary.turn(&key).to_kind(value.kind());
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
        let mixed = mixed.transpose(1, 2).reshape([batch, tokens, width]);
        pass.linear(&self.output, R::ProjWeight, &mixed)
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

    fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Tensor {
        use BlockRole as R;
        let inner = match self {
            Self::Mlp { up, .. } => pass.linear(up, R::UpWeight, x).gelu("none"),
            Self::SwiGlu { gate, up, .. } => {
                pass.linear(gate, R::GateWeight, x).silu() * pass.linear(up, R::UpWeight, x)
            }
            Self::PackedSwiGlu { gate_and_up, .. } => {
                let halves = pass.linear(gate_and_up, R::GateUpWeight, x).chunk(2, -1);
                halves[0].silu() * &halves[1]
            }
        };
        let (Self::Mlp { down, .. } | Self::SwiGlu { down, .. } | Self::PackedSwiGlu { down, .. }) =
            self;
        pass.linear(down, R::DownWeight, &inner)
    }

    fn layers(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Mlp { up, down } => vec![up, down],
            Self::SwiGlu { gate, up, down } => vec![gate, up, down],
            Self::PackedSwiGlu { gate_and_up, down } => vec![gate_and_up, down],
        }
    }
}
