//! The ConvNeXt networks of DINOv3: a pyramid of convolutional stages.

use super::{
    TensorSpec,
    role::{LayerRole, Role, StageRole, Table},
};
use serde::{Deserialize, Serialize};

/// The numbers that determine a ConvNeXt's forward pass.
///
/// A stage halves height and width (the first quarters them), then adds `depths[i]` residual layers of width
/// `widths[i]`. The class token is the mean over the last stage's places, which are the patch tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvNextSpec {
    /// Layers per stage.
    pub depths: Vec<usize>,
    /// Channels per stage; as many as `depths`.
    pub widths: Vec<usize>,
    /// Epsilon of every layer norm.
    pub norm_eps: f64,
}

impl ConvNextSpec {
    /// The `model_type` in `config.json`.
    pub const MODEL_TYPE: &'static str = "dinov3_convnext";
    /// Side of the first stage's convolution, and its stride.
    pub const STEM: usize = 4;
    /// The same of the other stages.
    pub const STEP: usize = 2;
    /// Side of a layer's convolution.
    pub const KERNEL: usize = 7;
    /// How much wider a layer is inside.
    const EXPANSION: usize = 4;

    /// Width D of a token: that of the last stage.
    pub fn hidden(&self) -> usize {
        *self.widths.last().expect("there is a stage")
    }

    /// Side of the square of pixels that one patch token stands for: 32 with four stages.
    pub fn stride(&self) -> usize {
        Self::STEM * Self::STEP.pow(self.widths.len() as u32 - 1)
    }

    /// Every tensor that the forward pass needs, in the order of use.
    pub(super) fn tensors(&self) -> Vec<TensorSpec> {
        let stages = (0..self.widths.len()).flat_map(|stage| {
            let layers = (0..self.depths[stage]).flat_map(move |layer| self.layer(stage, layer));
            self.step(stage).into_iter().chain(layers)
        });
        stages.chain(self.final_norm()).collect()
    }

    fn step(&self, stage: usize) -> Vec<TensorSpec> {
        use StageRole as R;
        let (width, side) = (self.widths[stage], Self::step_side(stage));
        let (from, normed) = match stage {
            0 => (3, width),
            _ => (self.widths[stage - 1], self.widths[stage - 1]),
        };
        let prefix = format!("stages.{stage}.downsample_layers");
        let mut table = Table::new(prefix, |role| Role::Stage(stage, role));
        let kernel = [width, from, side, side];
        let (conv, norm) = match stage {
            0 => ("0", "1"),
            _ => ("1", "0"),
        };
        table.layer(conv, (R::ConvWeight, &kernel), Some(R::ConvBias));
        table.layer(norm, (R::NormWeight, &[normed]), Some(R::NormBias));
        table.rows()
    }

    /// Side and stride of the convolution into a stage.
    pub fn step_side(stage: usize) -> usize {
        match stage {
            0 => Self::STEM,
            _ => Self::STEP,
        }
    }

    fn layer(&self, stage: usize, layer: usize) -> Vec<TensorSpec> {
        use LayerRole as R;
        let (c, k) = (self.widths[stage], Self::KERNEL);
        let inner = Self::EXPANSION * c;
        let prefix = format!("stages.{stage}.layers.{layer}");
        let mut table = Table::new(prefix, |role| Role::Layer(stage, layer, role));
        let filters = [c, 1, k, k];
        table.layer(
            "depthwise_conv",
            (R::ConvWeight, &filters),
            Some(R::ConvBias),
        );
        table.layer("layer_norm", (R::NormWeight, &[c]), Some(R::NormBias));
        let (up, down) = ((R::UpWeight, [inner, c]), (R::DownWeight, [c, inner]));
        table.layer("pointwise_conv1", (up.0, &up.1), Some(R::UpBias));
        table.layer("pointwise_conv2", (down.0, &down.1), Some(R::DownBias));
        table.push(R::Scale, "gamma", &[c]);
        table.rows()
    }

    fn final_norm(&self) -> [TensorSpec; 2] {
        let shape = [self.hidden()];
        [
            TensorSpec::new(Role::NormWeight, "layer_norm.weight", &shape),
            TensorSpec::new(Role::NormBias, "layer_norm.bias", &shape),
        ]
    }
}
