//! AdamW on one flat buffer, with its moments as tensors of our own, and the learning rate's course.

use tch::{Kind, Tensor, no_grad};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// AdamW (Loshchilov and Hutter 2019), as `torch.optim.AdamW` computes it.
pub struct AdamW {
    /// Weight decay per value of the buffer: 0 for biases.
    decay: Tensor,
    /// What the learning rate is multiplied with, per value; none: 1.
    scale: Option<Tensor>,
    moments: Moments,
}

/// The memory of an optimiser.
pub struct Moments {
    /// The moving average of the gradients.
    pub first: Tensor,
    /// The moving average of their squares.
    pub second: Tensor,
    /// Updates so far.
    pub steps: usize,
}

impl AdamW {
    /// An optimiser for a buffer of the shape of `decay`, which holds each value's weight decay; the learning rate of each
    /// is multiplied with `scale`.
    pub fn new(decay: Tensor, scale: Option<Tensor>) -> Self {
        let moments = Moments {
            first: decay.zeros_like(),
            second: decay.zeros_like(),
            steps: 0,
        };
        Self {
            decay,
            scale,
            moments,
        }
    }

    /// Goes on with other weight decay and rates per value.
    pub fn set(&mut self, decay: Tensor, scale: Option<Tensor>) {
        self.decay = decay;
        self.scale = scale;
    }

    /// What it remembers.
    pub fn moments(&self) -> &Moments {
        &self.moments
    }

    /// Goes on from what another remembered.
    pub fn restore(&mut self, moments: Moments) {
        self.moments = moments;
    }

    /// Updates `parameters` in place by their gradient.
    pub fn step(&mut self, parameters: &mut Tensor, gradient: &Tensor, learning_rate: f64) {
        no_grad(|| {
            let Moments {
                first,
                second,
                steps,
            } = &mut self.moments;
            *steps += 1;
            let power = i32::try_from(*steps).unwrap_or(i32::MAX);
            let _ = first.lerp_(gradient, 1.0 - BETA1);
            *second *= BETA2;
            let _ = second.addcmul_(gradient, &(gradient * (1.0 - BETA2)));
            let scale = (1.0 - BETA2.powi(power)).sqrt();
            let denominator = second.sqrt() / scale + EPSILON;
            let rate = learning_rate / (1.0 - BETA1.powi(power));
            let mut decay = &*parameters * &self.decay * learning_rate;
            let mut change = &*first / denominator * rate;
            if let Some(scale) = &self.scale {
                decay *= scale;
                change *= scale;
            }
            // Decay first, then the step: the order of the paper's algorithm 2.
            *parameters -= decay;
            *parameters -= change;
        });
    }
}

/// Scales `gradient` so that its norm is at most `max_norm`; returns the norm before that.
pub fn clip(gradient: &mut Tensor, max_norm: f64) -> f64 {
    let norm = gradient.norm().to_kind(Kind::Double).double_value(&[]);
    if norm > max_norm {
        *gradient *= max_norm / norm;
    }
    norm
}

/// A linear warm-up, then half a cosine down to 0 over the rest of the planned steps.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// The largest rate.
    pub peak: f64,
    /// Steps of the warm-up.
    pub warmup_steps: f64,
    /// All planned steps.
    pub total_steps: usize,
}

impl Schedule {
    /// The rate of step `step`, from 0. It is positive for every planned step.
    pub fn rate(&self, step: usize) -> f64 {
        // Counted from 1: a first step at rate 0 would change nothing.
        let done = step as f64 + 1.0;
        let rest = (self.total_steps as f64 - self.warmup_steps).max(1.0);
        if done < self.warmup_steps {
            return self.peak * done / self.warmup_steps;
        }
        let progress = ((step as f64 - self.warmup_steps) / rest).clamp(0.0, 1.0);
        self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

/// A moving average of the parameters, updated each step.
pub struct Ema {
    decay: f64,
    average: Tensor,
    steps: usize,
}

impl Ema {
    /// An average that starts at `parameters`; a `decay` of 0 follows them exactly.
    pub fn new(parameters: &Tensor, decay: f64) -> Self {
        Self {
            decay,
            average: parameters.detach().copy(),
            steps: 0,
        }
    }

    /// Takes in the parameters after a step. The decay warms up as min(d, (1+t)/(10+t)), so that the first values are
    /// soon forgotten.
    pub fn update(&mut self, parameters: &Tensor) {
        let t = self.steps as f64;
        self.steps += 1;
        let decay = self.decay.min((1.0 + t) / (10.0 + t));
        let _ = no_grad(|| self.average.lerp_(&parameters.detach(), 1.0 - decay));
    }

    /// The averaged parameters.
    pub fn average(&self) -> &Tensor {
        &self.average
    }

    /// Goes on from another's average after so many updates.
    pub fn restore(&mut self, average: Tensor, steps: usize) {
        self.average = average;
        self.steps = steps;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.detach().to_kind(Kind::Double)).unwrap()
    }

    fn assert_close(got: &[f64], want: &[f64], name: &str) {
        assert_eq!(got.len(), want.len(), "{name}");
        for (got, want) in got.iter().zip(want) {
            assert!(
                (got - want).abs() <= 1e-6 * (1.0 + want.abs()),
                "{name}: {got} for {want}"
            );
        }
    }

    #[test]
    fn adamw_follows_the_textbook_in_double_precision() {
        let gradients = [[0.5, -2.0], [0.25, 0.0], [-1.0, 3.0]];
        let (decay, scales, rates) = ([0.1, 0.0], [1.0, 16.0], [0.01, 0.02, 0.005]);
        let mut parameters = Tensor::from_slice(&[1.0_f64, -1.0]);
        let mut optimiser = AdamW::new(
            Tensor::from_slice(&decay),
            Some(Tensor::from_slice(&scales)),
        );
        let (mut want, mut m, mut v) = ([1.0, -1.0], [0.0; 2], [0.0; 2]);
        for (t, (gradient, rate)) in gradients.iter().zip(rates).enumerate() {
            optimiser.step(&mut parameters, &Tensor::from_slice(gradient), rate);
            for i in 0..2 {
                m[i] = 0.9 * m[i] + 0.1 * gradient[i];
                v[i] = 0.999 * v[i] + 0.001 * gradient[i] * gradient[i];
                let t = t as i32 + 1;
                let (mh, vh): (f64, f64) = (
                    m[i] / (1.0 - 0.9_f64.powi(t)),
                    v[i] / (1.0 - 0.999_f64.powi(t)),
                );
                let rate = rate * scales[i];
                want[i] = want[i] * (1.0 - rate * decay[i]) - rate * mh / (vh.sqrt() + 1e-8);
            }
            assert_close(&values(&parameters), &want, &format!("step {t}"));
        }
    }

    #[test]
    fn clipping_keeps_the_direction_and_reports_the_norm() {
        let cases = [("above", 1.0, [0.6, 0.8]), ("below", 10.0, [3.0, 4.0])];
        for (name, max, want) in cases {
            let mut gradient = Tensor::from_slice(&[3.0_f32, 4.0]);
            assert_close(&[clip(&mut gradient, max)], &[5.0], name);
            assert_close(&values(&gradient), &want, name);
        }
        let mut broken = Tensor::from_slice(&[f32::NAN, 1.0]);
        assert!(clip(&mut broken, 1.0).is_nan());
    }

    #[test]
    fn the_rate_rises_to_the_peak_and_falls_to_nearly_nothing() {
        let cases = [
            ("no warm-up", 0.0, 4, vec![1.0, 0.853_553, 0.5, 0.146_447]),
            (
                "two steps of warm-up",
                2.0,
                6,
                vec![0.5, 1.0, 1.0, 0.853_553, 0.5, 0.146_447],
            ),
            ("a fraction of a step", 0.5, 1, vec![1.0]),
            (
                "a warm-up longer than the training",
                4.0,
                2,
                vec![0.25, 0.5],
            ),
        ];
        for (name, warmup_steps, total_steps, want) in cases {
            let schedule = Schedule {
                peak: 1.0,
                warmup_steps,
                total_steps,
            };
            let got: Vec<_> = (0..total_steps).map(|step| schedule.rate(step)).collect();
            assert_close(&got, &want, name);
        }
    }

    #[test]
    fn the_average_warms_up_then_keeps_its_decay() {
        let mut ema = Ema::new(&Tensor::from_slice(&[0.0_f64]), 0.15);
        ema.update(&Tensor::from_slice(&[1.0_f64]));
        assert_close(&values(ema.average()), &[0.9], "decay 1/10");
        ema.update(&Tensor::from_slice(&[1.0_f64]));
        assert_close(&values(ema.average()), &[0.985], "decay 0.15, not 2/11");
        let mut off = Ema::new(&Tensor::from_slice(&[0.0_f64]), 0.0);
        off.update(&Tensor::from_slice(&[3.0_f64]));
        assert_close(&values(off.average()), &[3.0], "off");
    }
}
