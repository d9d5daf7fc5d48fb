//! The losses, over targets that may be shared by two classes; sums, so that the parts of a batch add up.

use stage1_core::config::{ClassWeights, TrainConfig};
use tch::{Device, Kind, Reduction, Tensor};

/// What is minimised.
pub struct Loss {
    classes: i64,
    /// `[K]`.
    weights: Option<Tensor>,
    /// τ ln π, `[K]`: added to the logits.
    adjustment: Option<Tensor>,
    gamma: f64,
    smoothing: f64,
}

/// What the logits of some images should say.
pub enum Targets {
    /// One class each, `[n]`.
    Classes(Tensor),
    /// Shares of the classes, `[n, K]`.
    Shares(Tensor),
}

impl Loss {
    /// As configured, for training images of these classes. Every class has images.
    pub fn new(config: &TrainConfig, labels: &[usize], classes: usize, device: Device) -> Self {
        let counts = counts(labels, classes);
        let tensor = |values: Vec<f64>| {
            Tensor::from_slice(&values)
                .to_kind(Kind::Float)
                .to_device(device)
        };
        let tau = config.logit_adjustment;
        let adjustment = (tau > 0.0).then(|| {
            let prior = |&count: &usize| tau * (count as f64 / labels.len() as f64).ln();
            tensor(counts.iter().map(prior).collect())
        });
        Self {
            classes: classes as i64,
            weights: class_weights(config, &counts).map(tensor),
            adjustment,
            gamma: config.focal_gamma,
            smoothing: config.label_smoothing,
        }
    }

    /// What the images weigh together: the sum of [`Loss::sum`] over a batch, divided by the batch's weight, is its loss.
    pub fn weight(&self, targets: &Targets) -> f64 {
        let Some(weights) = &self.weights else {
            return targets.count() as f64;
        };
        let sum = match targets {
            Targets::Classes(labels) => weights.index_select(0, labels).sum(Kind::Double),
            Targets::Shares(shares) => (shares * weights).sum(Kind::Double),
        };
        sum.double_value(&[])
    }

    /// The summed loss of logits `[n, K]`, a scalar with a gradient: −Σ w_k q_k (1 − p_k)^γ ln p_k, with q the smoothed
    /// target. With γ 0, one class per image and no smoothing this is weighted cross-entropy.
    pub fn sum(&self, logits: &Tensor, targets: &Targets) -> Tensor {
        let adjusted = self.adjustment.as_ref().map(|prior| logits + prior);
        let logits = adjusted.as_ref().unwrap_or(logits);
        if let (Targets::Classes(labels), true) = (targets, self.gamma == 0.0) {
            let weights = self.weights.as_ref();
            return logits.cross_entropy_loss(
                labels,
                weights,
                Reduction::Sum,
                -100,
                self.smoothing,
            );
        }
        let shares = targets.shares(self.classes) * (1.0 - self.smoothing)
            + self.smoothing / self.classes as f64;
        let log_p = logits.log_softmax(-1, Kind::Float);
        let mut terms = shares * &log_p;
        if self.gamma > 0.0 {
            // 1 − p may round to 0, whose power has no gradient for γ < 1.
            let rest: Tensor = 1.0 - log_p.exp();
            terms *= rest.clamp_min(1e-12).pow_tensor_scalar(self.gamma);
        }
        if let Some(weights) = &self.weights {
            terms *= weights;
        }
        -terms.sum(Kind::Float)
    }
}

impl Targets {
    /// One class each.
    pub fn classes(labels: &[usize], device: Device) -> Self {
        let labels: Vec<_> = labels.iter().map(|&label| label as i64).collect();
        Self::Classes(Tensor::from_slice(&labels).to_device(device))
    }

    /// Those of the images from `first` to before `end`.
    pub fn slice(&self, first: i64, end: i64) -> Self {
        match self {
            Self::Classes(tensor) => Self::Classes(tensor.slice(0, first, end, 1)),
            Self::Shares(tensor) => Self::Shares(tensor.slice(0, first, end, 1)),
        }
    }

    fn count(&self) -> i64 {
        match self {
            Self::Classes(tensor) | Self::Shares(tensor) => tensor.size()[0],
        }
    }

    /// `[n, K]`.
    fn shares(&self, classes: i64) -> Tensor {
        match self {
            Self::Classes(labels) => labels.one_hot(classes).to_kind(Kind::Float),
            Self::Shares(shares) => shares.shallow_clone(),
        }
    }
}

/// Images of each class.
pub fn counts(labels: &[usize], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    labels.iter().for_each(|&label| counts[label] += 1);
    counts
}

fn class_weights(config: &TrainConfig, counts: &[usize]) -> Option<Vec<f64>> {
    let (classes, images) = (counts.len() as f64, counts.iter().sum::<usize>() as f64);
    let weights: Vec<f64> = match config.class_weights {
        ClassWeights::None => return None,
        ClassWeights::Balanced => counts
            .iter()
            .map(|&n| images / (classes * n as f64))
            .collect(),
        ClassWeights::EffectiveNumber => {
            let beta = config.effective_number_beta;
            let raw: Vec<_> = counts
                .iter()
                .map(|&n| (1.0 - beta) / (1.0 - beta.powf(n as f64)))
                .collect();
            let mean = raw.iter().sum::<f64>() / classes;
            raw.into_iter().map(|weight| weight / mean).collect()
        }
    };
    Some(weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::values;

    const LOGITS: [[f64; 3]; 2] = [[1.0, -0.5, 0.25], [0.0, 2.0, -1.0]];

    fn logits() -> Tensor {
        let flat: Vec<f32> = LOGITS.concat().iter().map(|&x| x as f32).collect();
        Tensor::from_slice(&flat).reshape([2, 3])
    }

    /// The definition, spelled out in double precision; training images 6, 3, 1 of the classes.
    fn by_hand(config: &TrainConfig, weights: [f64; 3], shares: [[f64; 3]; 2]) -> f64 {
        let prior = [0.6_f64, 0.3, 0.1];
        let mut loss = 0.0;
        for (row, shares) in LOGITS.iter().zip(shares) {
            let z: Vec<f64> = (0..3)
                .map(|k| row[k] + config.logit_adjustment * prior[k].ln())
                .collect();
            let norm: f64 = z.iter().map(|z| z.exp()).sum();
            for k in 0..3 {
                let p = z[k].exp() / norm;
                let q = (1.0 - config.label_smoothing) * shares[k] + config.label_smoothing / 3.0;
                loss -= weights[k] * q * (1.0 - p).powf(config.focal_gamma) * p.ln();
            }
        }
        loss
    }

    #[test]
    fn every_loss_is_its_definition() {
        let training = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2];
        let hard = [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]];
        let mixed = [[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]];
        type Change = fn(&mut TrainConfig);
        let effective = {
            let raw = [6.0, 3.0, 1.0].map(|n| 0.1 / (1.0 - 0.9_f64.powf(n)));
            let mean = raw.iter().sum::<f64>() / 3.0;
            raw.map(|w| w / mean)
        };
        let balanced = [10.0 / 18.0, 10.0 / 9.0, 10.0 / 3.0];
        let cases: [(&str, Change, [f64; 3]); 6] = [
            ("plain", |_| {}, [1.0; 3]),
            ("smoothed", |c| c.label_smoothing = 0.1, [1.0; 3]),
            (
                "balanced and smoothed",
                |c| {
                    c.class_weights = ClassWeights::Balanced;
                    c.label_smoothing = 0.2;
                },
                balanced,
            ),
            (
                "effective number",
                |c| {
                    c.class_weights = ClassWeights::EffectiveNumber;
                    c.effective_number_beta = 0.9;
                },
                effective,
            ),
            ("focal", |c| c.focal_gamma = 2.0, [1.0; 3]),
            (
                "logit-adjusted focal",
                |c| {
                    c.logit_adjustment = 1.5;
                    c.focal_gamma = 0.5;
                },
                [1.0; 3],
            ),
        ];
        for (name, change, weights) in cases {
            let mut config = TrainConfig::default();
            change(&mut config);
            let loss = Loss::new(&config, &training, 3, Device::Cpu);
            let classes = Targets::classes(&[2, 1], Device::Cpu);
            let flat: Vec<f32> = mixed.concat().iter().map(|&x| x as f32).collect();
            let shares = Targets::Shares(Tensor::from_slice(&flat).reshape([2, 3]));
            for (targets, q) in [(&classes, hard), (&shares, mixed)] {
                let got = f64::from(values(&loss.sum(&logits(), targets))[0]);
                let want = by_hand(&config, weights, q);
                assert!((got - want).abs() < 1e-5 * want, "{name}: {got} for {want}");
                let weight: f64 = q
                    .iter()
                    .flat_map(|q| (0..3).map(|k| q[k] * weights[k]))
                    .sum();
                assert!((loss.weight(targets) - weight).abs() < 1e-6, "{name}");
            }
        }
    }
}
