//! Empirical Bernstein (Maurer & Pontil 2009, 0907.3740, Theorem 4), for comparison: betting is tighter.

use libm::{exp, log, sqrt};

/// mean + √(2·V·ln(2/level)/n) + 7·ln(2/level)/(3·(n − 1)), with V the unbiased sample variance: an upper bound with
/// confidence 1 − `level` for the mean of losses in `[0, 1]`; at most 1, and 1 for fewer than two losses.
pub fn empirical_bernstein_upper(losses: &[f64], level: f64) -> f64 {
    let n = losses.len() as f64;
    if n < 2.0 {
        return 1.0;
    }
    let (mean, variance) = moments(losses);
    let term = log(2.0 / level);
    (mean + sqrt(2.0 * variance * term / n) + 7.0 * term / (3.0 * (n - 1.0))).min(1.0)
}

/// The p-value of "the mean loss is at least `alpha`": the smallest level at which the bound is at most `alpha`.
pub fn empirical_bernstein_p(losses: &[f64], alpha: f64) -> f64 {
    let n = losses.len() as f64;
    if n < 2.0 {
        return 1.0;
    }
    let (mean, variance) = moments(losses);
    let gap = alpha - mean;
    if gap <= 0.0 {
        return 1.0;
    }
    // With x = √ln(2/level): (7/(3(n − 1)))·x² + √(2V/n)·x = gap.
    let (a, b) = (7.0 / (3.0 * (n - 1.0)), sqrt(2.0 * variance / n));
    let x = 2.0 * gap / (b + sqrt(b * b + 4.0 * a * gap));
    (2.0 * exp(-x * x)).min(1.0)
}

/// Mean, and variance with n − 1.
fn moments(losses: &[f64]) -> (f64, f64) {
    let n = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / n;
    let squares: f64 = losses.iter().map(|x| (x - mean) * (x - mean)).sum();
    (mean, squares / (n - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_and_p_value_agree_with_each_other_and_with_the_formula() {
        let losses: Vec<f64> = (0..400).map(|i| f64::from(i % 10) / 100.0).collect();
        let upper = empirical_bernstein_upper(&losses, 0.1);
        // Mean .045, variance of 0, .01, … .09 with n − 1: .000825·400/399; ln 20.
        let term = 20.0_f64.ln();
        let want = 0.045
            + (2.0 * 0.000_825 * 400.0 / 399.0 * term / 400.0).sqrt()
            + 7.0 * term / (3.0 * 399.0);
        assert!((upper - want).abs() < 1e-12, "{upper} {want}");
        assert!((empirical_bernstein_p(&losses, upper) - 0.1).abs() < 1e-12);
        assert!((empirical_bernstein_p(&losses, 0.04) - 1.0).abs() < 1e-15);
        assert!((empirical_bernstein_upper(&[0.0], 0.1) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn betting_is_tighter() {
        let losses: Vec<f64> = (0..1000)
            .map(|i| f64::from(u8::from(i % 50 == 0)))
            .collect();
        let betting = crate::bounds::wsr_upper(&losses, 0.1);
        assert!(betting < empirical_bernstein_upper(&losses, 0.1));
    }
}
