//! Rotary positions on the queries and keys of patch tokens.

use stage1_core::model::VitSpec;
use tch::{Device, Tensor};

/// Cosines and sines for one grid of patches.
pub(super) struct Rotary {
    /// Tokens in front that have no position.
    prefix: i64,
    /// `[HW, head width]`.
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// From the `[HW, head width]` tables of cosines and sines.
    pub(super) fn new(spec: &VitSpec, (cos, sin): &(Vec<f32>, Vec<f32>), device: Device) -> Self {
        let width = spec.head_dim() as i64;
        let table = |values: &[f32]| {
            Tensor::from_slice(values)
                .reshape([-1, width])
                .to_device(device)
        };
        Self {
            prefix: spec.prefix_tokens() as i64,
            cos: table(cos),
            sin: table(sin),
        }
    }

    /// Turns the patch tokens of `x` `[B, heads, T, head width]`; class token and registers pass through.
    pub(super) fn turn(&self, x: &Tensor) -> Tensor {
        let prefix = x.slice(2, 0, self.prefix, 1);
        let patches = x.slice(2, self.prefix, None, 1);
        let halves = patches.chunk(2, -1);
        let quarter_turn = Tensor::cat(&[halves[1].neg(), halves[0].shallow_clone()], -1);
        let turned = &patches * &self.cos + quarter_turn * &self.sin;
        Tensor::cat(&[prefix, turned], 2)
    }
}
