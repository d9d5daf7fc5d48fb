//! Hoeffding–Bentkus (Bates et al. 2021, 2101.02703; Angelopoulos et al. 2021, 2110.01052, Prop. 1).

use crate::binomial::ln_cdf;
use libm::{ceil, exp, log, log1p};

/// The two parts of the p-value, as logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LnParts {
    /// −n·h₁(min(R̂, α), α).
    pub hoeffding: f64,
    /// 1 + ln P(Bin(n, α) ≤ ⌈sum⌉); may be above 0.
    pub bentkus: f64,
}

/// The p-value of "the mean loss is at least `alpha`" when `n` losses in `[0, 1]` add up to `sum`:
/// min(exp(−n·h₁(min(R̂, α), α)), e·P(Bin(n, α) ≤ ⌈sum⌉), 1).
///
/// It takes the sum, because n·(k/n) in floating point may exceed k and then rounds up to k + 1.
pub fn hoeffding_bentkus_p(sum: f64, n: u64, alpha: f64) -> f64 {
    exp(ln_p(sum, n, alpha))
}

/// The largest mean loss that isn't rejected at `level`: an upper bound with confidence 1 − `level`.
pub fn hoeffding_bentkus_upper(sum: f64, n: u64, level: f64) -> f64 {
    if n == 0 {
        return 1.0;
    }
    let (mut low, mut high) = ((sum / n as f64).min(1.0), 1.0);
    while high - low > 1e-14 {
        let middle = low + (high - low) / 2.0;
        if ln_p(sum, n, middle) > log(level) {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// Both parts for 0 < `alpha` ≤ 1 and `n` > 0.
pub fn hoeffding_bentkus_ln_parts(sum: f64, n: u64, alpha: f64) -> LnParts {
    let mean = sum / n as f64;
    // A sum of exact fractions may lie a rounding error above an integer.
    let errors = ceil(sum - 1e-9 * sum.max(1.0)).max(0.0) as u64;
    LnParts {
        hoeffding: -(n as f64) * relative_entropy(mean.min(alpha), alpha),
        bentkus: 1.0 + ln_cdf(errors, n, alpha),
    }
}

fn ln_p(sum: f64, n: u64, alpha: f64) -> f64 {
    if n == 0 || alpha <= 0.0 {
        return 0.0;
    }
    let parts = hoeffding_bentkus_ln_parts(sum, n, alpha);
    parts.hoeffding.min(parts.bentkus).min(0.0)
}

/// h₁(x, y) = x·ln(x/y) + (1 − x)·ln((1 − x)/(1 − y)), with 0·ln 0 = 0.
fn relative_entropy(x: f64, y: f64) -> f64 {
    let left = if x > 0.0 { x * log(x / y) } else { 0.0 };
    let right = if x < 1.0 {
        (1.0 - x) * (log1p(-x) - log1p(-y))
    } else {
        0.0
    };
    left + right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_and_p_value_agree_and_borders_are_finite() {
        for (sum, n) in [(0.0, 50), (2.5, 50), (50.0, 50), (7.0, 1000)] {
            let upper = hoeffding_bentkus_upper(sum, n, 0.1);
            assert!((0.0..=1.0).contains(&upper));
            if upper < 1.0 {
                assert!(
                    (hoeffding_bentkus_p(sum, n, upper) - 0.1).abs() < 1e-6,
                    "{sum} {n} {upper}"
                );
            }
        }
        assert!((hoeffding_bentkus_p(0.0, 0, 0.05) - 1.0).abs() < 1e-15);
        assert!(hoeffding_bentkus_p(0.0, 10, 1.0) < 1e-12);
    }
}
