//! DINOv2 (with and without registers) and DINOv3 vision transformers, built from the one table of tensors in
//! [`stage1_core::model`].

mod block;
mod layers;
mod places;
mod rotary;

pub use places::Places;

use block::Block;
use layers::{LayerNorm, Tensors};
use stage1_core::model::{BackboneSpec, Features, Role, Weights};
use tch::{Device, Kind, Tensor};

/// A backbone in libtorch, in float32, in evaluation mode: no dropout, no drawn rescaling of positions.
pub struct Backbone {
    spec: BackboneSpec,
    device: Device,
    class_token: Tensor,
    registers: Option<Tensor>,
    patch_weight: Tensor,
    patch_bias: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Backbone {
    /// Copies `weights` to `device`.
    pub fn new(spec: &BackboneSpec, weights: &Weights, device: Device) -> Self {
        let tensors = Tensors::new(weights, device);
        Self {
            class_token: tensors.get(Role::ClsToken),
            registers: tensors.find(Role::RegisterTokens),
            patch_weight: tensors.get(Role::PatchWeight),
            patch_bias: tensors.get(Role::PatchBias),
            blocks: (0..spec.layers)
                .map(|i| Block::new(spec, &tensors, i))
                .collect(),
            norm: LayerNorm {
                weight: tensors.get(Role::NormWeight),
                bias: tensors.get(Role::NormBias),
                epsilon: spec.norm_eps,
            },
            device,
            spec: spec.clone(),
        }
    }

    /// The architecture.
    pub fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// All tokens after the final norm, `[B, 1 + registers + HW, D]`, of `pixel_values` `[B, 3, H, W]` of the size of
    /// `places`.
    pub fn tokens(&self, pixel_values: &Tensor, places: &Places) -> Tensor {
        let mut tokens = self.embed(pixel_values, places);
        for block in &self.blocks {
            tokens = block.forward(&tokens, places.rotary());
        }
        self.norm.forward(&tokens)
    }

    /// The class token and the mean of the patch tokens, `[B, D]` each, both after the final norm.
    pub fn features(&self, pixel_values: &Tensor, places: &Places) -> PooledFeatures {
        let tokens = self.tokens(pixel_values, places);
        let first_patch = self.spec.prefix_tokens() as i64;
        PooledFeatures {
            class: tokens.select(1, 0),
            patch_mean: tokens
                .slice(1, first_patch, None, 1)
                .mean_dim(1, false, Kind::Float),
        }
    }

    /// Tokens before the first block.
    fn embed(&self, pixel_values: &Tensor, places: &Places) -> Tensor {
        let batch = pixel_values.size()[0];
        let stride = self.spec.patch as i64;
        let patches =
            pixel_values.conv2d(&self.patch_weight, Some(&self.patch_bias), stride, 0, 1, 1);
        let patches = patches.flatten(2, 3).transpose(1, 2);
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

/// What a head reads, `[B, D]` each.
pub struct PooledFeatures {
    /// The class token.
    pub class: Tensor,
    /// The mean of the patch tokens; registers are left out.
    pub patch_mean: Tensor,
}

impl PooledFeatures {
    /// `[B, F]`.
    pub fn select(&self, features: Features) -> Tensor {
        match features {
            Features::Cls => self.class.shallow_clone(),
            Features::ClsMeanPatch => Tensor::cat(&[&self.class, &self.patch_mean], 1),
        }
    }
}
