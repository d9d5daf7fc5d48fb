//! Softmax and friends in `f64` through `libm`: the same bits on every platform, because thresholds are compared with
//! what comes out of here.

use libm::{exp, log, log1p};

/// Writes softmax(`logits` / `temperature`) over `out`.
///
/// # Panics
/// If `logits` is empty.
pub fn softmax_into(logits: &[f32], temperature: f64, out: &mut Vec<f64>) {
    // Subtract the maximum first: exp() of a large logit overflows.
    let max = f64::from(logits[super::argmax(logits)]);
    out.clear();
    out.extend(
        logits
            .iter()
            .map(|z| exp((f64::from(*z) - max) / temperature)),
    );
    let sum: f64 = out.iter().sum();
    for p in out {
        *p /= sum;
    }
}

/// ln Σ exp(`logits` / `temperature`).
///
/// # Panics
/// If `logits` is empty.
pub fn log_sum_exp(logits: &[f32], temperature: f64) -> f64 {
    let max = f64::from(logits[super::argmax(logits)]);
    let sum: f64 = logits
        .iter()
        .map(|z| exp((f64::from(*z) - max) / temperature))
        .sum();
    max / temperature + log(sum)
}

/// 1 / (1 + exp(−x)), without overflow.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + exp(-x))
    } else {
        let e = exp(x);
        e / (1.0 + e)
    }
}

/// ln(1 + exp(x)), without overflow; −softplus(−x) is ln sigmoid(x).
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + log1p(exp(-x.abs()))
}
