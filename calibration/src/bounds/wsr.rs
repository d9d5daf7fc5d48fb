//! Betting against "the mean loss is at least R" (Waudby-Smith & Ramdas 2020, 2010.09686; the form of Bates et al.
//! 2021, 2101.02703, Prop. 5). One maximum over the whole path: splitting the path and adding maxima isn't valid.
//!
//! Losses are taken in the order given, which must be fixed without looking at them.

use libm::{exp, log, log1p, sqrt};

/// The path of a bettor's logarithmic wealth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wealth {
    /// At the end.
    pub ln_final: f64,
    /// The largest on the way (−∞ for no losses).
    pub ln_max: f64,
}

/// The wealth when betting against a mean of `mean`; the bets are tuned to `level` and use earlier losses only.
pub fn wsr_wealth(losses: &[f64], mean: f64, level: f64) -> Wealth {
    let scale = scale(losses.len(), level);
    let mut moments = Moments::new();
    let mut wealth = Wealth {
        ln_final: 0.0,
        ln_max: f64::NEG_INFINITY,
    };
    for loss in losses {
        let bet = sqrt(scale / moments.variance()).min(1.0);
        // −∞ (ruin) is possible only for mean 0, loss 1, bet 1.
        wealth.ln_final += log1p(-bet * (loss - mean));
        wealth.ln_max = wealth.ln_max.max(wealth.ln_final);
        moments.add(*loss);
    }
    wealth
}

/// As [`wsr_p`], for planning: the path ends where the p-value has come down to `level`, below which nothing is decided,
/// and the wealth is a plain product, which a bettor who loses almost all of it may find rounded to nothing.
pub(crate) fn wsr_p_down_to_level(
    losses: impl ExactSizeIterator<Item = f64>,
    mean: f64,
    level: f64,
) -> f64 {
    let scale = scale(losses.len(), level);
    let mut moments = Moments::new();
    let (mut wealth, mut largest) = (1.0_f64, 1.0_f64);
    for loss in losses {
        let bet = sqrt(scale / moments.variance()).min(1.0);
        wealth *= 1.0 - bet * (loss - mean);
        largest = largest.max(wealth);
        // Nothing grows from nothing.
        if largest * level >= 1.0 || wealth <= 0.0 {
            break;
        }
        moments.add(loss);
    }
    1.0 / largest
}

/// What a bet's square is, times the variance.
fn scale(losses: usize, level: f64) -> f64 {
    2.0 * log(1.0 / level) / losses as f64
}

/// The p-value of "the mean loss is at least `alpha`", valid for any `level` that the bets are tuned to.
pub fn wsr_p(losses: &[f64], alpha: f64, level: f64) -> f64 {
    exp(-wsr_wealth(losses, alpha, level).ln_max.max(0.0))
}

/// The p-value of "the mean loss is at most `alpha`": the inverse of the largest value of ∏(1 + λᵢ(Lᵢ − α)). The bets λᵢ
/// are tuned to `level`, use earlier losses only, and stay below 1/α, so that no loss ruins the bettor.
pub fn wsr_refuting_p(losses: &[f64], alpha: f64, level: f64) -> f64 {
    let scale = scale(losses.len(), level);
    let mut moments = Moments::new();
    let (mut ln_wealth, mut ln_max) = (0.0, 0.0_f64);
    for loss in losses {
        let bet = sqrt(scale / moments.variance()).min(BOLDEST / alpha);
        ln_wealth += log1p(bet * (loss - alpha));
        ln_max = ln_max.max(ln_wealth);
        moments.add(*loss);
    }
    exp(-ln_max)
}

/// The largest share of its wealth that the refuting bettor can lose at once.
const BOLDEST: f64 = 0.5;

/// The smallest mean that is rejected at `level`: an upper bound with confidence 1 − `level`; 1 if none is.
pub fn wsr_upper(losses: &[f64], level: f64) -> f64 {
    let rejected = |mean: f64| wsr_wealth(losses, mean, level).ln_max >= log(1.0 / level);
    if !rejected(1.0) {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    while high - low > 1e-12 {
        let middle = low + (high - low) / 2.0;
        if rejected(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// Running mean (½ as a first value) and variance (¼ as a first value) of the losses so far.
struct Moments {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn new() -> Self {
        Self {
            count: 0.0,
            sum: 0.5,
            squares: 0.25,
        }
    }

    fn variance(&self) -> f64 {
        self.squares / (1.0 + self.count)
    }

    fn add(&mut self, loss: f64) {
        self.count += 1.0;
        self.sum += loss;
        let mean = self.sum / (1.0 + self.count);
        self.squares += (loss - mean) * (loss - mean);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::uniform;

    #[test]
    fn borders_are_finite() {
        assert!((wsr_upper(&[], 0.1) - 1.0).abs() < 1e-15);
        assert!((wsr_p(&[], 0.05, 0.1) - 1.0).abs() < 1e-15);
        assert!((wsr_upper(&[1.0; 30], 0.1) - 1.0).abs() < 1e-9);
        assert!(wsr_upper(&[0.0; 100], 0.1) < 0.03);
        assert!(!wsr_wealth(&[1.0; 5], 0.0, 0.1).ln_final.is_nan());
        assert!((wsr_refuting_p(&[], 0.05, 0.1) - 1.0).abs() < 1e-15);
        assert!((wsr_refuting_p(&[0.0; 50], 0.05, 0.1) - 1.0).abs() < 1e-15);
        assert!(wsr_refuting_p(&[1.0; 50], 0.05, 0.1) < 1e-6);
    }

    #[test]
    fn a_path_that_stops_at_its_level_decides_as_the_whole_one() {
        let level = 0.1;
        let mut decided = [0, 0];
        for seed in 0..200 {
            let rate = 0.01 + 0.0005 * seed as f64;
            let losses: Vec<f64> = (0..400)
                .map(|i| f64::from(u8::from(uniform(seed, i, 0) < rate)))
                .collect();
            let whole = wsr_p(&losses, 0.05, level);
            let stopped = wsr_p_down_to_level(losses.iter().copied(), 0.05, level);
            assert_eq!(whole <= level, stopped <= level, "{rate}");
            if whole > level {
                assert!((whole - stopped).abs() < 1e-12, "{rate}: {whole} {stopped}");
            }
            decided[usize::from(whole <= level)] += 1;
        }
        assert!(decided.iter().all(|times| *times > 20), "{decided:?}");
        // Ruin, and wealth that is rounded to nothing.
        let lost = wsr_p_down_to_level([1.0; 100_000].into_iter(), 0.01, level);
        assert!((lost - 1.0).abs() < 1e-15, "{lost}");
    }
}
