//! What tells a patch where it is, for images of one size.

use super::rotary::Rotary;
use stage1_core::model::{self, BackboneSpec, Positions, VitSpec, Weights};
use tch::{Device, Tensor};

/// The positions of all patches of images of one size.
pub struct Places(Kind);

enum Kind {
    /// `[1, 1 + HW, D]`, added to class and patch tokens.
    Learned(Tensor),
    /// Turns queries and keys of patch tokens in every block.
    Rotary(Rotary),
    /// Convolutions see their neighbours, and need nothing else.
    Implicit,
}

impl Places {
    /// For images of `height` x `width` pixels.
    ///
    /// # Errors
    /// [`model::ModelError::ImageSize`] unless they are whole numbers of patches.
    pub fn new(
        weights: &Weights,
        (height, width): (usize, usize),
        device: Device,
    ) -> model::Result<Self> {
        let grid = weights.spec().grid(height, width)?;
        Ok(Self(match weights.spec() {
            BackboneSpec::Vit(vit) => Kind::of(vit, weights, grid, device),
            BackboneSpec::ConvNext(_) => Kind::Implicit,
        }))
    }

    /// Class token `[B, 1, D]` and patches `[B, HW, D]` with learned positions added.
    pub(super) fn add(&self, class: Tensor, patches: Tensor) -> (Tensor, Tensor) {
        match &self.0 {
            Kind::Learned(table) => (
                class + table.slice(1, 0, 1, 1),
                patches + table.slice(1, 1, None, 1),
            ),
            Kind::Rotary(_) | Kind::Implicit => (class, patches),
        }
    }

    pub(super) fn rotary(&self) -> Option<&Rotary> {
        match &self.0 {
            Kind::Learned(_) | Kind::Implicit => None,
            Kind::Rotary(rotary) => Some(rotary),
        }
    }
}

impl Kind {
    fn of(
        spec: &VitSpec,
        weights: &Weights,
        (rows, columns): (usize, usize),
        device: Device,
    ) -> Self {
        match spec.positions {
            Positions::Rope { .. } => {
                let tables = model::rope_tables(spec, rows, columns);
                Self::Rotary(Rotary::new(spec, &tables, device))
            }
            Positions::Learned { .. } => {
                let table = model::position_embeddings(spec, weights, rows, columns);
                let table = Tensor::from_slice(&table).reshape([1, -1, spec.hidden as i64]);
                Self::Learned(table.to_device(device))
            }
        }
    }
}
