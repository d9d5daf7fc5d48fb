//! From tokens to their cosines with prototypes: DINO's projection head.

use super::loss::normalised;
use crate::random::Draw;
use stage1_core::config::ProjectionConfig;
use tch::{Device, Kind, Tensor};

/// Standard deviation of the first weights.
const STD: f64 = 0.02;
/// Keeps lengths from 0.
const EPSILON: f64 = 1e-12;

/// The shapes of a head's tensors, in the order of the flat buffer: three linear layers, then the prototypes.
pub(crate) fn shapes(config: &ProjectionConfig, width: usize) -> [Vec<i64>; 7] {
    let size = |n: usize| n as i64;
    let (width, hidden) = (size(width), size(config.hidden));
    let (bottleneck, prototypes) = (size(config.bottleneck), size(config.prototypes));
    [
        vec![hidden, width],
        vec![hidden],
        vec![hidden, hidden],
        vec![hidden],
        vec![bottleneck, hidden],
        vec![bottleneck],
        vec![prototypes, bottleneck],
    ]
}

/// The first values of the head with this number, as DINOv2 draws them: a function of `seed`.
pub(crate) fn initial(shapes: &[Vec<i64>; 7], seed: u64, number: usize) -> Vec<Tensor> {
    Draw::Projection { head: number }.seed_libtorch(seed);
    let draw = |(at, shape): (usize, &Vec<i64>)| {
        let flat = Tensor::zeros([shape.iter().product::<i64>()], (Kind::Float, Device::Cpu));
        match (at, &shape[..]) {
            // PyTorch's default for a linear layer; its lengths don't matter.
            (6, [_, inputs]) => {
                let bound = 1.0 / (*inputs as f64).sqrt();
                flat.uniform(-bound, bound)
            }
            (_, [_, _]) => flat.normal_functional(0.0, STD),
            _ => flat,
        }
    };
    shapes.iter().enumerate().map(draw).collect()
}

/// A head, as views of a flat buffer.
pub(crate) struct Projection(pub(crate) Vec<Tensor>);

impl Projection {
    /// The cosines `[n, K]` of tokens `[n, D]` with the prototypes, whose lengths are fixed at 1.
    pub(crate) fn cosines(&self, tokens: &Tensor) -> Tensor {
        let layer = |x: &Tensor, at: usize| x.linear(&self.0[at], Some(&self.0[at + 1]));
        let inner = layer(tokens, 0).gelu("none");
        let inner = layer(&inner, 2).gelu("none");
        let direction = normalised(&layer(&inner, 4), EPSILON);
        direction.linear(&normalised(&self.0[6], EPSILON), None::<Tensor>)
    }
}
