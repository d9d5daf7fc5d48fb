//! Beta calibration (Kull, Silva Filho & Flach 2017) with both weights at least 0: the map rises, the ranking stays.

use super::binary::check_overlap;
use super::logistic;
use stage1_core::policy::{Fallback, softplus};

/// [a, b, c] of logit q = a·ln p − b·ln(1 − p) + c with p = sigmoid(s) of margins s = z₁ − z₀, a, b ≥ 0; `labels` says
/// whether the class is 1.
///
/// # Errors
/// A [`Fallback`]: no rows, one class, a margin that separates the classes, or margins that don't rank them.
pub fn beta(margins: &[f64], labels: &[bool]) -> Result<[f64; 3], Fallback> {
    check_overlap(margins, labels)?;
    optimum(margins, labels)
}

/// The likelihood is concave: if its free optimum breaks a bound, the bounded one lies on a border.
fn optimum(margins: &[f64], labels: &[bool]) -> Result<[f64; 3], Fallback> {
    let n = margins.len();
    let ln_p = |i: usize| -softplus(-margins[i]);
    let minus_ln_q = |i: usize| softplus(margins[i]);
    let target = |i: usize| if labels[i] { 1.0 } else { 0.0 };
    let free = logistic::fit(n, |i| [ln_p(i), minus_ln_q(i), 1.0], target);
    if let Some(fit) = free.filter(|fit| fit.weights[0] >= 0.0 && fit.weights[1] >= 0.0) {
        return Ok(fit.weights);
    }
    let only_a = logistic::fit(n, |i| [ln_p(i), 1.0], target);
    let only_b = logistic::fit(n, |i| [minus_ln_q(i), 1.0], target);
    let sides = [
        only_a.map(|fit| (fit.loss, [fit.weights[0], 0.0, fit.weights[1]])),
        only_b.map(|fit| (fit.loss, [0.0, fit.weights[0], fit.weights[1]])),
    ];
    if sides.iter().all(Option::is_none) {
        return Err(Fallback::NotConverged);
    }
    // The slope's own rounding must not pass for a slope.
    let largest = margins.iter().fold(0.0, |l: f64, s| l.max(s.abs()));
    let rising = sides
        .into_iter()
        .flatten()
        .filter(|(_, w)| (w[0] + w[1]) * largest > 1e-9);
    let best = rising.min_by(|x, y| x.0.total_cmp(&y.0));
    best.map(|(_, weights)| weights)
        .ok_or(Fallback::SlopeNotPositive)
}
