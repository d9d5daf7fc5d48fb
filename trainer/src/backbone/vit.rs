use super::{
    block::Block,
    change::Pass,
    layers::{LayerNorm, Tensors},
    places::Places,
};
use stage1_core::model::{Role, VitSpec};
use tch::Tensor;

/// DINOv2 (with and without registers) and DINOv3.
pub struct Vit {
    patch: i64,
    class_token: Tensor,
    registers: Option<Tensor>,
    patch_weight: Tensor,
    patch_bias: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

/// Patches that a forward pass doesn't see.
#[derive(Clone, Copy)]
pub struct Masked<'a> {
    /// `[B, HW]`, true where hidden.
    pub patches: &'a Tensor,
    /// What is in their place, `[D]`.
    pub token: &'a Tensor,
}

impl Vit {
    pub(super) fn new(spec: &VitSpec, tensors: &Tensors<'_>) -> Self {
        Self {
            patch: spec.patch as i64,
            class_token: tensors.get(Role::ClsToken),
            registers: tensors.find(Role::RegisterTokens),
            patch_weight: tensors.get(Role::PatchWeight),
            patch_bias: tensors.get(Role::PatchBias),
            blocks: (0..spec.layers)
                .map(|i| Block::new(spec, tensors, i))
                .collect(),
            norm: tensors.norm(Role::NormWeight, Role::NormBias, spec.norm_eps),
        }
    }

    /// `[B, 3, H, W]` to all tokens after the final norm, `[B, 1 + registers + HW, D]`.
    pub(super) fn tokens(&self, pixel_values: &Tensor, places: &Places) -> Tensor {
        let mut tokens = self.embed(pixel_values, places);
        for block in 0..self.blocks.len() {
            tokens = self.block(block, &tokens, places, Pass::PLAIN);
        }
        self.finish(&tokens)
    }

    /// Tokens after the final norm, had the transformer only so many blocks, for each number of `depths` (ascending).
    pub(super) fn tokens_at(
        &self,
        pixel_values: &Tensor,
        places: &Places,
        depths: &[usize],
    ) -> Vec<Tensor> {
        let mut tokens = self.embed(pixel_values, places);
        let mut found = Vec::with_capacity(depths.len());
        for block in 0..depths.last().copied().unwrap_or(0) {
            tokens = self.block(block, &tokens, places, Pass::PLAIN);
            if depths.contains(&(block + 1)) {
                found.push(self.finish(&tokens));
            }
        }
        found
    }

    /// The number of blocks.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// Tokens after one block, `[B, T, D]`, of those before it.
    pub fn block(&self, index: usize, tokens: &Tensor, places: &Places, pass: Pass<'_>) -> Tensor {
        self.blocks[index].forward(tokens, places.rotary(), pass)
    }

    /// Tokens after the final norm, of those after the last block.
    pub fn finish(&self, tokens: &Tensor) -> Tensor {
        self.norm.forward(tokens)
    }

    /// Makes copies of the blocks' linear layers in bfloat16, for passes in it.
    pub fn keep_half(&mut self) {
        self.blocks.iter_mut().for_each(Block::keep_half);
    }

    /// Tokens before the first block, `[B, T, D]`, of `pixel_values` `[B, 3, H, W]`.
    pub fn embed(&self, pixel_values: &Tensor, places: &Places) -> Tensor {
        self.embed_masked(pixel_values, places, None)
    }

    /// The same with some patches hidden: in their place is one token, before positions are added, as DINOv2 does it.
    pub fn embed_masked(
        &self,
        pixel_values: &Tensor,
        places: &Places,
        masked: Option<Masked<'_>>,
    ) -> Tensor {
        let batch = pixel_values.size()[0];
        let (weight, bias) = (&self.patch_weight, Some(&self.patch_bias));
        let patches = pixel_values.conv2d(weight, bias, self.patch, 0, 1, 1);
        let mut patches = patches.flatten(2, 3).transpose(1, 2);
        if let Some(Masked {
            patches: hidden,
            token,
        }) = masked
        {
            patches = token.where_self(&hidden.unsqueeze(-1), &patches);
        }
        let class = self.class_token.expand([batch, 1, -1], false);
        let registers = self.registers.as_ref();
        let registers = registers.map(|r| r.expand([batch, -1, -1], false));
        // Registers have no place: DINOv2 adds positions before it puts them in.
        let (class, patches) = places.add(class, patches);
        let parts: Vec<_> = [Some(class), registers, Some(patches)]
            .into_iter()
            .flatten()
            .collect();
        Tensor::cat(&parts, 1)
    }
}
