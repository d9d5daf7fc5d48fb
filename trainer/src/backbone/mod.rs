//! DINOv2 (with and without registers), DINOv3 vision transformers and ConvNeXt, built from the one table of tensors in
//! [`stage1_core::model`].

mod block;
mod change;
mod convnext;
mod layers;
mod places;
mod rotary;
mod vit;

pub use change::{BlockChanges, Change, Pass};
pub use places::Places;
pub use vit::{Masked, Vit};

use convnext::ConvNext;
use layers::Tensors;
use stage1_core::model::{BackboneSpec, Features, HeadSpec, Role, Weights};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// A backbone in libtorch, in float32, in evaluation mode: no dropout, no drawn rescaling of positions.
pub struct Backbone {
    spec: BackboneSpec,
    device: Device,
    network: Network,
}

enum Network {
    Vit(Vit),
    ConvNext(ConvNext),
}

impl Backbone {
    /// Copies `weights` to `device`.
    pub fn new(weights: &Weights, device: Device) -> Self {
        Self::build(weights.spec(), &Tensors::Read(weights, device), device)
    }

    /// Of tensors that are there already, none copied: [`Backbone::tensors_of`], or some of them replaced by others of the
    /// same shape, which may have a graph.
    ///
    /// # Panics
    /// When one is missing.
    pub fn of(spec: &BackboneSpec, tensors: &BTreeMap<Role, Tensor>) -> Self {
        let device = tensors.values().next().map_or(Device::Cpu, Tensor::device);
        Self::build(spec, &Tensors::Held(tensors), device)
    }

    /// Copies of all `weights` on `device`, by their roles.
    pub fn tensors_of(weights: &Weights, device: Device) -> BTreeMap<Role, Tensor> {
        let read = Tensors::Read(weights, device);
        let roles = weights.spec().tensors().into_iter().map(|t| t.role);
        roles.map(|role| (role, read.get(role))).collect()
    }

    fn build(spec: &BackboneSpec, tensors: &Tensors<'_>, device: Device) -> Self {
        let spec = spec.clone();
        let network = match &spec {
            BackboneSpec::Vit(vit) => Network::Vit(Vit::new(vit, tensors)),
            BackboneSpec::ConvNext(convnext) => Network::ConvNext(ConvNext::new(convnext, tensors)),
        };
        Self {
            spec,
            device,
            network,
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

    /// All tokens after the final norm, `[B, prefix + HW, D]`, of `pixel_values` `[B, 3, H, W]` of the size of `places`.
    pub fn tokens(&self, pixel_values: &Tensor, places: &Places) -> Tensor {
        match &self.network {
            Network::Vit(vit) => vit.tokens(pixel_values, places),
            Network::ConvNext(convnext) => convnext.tokens(pixel_values),
        }
    }

    /// The transformer, block by block; none for a ConvNeXt.
    pub fn vit(&self) -> Option<&Vit> {
        match &self.network {
            Network::Vit(vit) => Some(vit),
            Network::ConvNext(_) => None,
        }
    }

    /// As [`Backbone::vit`].
    pub fn vit_mut(&mut self) -> Option<&mut Vit> {
        match &mut self.network {
            Network::Vit(vit) => Some(vit),
            Network::ConvNext(_) => None,
        }
    }

    /// The class token and the mean of the patch tokens, `[B, D]` each, both after the final norm.
    pub fn features(&self, pixel_values: &Tensor, places: &Places) -> PooledFeatures {
        self.pool(&self.tokens(pixel_values, places))
    }

    /// As [`Backbone::features`] of the backbones that end after each of these numbers of blocks (ascending, from 1), in one
    /// pass: blocks above the last of them aren't run. Of a backbone without blocks, those of the whole.
    pub fn features_at(
        &self,
        pixel_values: &Tensor,
        places: &Places,
        depths: &[usize],
    ) -> Vec<PooledFeatures> {
        match &self.network {
            Network::Vit(vit) => {
                let tokens = vit.tokens_at(pixel_values, places, depths);
                tokens.iter().map(|tokens| self.pool(tokens)).collect()
            }
            Network::ConvNext(_) => {
                let one = || self.features(pixel_values, places);
                depths.iter().map(|_| one()).collect()
            }
        }
    }

    /// What a head reads, `[B, F]`: features of each of its blocks, from the shallowest on.
    pub fn read(&self, pixel_values: &Tensor, places: &Places, head: &HeadSpec) -> Tensor {
        let depths = head.blocks.of(self.depth());
        let blocks = self.features_at(pixel_values, places, &depths);
        let blocks: Vec<_> = blocks.iter().map(|b| b.select(head.features)).collect();
        Tensor::cat(&blocks, 1)
    }

    /// The number of blocks, in the sense of [`Backbone::features_at`].
    pub fn depth(&self) -> usize {
        self.vit().map_or(1, Vit::depth)
    }

    /// The same, of tokens after the final norm.
    pub fn pool(&self, tokens: &Tensor) -> PooledFeatures {
        let first_patch = self.spec.prefix_tokens() as i64;
        PooledFeatures {
            class: tokens.select(1, 0),
            patch_mean: tokens
                .slice(1, first_patch, None, 1)
                .mean_dim(1, false, Kind::Float),
        }
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
