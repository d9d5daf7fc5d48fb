//! DINOv2 (with and without registers) and DINOv3 vision transformers, built from the one table of tensors in
//! [`stage1_core::model`].

mod block;
mod layers;
mod rotary;

use block::Block;
use layers::{LayerNorm, Tensors};
use rotary::Rotary;
use stage1_core::model::{self, BackboneSpec, Features, Positions, Role, Weights};
use std::cell::RefCell;
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
    positions: PositionCache,
}

/// What tells a patch where it is.
enum PositionTable {
    /// `[1, 1 + HW, D]`, added to class and patch tokens.
    Learned(Tensor),
    /// Turns queries and keys of patch tokens.
    Rope(Rotary),
}

/// The positions of the last grid seen: images of one size are the rule.
struct PositionCache {
    learned: Option<Weights>,
    last: RefCell<Option<((usize, usize), std::rc::Rc<PositionTable>)>>,
}

impl Backbone {
    /// Copies `weights` to `device`.
    pub fn new(spec: BackboneSpec, weights: Weights, device: Device) -> Self {
        let tensors = Tensors::new(&weights, device);
        let blocks = (0..spec.layers)
            .map(|i| Block::new(&spec, &tensors, i))
            .collect();
        Self {
            class_token: tensors.get(Role::ClsToken),
            registers: tensors.find(Role::RegisterTokens),
            patch_weight: tensors.get(Role::PatchWeight),
            patch_bias: tensors.get(Role::PatchBias),
            norm: LayerNorm {
                weight: tensors.get(Role::NormWeight),
                bias: tensors.get(Role::NormBias),
                epsilon: spec.norm_eps,
            },
            positions: PositionCache {
                learned: matches!(spec.positions, Positions::Learned { .. }).then_some(weights),
                last: RefCell::new(None),
            },
            blocks,
            device,
            spec,
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

    /// All tokens after the final norm, `[B, 1 + registers + HW, D]`, of `pixel_values` `[B, 3, H, W]`.
    ///
    /// # Errors
    /// [`model::ModelError::ImageSize`] unless the image is a whole number of patches.
    pub fn tokens(&self, pixel_values: &Tensor) -> model::Result<Tensor> {
        let (_, _, height, width) = pixel_values.size4().expect("[B, 3, H, W]");
        let grid = self.spec.grid(height as usize, width as usize)?;
        let positions = self.positions(grid);
        let mut tokens = self.embed(pixel_values, &positions);
        let rotary = match &*positions {
            PositionTable::Rope(rotary) => Some(rotary),
            PositionTable::Learned(_) => None,
        };
        for block in &self.blocks {
            tokens = block.forward(&tokens, rotary);
        }
        Ok(self.norm.forward(&tokens))
    }

    /// The class token and the mean of the patch tokens, `[B, D]` each, both after the final norm.
    ///
    /// # Errors
    /// As [`Backbone::tokens`].
    pub fn features(&self, pixel_values: &Tensor) -> model::Result<PooledFeatures> {
        let tokens = self.tokens(pixel_values)?;
        let first_patch = self.spec.prefix_tokens() as i64;
        let patches = tokens.slice(1, first_patch, None, 1);
        Ok(PooledFeatures {
            class: tokens.select(1, 0),
            patch_mean: patches.mean_dim(1, false, Kind::Float),
        })
    }

    /// Tokens before the first block.
    fn embed(&self, pixel_values: &Tensor, positions: &PositionTable) -> Tensor {
        let batch = pixel_values.size()[0];
        let stride = self.spec.patch as i64;
        let (weight, bias) = (&self.patch_weight, Some(&self.patch_bias));
        let patches = pixel_values
            .conv2d(weight, bias, stride, 0, 1, 1)
            .flatten(2, 3)
            .transpose(1, 2);
        let class = self.class_token.expand([batch, 1, -1], false);
        let registers = self
            .registers
            .as_ref()
            .map(|r| r.expand([batch, -1, -1], false));
        let (class, patches) = match positions {
            // DINOv2 adds positions before it puts the registers in: registers have none.
            PositionTable::Learned(table) => (
                class + table.slice(1, 0, 1, 1),
                patches + table.slice(1, 1, None, 1),
            ),
            PositionTable::Rope(_) => (class, patches),
        };
        let parts: Vec<_> = [Some(class), registers, Some(patches)]
            .into_iter()
            .flatten()
            .collect();
        Tensor::cat(&parts, 1)
    }

    fn positions(&self, grid: (usize, usize)) -> std::rc::Rc<PositionTable> {
        let mut last = self.positions.last.borrow_mut();
        match &*last {
            Some((known, table)) if *known == grid => table.clone(),
            _ => {
                let table = std::rc::Rc::new(self.position_table(grid));
                *last = Some((grid, table.clone()));
                table
            }
        }
    }

    fn position_table(&self, (height, width): (usize, usize)) -> PositionTable {
        let Some(weights) = &self.positions.learned else {
            let tables = model::rope_tables(&self.spec, height, width);
            return PositionTable::Rope(Rotary::new(&self.spec, &tables, self.device));
        };
        let table = model::position_embeddings(&self.spec, weights, height, width);
        let shape = [1, (1 + height * width) as i64, self.spec.hidden as i64];
        PositionTable::Learned(
            Tensor::from_slice(&table)
                .reshape(shape)
                .to_device(self.device),
        )
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
