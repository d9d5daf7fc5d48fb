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
}

impl Draw {
    /// Makes libtorch's next draw a function of `seed` and of this purpose.
    pub fn seed_libtorch(self, seed: u64) {
        tch::manual_seed(self.digest(seed).as_u64().cast_signed());
    }

    /// The numbers `0..n` in an order that depends on `seed` and on this purpose.
    pub fn permutation(self, seed: u64, n: usize) -> Vec<i64> {
        let mut bits = SplitMix(self.digest(seed).as_u64());
        let mut order: Vec<i64> = (0..n as i64).collect();
        for last in (1..n).rev() {
            order.swap(last, bits.below(last + 1));
        }
        order
    }

    fn digest(self, seed: u64) -> Digest {
        let (name, epoch, step) = match self {
            Self::Initialise => ("initialise", 0, 0),
            Self::Order { epoch } => ("order", epoch, 0),
            Self::Step { epoch, step } => ("step", epoch, step),
        };
        let mut hasher = Hasher::new();
        hasher
            .field(b"stage1 draw")
            .field(name.as_bytes())
            .field(&seed.to_be_bytes());
        hasher
            .field(&(epoch as u64).to_be_bytes())
            .field(&(step as u64).to_be_bytes());
        hasher.finish()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): a counter and a mixing function.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`: the upper half of a product; its bias, n / 2⁶⁴, is beyond measuring.
    fn below(&mut self, n: usize) -> usize {
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
