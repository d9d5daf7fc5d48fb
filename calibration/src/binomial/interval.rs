//! Clopper–Pearson (1934) bounds, by inverting the exact tests.

use super::{ln_cdf, ln_survival};
use libm::log;

/// The upper bound with confidence 1 − `level`: the rate at which `k` or fewer errors in `n` have probability `level`;
/// 1 if all are wrong. It is at most α exactly if the p-value is at most `level`, up to rounding: decide by the p-value.
pub fn upper_bound(k: u64, n: u64, level: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    crossing(k as f64 / n as f64, 1.0, |p| ln_cdf(k, n, p) > log(level))
}

/// The lower bound with confidence 1 − `level`; 0 if none is wrong.
pub fn lower_bound(k: u64, n: u64, level: f64) -> f64 {
    if k == 0 {
        return 0.0;
    }
    crossing(0.0, k as f64 / n as f64, |p| {
        ln_survival(k, n, p) <= log(level)
    })
}

/// The two-sided interval with confidence 1 − `level`: half of it on each side.
pub fn clopper_pearson(k: u64, n: u64, level: f64) -> (f64, f64) {
    (
        lower_bound(k, n, level / 2.0),
        upper_bound(k, n, level / 2.0),
    )
}

/// Where `below` turns from true to false between `low` and `high`, to the last bit that the tail can tell.
fn crossing(mut low: f64, mut high: f64, below: impl Fn(f64) -> bool) -> f64 {
    // Bisection; 1100 halvings go through all of f64, a relative 1e-15 ends it much earlier.
    for _ in 0..1100 {
        let middle = low + (high - low) / 2.0;
        if below(middle) {
            low = middle;
        } else {
            high = middle;
        }
        if high - low <= 1e-15 * high {
            break;
        }
    }
    low + (high - low) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_forms_hold() {
        // No error: 1 − level^(1/n).
        let want = 1.0 - 0.1_f64.powf(1.0 / 45.0);
        assert!((upper_bound(0, 45, 0.1) - want).abs() < 1e-14);
        assert!((lower_bound(45, 45, 0.1) - (1.0 - want)).abs() < 1e-14);
        assert_eq!(clopper_pearson(0, 0, 0.05), (0.0, 1.0));
    }

    #[test]
    fn bound_and_p_value_agree() {
        for (k, n) in [(0, 44), (0, 45), (3, 140), (40, 1000)] {
            let p = ln_cdf(k, n, 0.05);
            assert_eq!(upper_bound(k, n, 0.1) <= 0.05, p <= log(0.1), "{k} {n}");
        }
    }
}
