//! Randomness by counter: every draw is a function of the seed and of what it is for, never of what was drawn before.
//!
//! libtorch offers no way to read its generator's state through `tch`, so the generator is seeded anew before each use;
//! a run that continues in the middle then draws what an uninterrupted one would have drawn.

use stage1_core::artifact::{Digest, Hasher};

/// What a draw is for.
#[derive(Debug, Clone, Copy)]
pub enum Draw {
    /// The parameters' first values.
    Initialise,
    /// The order of the images in an epoch.
    Order {
        /// The epoch, from 1.
        epoch: usize,
    },
    /// Dropout in a step.
    Step {
        /// The epoch, from 1.
        epoch: usize,
        /// The step within the epoch, from 0.
        step: usize,
    },
    /// Dropout in a block of the backbone.
    Block {
        /// The epoch, from 1.
        epoch: usize,
        /// The step within the epoch, from 0.
        step: usize,
        /// The part of the step's batch, from 0.
        part: usize,
        /// The block, from 0.
        block: usize,
    },
    /// How a picture is varied.
    Picture {
        /// The epoch, from 1.
        epoch: usize,
        /// The picture's place in the epoch's order, from 0.
        place: usize,
    },
    /// Images of val_select, drawn with replacement.
    Resample,
    /// Which part of train a unit is in.
    Folds,
    /// How a part of a picture is cut and varied, in self-supervised training.
    View {
        /// The epoch, from 1.
        epoch: usize,
        /// The picture's place in the epoch's order, from 0.
        place: usize,
        /// The part, from 0.
        view: usize,
    },
    /// Which patches are hidden, in self-supervised training.
    Mask {
        /// The epoch, from 1.
        epoch: usize,
        /// The place of the batch's first picture in the epoch's order, from 0.
        place: usize,
    },
    /// The first values of a projection head, in self-supervised training.
    Projection {
        /// The head, from 0.
        head: usize,
    },
    /// How the pictures of a step are mixed.
    Mix {
        /// The epoch, from 1.
        epoch: usize,
        /// The step within the epoch, from 0.
        step: usize,
    },
}

impl Draw {
    /// Makes libtorch's next draw a function of `seed` and of this purpose.
    pub fn seed_libtorch(self, seed: u64) {
        tch::manual_seed(self.digest(seed).as_u64().cast_signed());
    }

    /// The numbers `0..n` in an order that depends on `seed` and on this purpose.
    pub fn permutation(self, seed: u64, n: usize) -> Vec<i64> {
        let mut order: Vec<i64> = (0..n as i64).collect();
        self.numbers(seed).shuffle(&mut order);
        order
    }

    /// Numbers that depend on `seed` and on this purpose.
    pub fn numbers(self, seed: u64) -> SplitMix {
        SplitMix(self.digest(seed).as_u64())
    }

    fn digest(self, seed: u64) -> Digest {
        let (name, counters) = match self {
            Self::Initialise => ("initialise", vec![0, 0]),
            Self::Resample => ("resample", vec![0, 0]),
            Self::Folds => ("folds", vec![0, 0]),
            Self::Order { epoch } => ("order", vec![epoch, 0]),
            Self::Step { epoch, step } => ("step", vec![epoch, step]),
            Self::Block {
                epoch,
                step,
                part,
                block,
            } => ("block", vec![epoch, step, part, block]),
            Self::Picture { epoch, place } => ("picture", vec![epoch, place]),
            Self::View { epoch, place, view } => ("view", vec![epoch, place, view]),
            Self::Mask { epoch, place } => ("mask", vec![epoch, place]),
            Self::Projection { head } => ("projection", vec![head]),
            Self::Mix { epoch, step } => ("mix", vec![epoch, step]),
        };
        let mut hasher = Hasher::new();
        hasher
            .field(b"stage1 draw")
            .field(name.as_bytes())
            .field(&seed.to_be_bytes());
        for counter in counters {
            hasher.field(&(counter as u64).to_be_bytes());
        }
        hasher.finish()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): a counter and a mixing function.
#[derive(Debug, Clone)]
pub struct SplitMix(u64);

impl SplitMix {
    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform between two numbers.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Beta(α, α), from two gamma variates.
    pub fn beta(&mut self, alpha: f64) -> f64 {
        let (a, b) = (self.ln_gamma_variate(alpha), self.ln_gamma_variate(alpha));
        // By logarithms: for small α both variates may be too small for a number.
        1.0 / (1.0 + (b - a).exp())
    }

    /// The logarithm of a Gamma(α, 1) variate (Marsaglia and Tsang 2000; for α < 1 from α + 1, times U^(1/α)).
    fn ln_gamma_variate(&mut self, alpha: f64) -> f64 {
        if alpha < 1.0 {
            let power = (1.0 - self.unit()).ln() / alpha;
            return self.ln_gamma_variate(alpha + 1.0) + power;
        }
        let d = alpha - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            let u = 1.0 - self.unit();
            if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d.ln() + v.ln();
            }
        }
    }

    /// Standard normal (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`: the upper half of a product; its bias, n / 2⁶⁴, is beyond measuring.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

/// libtorch has one generator for all threads: a test that draws from it keeps the others away.
#[cfg(test)]
pub(crate) fn generator() -> std::sync::MutexGuard<'static, ()> {
    static GENERATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
    GENERATOR
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_permutation_that_depends_on_seed_and_epoch() {
        let first = Draw::Order { epoch: 1 }.permutation(7, 1000);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(first, Draw::Order { epoch: 1 }.permutation(7, 1000));
        assert_ne!(first, Draw::Order { epoch: 2 }.permutation(7, 1000));
        assert_ne!(first, Draw::Order { epoch: 1 }.permutation(8, 1000));
    }

    #[test]
    fn beta_variates_have_the_mean_and_variance_of_beta() {
        for alpha in [0.2, 1.0, 3.0] {
            let mut numbers = Draw::Initialise.numbers(1);
            let draws: Vec<_> = (0..20_000).map(|_| numbers.beta(alpha)).collect();
            let mean = draws.iter().sum::<f64>() / 20_000.0;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
            let want = 0.25 / (2.0 * alpha + 1.0);
            // Six standard errors and more.
            assert!((mean - 0.5).abs() < 0.02, "{alpha}: {mean}");
            assert!(
                (variance - want).abs() < 0.01,
                "{alpha}: {variance} for {want}"
            );
        }
    }

    #[test]
    fn every_position_is_as_likely() {
        let mut counts = [0; 5];
        for seed in 0..5000 {
            let order = Draw::Initialise.permutation(seed, 5);
            counts[order.iter().position(|&i| i == 0).unwrap()] += 1;
        }
        // A standard deviation is 28.
        assert!(
            counts.iter().all(|&n| (860..1140).contains(&n)),
            "{counts:?}"
        );
    }
}
