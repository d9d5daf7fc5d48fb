//! Seeded rows for tests.

use crate::counter::uniform;
use stage1_core::logits::LogitSet;

/// Three classes; the error rate falls from ⅓ at margin 0 to about none at margin 6.
pub(crate) fn multi_set(n: usize, seed: u64) -> LogitSet {
    rows(n, seed, |margin| 0.4 * (-margin).exp())
}

/// Three classes and one error rate for all.
pub(crate) fn with_error_rate(n: usize, seed: u64, rate: f64) -> LogitSet {
    rows(n, seed, |_| rate)
}

fn rows(n: usize, seed: u64, error_rate: impl Fn(f64) -> f64) -> LogitSet {
    let mut set = LogitSet {
        classes: 3,
        ..LogitSet::default()
    };
    for i in 0..n as u64 {
        let margin = 6.0 * uniform(seed, i, 0);
        let class = (uniform(seed, i, 1) * 3.0) as usize;
        let wrong = uniform(seed, i, 2) < error_rate(margin);
        for k in 0..3 {
            set.logits
                .push(if k == class { margin as f32 } else { 0.0 });
        }
        set.labels.push(((class + usize::from(wrong)) % 3) as i64);
        set.ids.push(format!("{seed}-{i}"));
    }
    set
}

/// Two classes whose log-odds are half the margin plus a shift.
pub(crate) fn binary_set(n: usize, seed: u64) -> LogitSet {
    let mut set = LogitSet {
        classes: 2,
        ..LogitSet::default()
    };
    for i in 0..n as u64 {
        let margin = 24.0 * uniform(seed, i, 0) - 12.0;
        let one = uniform(seed, i, 1) < 1.0 / (1.0 + (-0.5 * margin - 0.7).exp());
        set.logits.extend([0.0, margin as f32]);
        set.labels.push(i64::from(one));
        set.ids.push(format!("{seed}-{i}"));
    }
    set
}
