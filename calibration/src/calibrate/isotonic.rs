//! Isotonic regression by pooling adjacent violators (Ayer et al. 1955), in whole numbers.

use super::binary::{Tied, check_two_classes, tie_groups};
use stage1_core::policy::{Fallback, IsotonicCurve};

/// The rising curve of largest likelihood for margins s = z₁ − z₀, with straight lines between pools as scikit-learn
/// draws them; `labels` says whether the class is 1. Rows of one margin go together.
///
/// For two classes only: one curve per class and a division by their sum, the usual stopgap for more, gave worse
/// likelihoods than the raw softmax in CalArena (arXiv 2605.30188).
///
/// # Errors
/// A [`Fallback`]: no rows, one class, or margins that don't rank the labels (one pool).
pub fn isotonic(margins: &[f64], labels: &[bool]) -> Result<IsotonicCurve, Fallback> {
    check_two_classes(labels)?;
    let groups = tie_groups(margins, labels);
    let pools = pool(&groups);
    if pools.len() < 2 {
        return Err(Fallback::SlopeNotPositive);
    }
    let mut knots = Vec::with_capacity(2 * pools.len());
    for pool in &pools {
        let rate = pool.ones as f64 / pool.rows as f64;
        knots.push([groups[pool.first].margin, rate]);
        if pool.last > pool.first {
            knots.push([groups[pool.last].margin, rate]);
        }
    }
    Ok(IsotonicCurve {
        knots,
        rows: labels.len() as u64,
    })
}

/// Tie groups `first..=last` that share a rate.
struct Pool {
    first: usize,
    last: usize,
    ones: u64,
    rows: u64,
}

/// Pools of strictly rising rates.
fn pool(groups: &[Tied]) -> Vec<Pool> {
    let mut pools: Vec<Pool> = Vec::new();
    for (i, group) in groups.iter().enumerate() {
        let mut pool = Pool {
            first: i,
            last: i,
            ones: group.ones,
            rows: group.rows,
        };
        while let Some(before) = pools.pop_if(|before| !rises(before, &pool)) {
            pool.first = before.first;
            pool.ones += before.ones;
            pool.rows += before.rows;
        }
        pools.push(pool);
    }
    pools
}

fn rises(from: &Pool, to: &Pool) -> bool {
    u128::from(from.ones) * u128::from(to.rows) < u128::from(to.ones) * u128::from(from.rows)
}

/// Whether the margins rank the labels at all.
pub(super) fn ranks(groups: &[Tied]) -> bool {
    pool(groups).len() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violators_and_ties_are_pooled() {
        let margins = [3.0, 1.0, 2.0, 2.0, 0.0, -0.0, 4.0];
        let labels = [true, true, false, true, false, false, true];
        let curve = isotonic(&margins, &labels).unwrap();
        // At 0: none of two; at 1 and 2: two of three; at 3 and 4: all.
        let third = 2.0 / 3.0;
        let want = [
            [-0.0, 0.0],
            [1.0, third],
            [2.0, third],
            [3.0, 1.0],
            [4.0, 1.0],
        ];
        assert_eq!((&curve.knots[..], curve.rows), (&want[..], 7));
        for (s, rate) in [
            (-9.0, 0.0),
            (0.5, third / 2.0),
            (1.0, third),
            (2.5, (third + 1.0) / 2.0),
            (9.0, 1.0),
        ] {
            assert!((curve.rate(s) - rate).abs() < 1e-15, "{s}");
        }
        for (s, p) in [(-9.0, 1.0 / 9.0), (9.0, 8.0 / 9.0)] {
            assert!((curve.probability(s) - p).abs() < 1e-15, "{s}");
        }
    }
}
