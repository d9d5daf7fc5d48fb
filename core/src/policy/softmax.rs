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

/// Replaces logits by their softmax.
pub(super) fn softmax_f64(logits: &mut [f64]) {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for z in logits.iter_mut() {
        *z = exp(*z - max);
        sum += *z;
    }
    for p in logits {
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

/// −ln softmax(`logits` / `temperature`)_label.
pub(super) fn softmax_log_loss(logits: &[f32], temperature: f64, label: usize) -> f64 {
    let max = f64::from(logits[super::argmax(logits)]);
    let below = |z: f32| (max - f64::from(z)) / temperature;
    let sum: f64 = logits.iter().map(|z| exp(-below(*z))).sum();
    below(logits[label]) + log(sum)
}

/// −ln softmax(`logits`)_label.
pub(super) fn log_loss_f64(logits: &[f64], label: usize) -> f64 {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|z| exp(z - max)).sum();
    (max - logits[label]) + log(sum)
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
