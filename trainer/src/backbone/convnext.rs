use super::layers::{LayerNorm, Linear, Tensors};
use stage1_core::model::{ConvNextSpec, LayerRole, Role, StageRole};
use tch::Tensor;

/// The ConvNeXt of DINOv3. Maps are `[B, H, W, C]` between convolutions, as norms and linear layers want them.
pub(super) struct ConvNext {
    stages: Vec<Stage>,
    norm: LayerNorm,
}

impl ConvNext {
    pub(super) fn new(spec: &ConvNextSpec, tensors: &Tensors<'_>) -> Self {
        let stages = 0..spec.widths.len();
        Self {
            stages: stages.map(|i| Stage::new(spec, tensors, i)).collect(),
            norm: tensors.norm(Role::NormWeight, Role::NormBias, spec.norm_eps),
        }
    }

    /// `[B, 3, H, W]` to all tokens after the final norm, `[B, 1 + HW, D]`; the class token is the mean of the others
    /// before it.
    pub(super) fn tokens(&self, pixel_values: &Tensor) -> Tensor {
        let mut map = pixel_values.permute([0, 2, 3, 1]);
        for stage in &self.stages {
            map = stage.forward(&map);
        }
        let patches = map.flatten(1, 2);
        let class = patches.mean_dim(1, true, patches.kind());
        self.norm.forward(&Tensor::cat(&[class, patches], 1))
    }
}

/// A step down in resolution, then residual layers.
struct Stage {
    /// The first stage's norm follows its convolution; the others' precede it.
    first: bool,
    norm: LayerNorm,
    conv: Conv,
    layers: Vec<Layer>,
}

impl Stage {
    fn new(spec: &ConvNextSpec, tensors: &Tensors<'_>, index: usize) -> Self {
        let role = |part| Role::Stage(index, part);
        let norm = (role(StageRole::NormWeight), role(StageRole::NormBias));
        Self {
            first: index == 0,
            norm: tensors.norm(norm.0, norm.1, spec.norm_eps),
            conv: Conv {
                weight: tensors.get(role(StageRole::ConvWeight)),
                bias: tensors.get(role(StageRole::ConvBias)),
                stride: ConvNextSpec::step_side(index) as i64,
                padding: 0,
                groups: 1,
            },
            layers: (0..spec.depths[index])
                .map(|layer| Layer::new(spec, tensors, (index, layer)))
                .collect(),
        }
    }

    fn forward(&self, map: &Tensor) -> Tensor {
        let mut map = match self.first {
            true => self.norm.forward(&self.conv.forward(map)),
            false => self.conv.forward(&self.norm.forward(map)),
        };
        for layer in &self.layers {
            map = layer.forward(&map);
        }
        map
    }
}

/// Depthwise convolution, norm, and a wide layer between two linear ones, with LayerScale.
struct Layer {
    conv: Conv,
    norm: LayerNorm,
    up: Linear,
    down: Linear,
    scale: Tensor,
}

impl Layer {
    fn new(spec: &ConvNextSpec, tensors: &Tensors<'_>, (stage, layer): (usize, usize)) -> Self {
        use LayerRole as R;
        let role = |part| Role::Layer(stage, layer, part);
        Self {
            conv: Conv {
                weight: tensors.get(role(R::ConvWeight)),
                bias: tensors.get(role(R::ConvBias)),
                stride: 1,
                padding: (ConvNextSpec::KERNEL / 2) as i64,
                groups: spec.widths[stage] as i64,
            },
            norm: tensors.norm(role(R::NormWeight), role(R::NormBias), spec.norm_eps),
            up: tensors.linear(role(R::UpWeight), role(R::UpBias)),
            down: tensors.linear(role(R::DownWeight), role(R::DownBias)),
            scale: tensors.get(role(R::Scale)),
        }
    }

    fn forward(&self, map: &Tensor) -> Tensor {
        let inner = self.norm.forward(&self.conv.forward(map));
        let inner = self.up.forward(&inner).gelu("none");
        map.addcmul(&self.down.forward(&inner), &self.scale)
    }
}

struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: i64,
    groups: i64,
}

impl Conv {
    /// `[B, H, W, C]` to `[B, H', W', C']`.
    fn forward(&self, map: &Tensor) -> Tensor {
        let (weight, bias) = (&self.weight, Some(&self.bias));
        map.permute([0, 3, 1, 2])
            .conv2d(weight, bias, self.stride, self.padding, 1, self.groups)
            .permute([0, 2, 3, 1])
    }
}
