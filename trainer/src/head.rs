//! The classifier on top of the features: its parameters are views of one flat buffer, so that the optimiser, the
//! clipping and the moving average each are one operation.

use crate::random::Draw;
use stage1_core::{
    artifact::{
        self,
        tensors::{Tensor as StoredTensor, TensorFile},
    },
    model::{Features, GateSpec, HeadKind, HeadSpec, ReadBlocks},
};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor, no_grad};

/// Standard deviation of a linear probe's first weights.
const LINEAR_STD: f64 = 0.01;

/// A head's architecture and where each tensor lies in the flat buffer.
#[derive(Debug, Clone)]
pub struct Head {
    spec: HeadSpec,
    tensors: Vec<(String, Vec<usize>)>,
    dropout: f64,
}

/// Whether dropout draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Dropout draws from libtorch's generator.
    Train,
    /// Nothing is drawn.
    Evaluate,
}

impl Head {
    /// A head for a backbone of width `hidden`.
    pub fn new(spec: HeadSpec, hidden: usize, dropout: f64) -> Self {
        Self {
            tensors: spec.tensors(hidden),
            spec,
            dropout,
        }
    }

    /// The layers of a gate, on a hidden layer of width `trunk`: one logit, larger where the classes are more likely right.
    pub fn of_gate(spec: GateSpec, trunk: usize) -> Self {
        Self {
            tensors: spec.tensors(trunk),
            spec: HeadSpec {
                kind: HeadKind::Mlp {
                    hidden: spec.hidden,
                },
                features: Features::Cls,
                blocks: ReadBlocks::LAST,
                classes: 1,
            },
            dropout: 0.0,
        }
    }

    /// The number of classes K.
    pub fn classes(&self) -> usize {
        self.spec.classes
    }

    /// The first parameters, a flat buffer that is a function of `seed`: small normal weights for a linear probe,
    /// PyTorch's default for the layers of an MLP, biases 0.
    pub fn initialise(&self, seed: u64, device: Device) -> Tensor {
        Draw::Initialise.seed_libtorch(seed);
        let parts: Vec<_> = self
            .tensors
            .iter()
            .map(|(_, shape)| self.initial(shape))
            .collect();
        Tensor::cat(&parts, 0).to_device(device)
    }

    fn initial(&self, shape: &[usize]) -> Tensor {
        let flat = Tensor::zeros([size(shape)], (Kind::Float, Device::Cpu));
        match (shape, self.spec.kind) {
            ([_, _], HeadKind::Linear) => flat.normal_functional(0.0, LINEAR_STD),
            ([_, inputs], HeadKind::Mlp { .. }) => {
                let bound = 1.0 / (*inputs as f64).sqrt();
                flat.uniform(-bound, bound)
            }
            _ => flat,
        }
    }

    /// `value` for each value of a weight, 0 for each of a bias: the shape of [`Head::initialise`].
    pub fn on_weights(&self, value: f64, device: Device) -> Tensor {
        let parts = self.tensors.iter().map(|(_, shape)| {
            let value = if shape.len() > 1 { value } else { 0.0 };
            Tensor::full([size(shape)], value, (Kind::Float, device))
        });
        Tensor::cat(&parts.collect::<Vec<_>>(), 0)
    }

    /// Logits `[n, K]` of features `[n, F]`.
    pub fn logits(&self, parameters: &Tensor, features: &Tensor, mode: Mode) -> Tensor {
        match self.spec.kind {
            HeadKind::Linear => self.of_hidden(parameters, features, mode),
            HeadKind::Mlp { .. } => {
                let inner = self.hidden(parameters, features);
                self.of_hidden(parameters, &inner, mode)
            }
        }
    }

    /// The hidden layer `[n, H]` of features `[n, F]`.
    ///
    /// # Panics
    /// For a linear head, which has none.
    pub fn hidden(&self, parameters: &Tensor, features: &Tensor) -> Tensor {
        assert!(self.spec.trunk().is_some(), "a head with a hidden layer");
        let views = self.views(parameters);
        features.linear(&views[0], Some(&views[1])).gelu("none")
    }

    /// Logits `[n, K]` of what the last layer reads: the hidden layer, or features.
    pub fn of_hidden(&self, parameters: &Tensor, x: &Tensor, mode: Mode) -> Tensor {
        let views = self.views(parameters);
        let [weight, bias] = &views[views.len() - 2..] else {
            unreachable!("a layer is a weight and a bias");
        };
        match mode == Mode::Train && self.dropout > 0.0 {
            true => x.dropout(self.dropout, true).linear(weight, Some(bias)),
            false => x.linear(weight, Some(bias)),
        }
    }

    /// The parameters that give for raw features what `parameters` give for standardised ones, (x − mean) / deviation:
    /// both are folded into the first layer, in double precision.
    pub fn fold(&self, parameters: &Tensor, standard: &Standardisation) -> Tensor {
        no_grad(|| {
            let mut views = self.views(&parameters.to_kind(Kind::Double));
            let weight = &views[0] / &standard.deviation;
            let bias = &views[1] - weight.matmul(&standard.mean);
            views[0] = weight;
            views[1] = bias;
            let flat: Vec<_> = views.iter().map(|view| view.flatten(0, -1)).collect();
            Tensor::cat(&flat, 0).to_kind(Kind::Float)
        })
    }

    /// What [`Head::fold`] gives `parameters` for: the way back.
    pub fn unfold(&self, parameters: &Tensor, standard: &Standardisation) -> Tensor {
        no_grad(|| {
            let mut views = self.views(&parameters.to_kind(Kind::Double));
            let bias = &views[1] + views[0].matmul(&standard.mean);
            let weight = &views[0] * &standard.deviation;
            views[0] = weight;
            views[1] = bias;
            let flat: Vec<_> = views.iter().map(|view| view.flatten(0, -1)).collect();
            Tensor::cat(&flat, 0).to_kind(Kind::Float)
        })
    }

    /// The number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.tensors
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }

    /// The parameters that [`Head::stored`] gave.
    ///
    /// # Errors
    /// [`artifact::Error`] when a tensor is missing or of another shape.
    pub fn load(&self, file: &TensorFile) -> artifact::Result<Tensor> {
        let mut flat = Vec::with_capacity(self.parameter_count());
        for (name, shape) in &self.tensors {
            flat.extend(file.f32_of_shape(name, shape)?);
        }
        Ok(Tensor::from_slice(&flat))
    }

    /// The parameters by name, as they are stored.
    pub fn stored(&self, parameters: &Tensor) -> BTreeMap<String, StoredTensor> {
        let views = self.views(parameters);
        let named = self.tensors.iter().zip(views);
        named
            .map(|((name, shape), view)| {
                (
                    name.clone(),
                    StoredTensor::f32(shape.clone(), values(&view)),
                )
            })
            .collect()
    }

    /// Weights and biases as views. One split, not a slice each: its gradient is one concatenation.
    fn views(&self, parameters: &Tensor) -> Vec<Tensor> {
        let sizes: Vec<_> = self.tensors.iter().map(|(_, shape)| size(shape)).collect();
        let parts = parameters.split_with_sizes(sizes, 0);
        let shaped = parts
            .iter()
            .zip(&self.tensors)
            .map(|(part, (_, shape))| part.view(&*signed(shape)));
        shaped.collect()
    }
}

/// Mean and standard deviation of each feature over the training images, `[F]`, double precision.
pub struct Standardisation {
    mean: Tensor,
    deviation: Tensor,
}

impl Standardisation {
    /// Smallest deviation, as a share of the mean deviation: a feature that hardly varies isn't blown up.
    const FLOOR: f64 = 1e-3;

    /// Of the rows of `features` `[n, F]`. A set without any variation keeps its scale.
    pub fn of(features: &Tensor) -> Self {
        let mean = features.mean_dim(0, false, Kind::Double);
        let centred = features - mean.to_kind(Kind::Float);
        let deviation = centred.square().mean_dim(0, false, Kind::Double).sqrt();
        let floor = deviation.mean(Kind::Double).double_value(&[]) * Self::FLOOR;
        let deviation = if floor > 0.0 {
            deviation.clamp_min(floor)
        } else {
            deviation.ones_like()
        };
        Self { mean, deviation }
    }

    /// `features` standardised, in float32.
    pub fn apply(&self, features: &Tensor) -> Tensor {
        (features - self.mean.to_kind(Kind::Float)) / self.deviation.to_kind(Kind::Float)
    }
}

/// The values of a float tensor, row-major.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor
        .detach()
        .to_device(Device::Cpu)
        .to_kind(Kind::Float)
        .contiguous()
        .flatten(0, -1);
    Vec::try_from(flat).expect("a flat float tensor")
}

fn size(shape: &[usize]) -> i64 {
    shape.iter().product::<usize>() as i64
}

fn signed(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|&n| n as i64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;

    /// Numbers without pattern or generator, `[rows, columns]`.
    fn wave(rows: i64, columns: i64, scale: f64) -> Tensor {
        let angle = Tensor::arange(rows * columns, (Kind::Float, Device::Cpu)) * 1.7;
        (angle.sin() * scale).reshape([rows, columns])
    }

    #[test]
    fn folding_moves_the_standardisation_into_the_first_layer() {
        // One feature is large and far from 0, one never varies.
        let scales = Tensor::from_slice(&[1.0_f32, 100.0, 0.0, 0.1]);
        let features = wave(20, 4, 1.0) * scales + Tensor::from_slice(&[0.0_f32, 500.0, 3.0, -1.0]);
        let standard = Standardisation::of(&features);
        for kind in [HeadKind::Linear, HeadKind::Mlp { hidden: 5 }] {
            let spec = HeadSpec {
                kind,
                features: Features::Cls,
                blocks: ReadBlocks::LAST,
                classes: 3,
            };
            let head = Head::new(spec, 4, 0.5);
            let count = head.tensors.iter().map(|(_, shape)| size(shape)).sum();
            let parameters = wave(1, count, 0.5).flatten(0, -1);
            let want = head.logits(&parameters, &standard.apply(&features), Mode::Evaluate);
            let folded = head.fold(&parameters, &standard);
            let got = head.logits(&folded, &features, Mode::Evaluate);
            let error = values(&(got - want))
                .into_iter()
                .fold(0.0_f32, |e, x| e.max(x.abs()));
            assert!(error < 1e-3, "{kind:?}: {error}");
            let back = head.unfold(&folded, &standard) - &parameters;
            let error = back.abs().max().double_value(&[]);
            assert!(error < 1e-3, "{kind:?} and back: {error}");
        }
    }

    #[test]
    fn biases_neither_decay_nor_start_away_from_zero() {
        let spec = HeadSpec {
            kind: HeadKind::Linear,
            features: Features::ClsMeanPatch,
            blocks: ReadBlocks::LAST,
            classes: 2,
        };
        let head = Head::new(spec, 3, 0.0);
        let decay = values(&head.on_weights(0.5, Device::Cpu));
        assert_eq!(decay, [[0.5; 12].as_slice(), &[0.0; 2]].concat());
        let _alone = generator();
        let first = values(&head.initialise(1, Device::Cpu));
        assert!(first[..12].iter().all(|w| w.abs() < 0.1 && *w != 0.0));
        assert!(first[12..].iter().all(|b| *b == 0.0));
    }
}
