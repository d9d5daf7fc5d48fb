//! The binomial distribution with integer counts, in logarithms: exact to rounding for any n, and never an underflow
//! that looks like certainty.
//!
//! The point probability is Loader's saddle-point form ("Fast and accurate computation of binomial probabilities",
//! 2000); a tail is that times a sum of term ratios, added from its largest end.
//!
//! Bounds and p-values are two views of one test (Clopper & Pearson 1934): the upper bound of the error rate is the largest
//! rate that the counts don't refute. They hold for independent draws and for one threshold that was fixed beforehand.
//!
//! ```
//! use stage1_calibration::binomial::upper_bound;
//!
//! // No error among 45 answers bounds the error rate by 5 % with confidence 90 %; among 44 it doesn't.
//! assert!(upper_bound(0, 45, 0.1) <= 0.05);
//! assert!(upper_bound(0, 44, 0.1) > 0.05);
//! ```

mod counts;
mod interval;
mod power;

pub use counts::{max_errors, min_errors_refuting, min_rows};
pub use interval::{clopper_pearson, lower_bound, upper_bound};
pub use power::{held_power, refuted_power, rows_for_held, rows_for_refuted};

use libm::{exp, lgamma, log, log1p};

/// P(Bin(`n`, `p`) ≤ `k`); with `p` = α it is the p-value of "the risk is at least α" after `k` errors in `n`.
pub fn cdf(k: u64, n: u64, p: f64) -> f64 {
    exp(ln_cdf(k, n, p))
}

/// P(Bin(`n`, `p`) ≥ `k`); with `p` = α it is the p-value of "the risk is at most α" after `k` errors in `n`.
pub fn survival(k: u64, n: u64, p: f64) -> f64 {
    exp(ln_survival(k, n, p))
}

/// ln P(Bin(`n`, `p`) ≤ `k`), `p` in `[0, 1]`.
pub fn ln_cdf(k: u64, n: u64, p: f64) -> f64 {
    if k >= n || p <= 0.0 {
        return 0.0;
    }
    if p >= 1.0 {
        return f64::NEG_INFINITY;
    }
    if (k as f64) < n as f64 * p {
        return ln_pmf(k, n, p) + log(sum_down(k, n, p));
    }
    let above = ln_pmf(k + 1, n, p) + log(sum_up(k + 1, n, p));
    log1p(-exp(above))
}

/// ln P(Bin(`n`, `p`) ≥ `k`), `p` in `[0, 1]`.
pub fn ln_survival(k: u64, n: u64, p: f64) -> f64 {
    if k == 0 || p >= 1.0 {
        return if k > n { f64::NEG_INFINITY } else { 0.0 };
    }
    if k > n || p <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if k as f64 > n as f64 * p {
        return ln_pmf(k, n, p) + log(sum_up(k, n, p));
    }
    let below = ln_pmf(k - 1, n, p) + log(sum_down(k - 1, n, p));
    log1p(-exp(below))
}

/// Terms smaller than this share of the sum no longer change it.
const NEGLIGIBLE: f64 = 1e-18;

/// Σ_{i ≤ k} pmf(i) / pmf(k); the terms fall when `k` is below the mean.
fn sum_down(k: u64, n: u64, p: f64) -> f64 {
    let odds = (1.0 - p) / p;
    let (mut term, mut sum) = (1.0, 1.0);
    for i in (1..=k).rev() {
        term *= i as f64 * odds / (n - i + 1) as f64;
        sum += term;
        if term < NEGLIGIBLE * sum {
            break;
        }
    }
    sum
}

/// Σ_{i ≥ k} pmf(i) / pmf(k); the terms fall when `k` is above the mean.
fn sum_up(k: u64, n: u64, p: f64) -> f64 {
    let odds = p / (1.0 - p);
    let (mut term, mut sum) = (1.0, 1.0);
    for i in k..n {
        term *= (n - i) as f64 * odds / (i + 1) as f64;
        sum += term;
        if term < NEGLIGIBLE * sum {
            break;
        }
    }
    sum
}

/// ln P(Bin(`n`, `p`) = `k`), 0 < `p` < 1, `k` ≤ `n`.
pub fn ln_pmf(k: u64, n: u64, p: f64) -> f64 {
    if k == 0 {
        return n as f64 * log1p(-p);
    }
    if k == n {
        return n as f64 * log(p);
    }
    let (x, m, size) = (k as f64, (n - k) as f64, n as f64);
    let saddle = stirling_error(n)
        - stirling_error(k)
        - stirling_error(n - k)
        - deviance(x, size * p)
        - deviance(m, size * (1.0 - p));
    saddle + 0.5 * log(size / (std::f64::consts::TAU * x * m))
}

/// ln n! − ln(√(2πn)·(n/e)ⁿ).
fn stirling_error(n: u64) -> f64 {
    let x = n as f64;
    if n < 16 {
        return lgamma(x + 1.0) - (x + 0.5) * log(x) + x - 0.5 * log(std::f64::consts::TAU);
    }
    let y = 1.0 / (x * x);
    let series = [
        1.0 / 12.0,
        -1.0 / 360.0,
        1.0 / 1260.0,
        -1.0 / 1680.0,
        1.0 / 1188.0,
    ];
    series.iter().rev().fold(0.0, |sum, c| sum * y + c) / x
}

/// x·ln(x/m) + m − x, without cancellation where x is near m.
fn deviance(x: f64, m: f64) -> f64 {
    let difference = x - m;
    if difference.abs() >= 0.1 * (x + m) {
        return x * log(x / m) + m - x;
    }
    let v = difference / (x + m);
    let (mut sum, mut power) = (difference * v, 2.0 * x * v);
    for j in 1.. {
        power *= v * v;
        let next = sum + power / f64::from(2 * j + 1);
        // The series is geometric in v² ≤ 0.01: this ends after a dozen rounds.
        if (next - sum).abs() <= f64::EPSILON * sum.abs() {
            return next;
        }
        sum = next;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_cases_equal_the_definition() {
        for n in 0..12u64 {
            for p in [0.01_f64, 0.3, 0.5, 0.99] {
                let pmf = |i: u64| choose(n, i) * p.powf(i as f64) * (1.0 - p).powf((n - i) as f64);
                for k in 0..=n {
                    let want: f64 = (0..=k).map(pmf).sum();
                    assert!((cdf(k, n, p) - want).abs() < 1e-13, "cdf {k} {n} {p}");
                    let want: f64 = (k..=n).map(pmf).sum();
                    assert!(
                        (survival(k, n, p) - want).abs() < 1e-13,
                        "survival {k} {n} {p}"
                    );
                }
            }
        }
    }

    fn choose(n: u64, k: u64) -> f64 {
        (0..k).fold(1.0, |c, i| c * (n - i) as f64 / (i + 1) as f64)
    }

    #[test]
    fn no_error_in_a_billion_rows_has_its_closed_form() {
        let n = 1_000_000_000;
        let want = n as f64 * log1p(-0.05);
        assert!((ln_cdf(0, n, 0.05) - want).abs() < 1e-6);
        assert!(
            (cdf(n / 20, n, 0.05) - 0.5).abs() < 1e-4,
            "the median is the mean"
        );
        assert!((cdf(n / 20 - 1, n, 0.05) + survival(n / 20, n, 0.05) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn borders_are_exact() {
        let (zero, one) = (0.0_f64.to_bits(), 1.0_f64.to_bits());
        let cases = [
            (cdf(0, 0, 0.5), one),
            (cdf(5, 5, 0.5), one),
            (cdf(0, 5, 0.0), one),
            (cdf(4, 5, 1.0), zero),
            (survival(0, 5, 0.5), one),
            (survival(6, 5, 0.5), zero),
            (survival(1, 5, 0.0), zero),
            (survival(5, 5, 1.0), one),
            (survival(1, 0, 1.0), zero),
        ];
        for (i, (got, want)) in cases.iter().enumerate() {
            assert_eq!(got.to_bits(), *want, "case {i}: {got}");
        }
    }
}
