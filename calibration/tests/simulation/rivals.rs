//! What others do with the same draws.

use super::curves::certified;
use super::{ALPHA, DELTA};
use stage1_calibration::binomial::cdf;
use stage1_core::certificate::{Plan, Procedure};
use stage1_core::logits::LogitSet;
use stage1_core::policy::{Score, Threshold, argmax};

/// Holm on the plan's thresholds.
pub(super) fn holm(plan: &Plan, calib: &LogitSet) -> Option<Threshold> {
    let plan = Plan {
        procedure: Procedure::Holm,
        starts: Vec::new(),
        ..plan.clone()
    };
    certified(&plan, calib)
}

/// Scores, falling, with whether the arg-max is wrong.
pub(super) fn falling(score: &Score, calib: &LogitSet) -> Vec<(f64, bool)> {
    let row = |i: usize| {
        let wrong = argmax(calib.row(i)) as i64 != calib.labels[i];
        (score.value(calib.row(i)), wrong)
    };
    let mut rows: Vec<_> = (0..calib.n()).map(row).collect();
    rows.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    rows
}

/// Selection with guaranteed risk (Geifman & El-Yaniv 2017, Algorithm 1): a binary search for the lowest threshold, every
/// step of it at δ / steps; the laxest that passed is taken.
pub(super) fn sgr(score: &Score, calib: &LogitSet) -> Option<Threshold> {
    let rows = falling(score, calib);
    let n = rows.len();
    let steps = (n as f64).log2().ceil();
    let (mut low, mut high, mut best) = (0, n, None);
    for _ in 0..steps as u32 {
        let middle = (low + high).div_ceil(2);
        let errors = rows[..middle].iter().filter(|row| row.1).count() as u64;
        if cdf(errors, middle as u64, ALPHA) <= DELTA / steps {
            best = Some(Threshold::OneSided {
                at_least: rows[middle - 1].0,
            });
            low = middle;
        } else {
            high = middle;
        }
    }
    best
}
