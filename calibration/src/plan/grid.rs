//! Thresholds at equally spaced answered shares, strict to lax, stored as values that occur.

use stage1_core::policy::Threshold;

/// Thresholds in a plan, at most.
const CANDIDATES: usize = 50;
/// Values on either side of a plan for several constraints.
const SIDE: usize = 20;

/// One-sided thresholds on `scores`.
pub(crate) fn one_sided(scores: &[f64]) -> Vec<Threshold> {
    let strict_to_lax = spaced(scores.to_vec(), CANDIDATES);
    strict_to_lax
        .into_iter()
        .map(|at_least| Threshold::OneSided { at_least })
        .collect()
}

/// A nested family of two-sided thresholds: those margins are answered that lie at least u from `centre`. Stored are
/// the margins themselves that are nearest to the centre among those (centre ± u on a side that has none).
pub(super) fn two_sided(margins: &[f64], centre: f64) -> Vec<Threshold> {
    let distances = margins.iter().map(|s| (s - centre).abs()).collect();
    spaced(distances, CANDIDATES)
        .into_iter()
        .map(|u| around(margins, centre, u))
        .collect()
}

fn around(margins: &[f64], centre: f64, u: f64) -> Threshold {
    let far = || {
        margins
            .iter()
            .copied()
            .filter(move |s| (s - centre).abs() >= u)
    };
    let nearest_above = far().filter(|s| *s >= centre).reduce(f64::min);
    let nearest_below = far().filter(|s| *s < centre).reduce(f64::max);
    let high = nearest_above.unwrap_or(centre + u);
    // `centre - u` equals `high` when u vanishes beside the centre.
    let low = nearest_below.unwrap_or(centre - u).min(high.next_down());
    Threshold::TwoSided { low, high }
}

/// Every pair of one threshold on either side, low < high: constraints of one class move one side alone.
pub(super) fn pairs(margins: &[f64]) -> Vec<Threshold> {
    let highs = spaced(margins.to_vec(), SIDE);
    let mirrored = margins.iter().map(|s| -s).collect();
    let lows: Vec<f64> = spaced(mirrored, SIDE).into_iter().map(|s| -s).collect();
    let pairs = highs
        .iter()
        .flat_map(|high| lows.iter().map(move |low| (*low, *high)));
    let apart: Vec<Threshold> = pairs
        .filter(|(low, high)| low < high)
        .map(|(low, high)| Threshold::TwoSided { low, high })
        .collect();
    // Nobody is deferred: the low side ends where the high side begins.
    let whole = highs.iter().map(|high| Threshold::TwoSided {
        low: high.next_down(),
        high: *high,
    });
    apart.into_iter().chain(whole).collect()
}

/// Distinct values, falling, at the answered shares 1/steps, 2/steps, … 1; whole tie groups go together.
fn spaced(mut values: Vec<f64>, steps: usize) -> Vec<f64> {
    values.sort_unstable_by(|x, y| y.total_cmp(x));
    let n = values.len();
    let mut grid: Vec<f64> = (1..=steps)
        .map(|j| values[(j * n).div_ceil(steps) - 1])
        .collect();
    grid.dedup();
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_equally_spaced_and_values_distinct() {
        let scores: Vec<f64> = (0..200).map(f64::from).collect();
        let grid = spaced(scores, 50);
        assert_eq!(grid.len(), 50);
        assert_eq!((grid[0], grid[1], grid[49]), (196.0, 192.0, 0.0));
        assert_eq!(spaced(vec![0.5; 30], 50), [0.5]);
        assert_eq!(spaced(vec![2.0, 1.0, 2.0], 50), [2.0, 1.0]);
    }

    #[test]
    fn two_sided_thresholds_answer_exactly_the_far_margins() {
        let margins = [-3.0, -1.0, 0.5, 0.7, 4.0];
        let of = |u| around(&margins, 0.5, u);
        assert_eq!(
            of(0.0),
            Threshold::TwoSided {
                low: -1.0,
                high: 0.5
            }
        );
        assert_eq!(
            of(1.5),
            Threshold::TwoSided {
                low: -1.0,
                high: 4.0
            }
        );
        assert_eq!(
            of(3.5),
            Threshold::TwoSided {
                low: -3.0,
                high: 4.0
            }
        );
    }

    #[test]
    fn one_sided_data_still_has_two_sided_thresholds() {
        for (margins, centre) in [
            (vec![1.0, 2.0], 0.0),
            (vec![-1.0, -2.0], 0.0),
            (vec![0.0], 0.0),
            (vec![1.0], 1e300),
        ] {
            for threshold in two_sided(&margins, centre) {
                let Threshold::TwoSided { low, high } = threshold else {
                    panic!("{threshold:?}")
                };
                assert!(
                    low.is_finite() && high.is_finite() && low < high,
                    "{margins:?} {threshold:?}"
                );
            }
        }
    }

    #[test]
    fn pairs_never_cross_and_some_of_them_defer_nothing() {
        let margins: Vec<f64> = (-50..50).map(f64::from).collect();
        let pairs = pairs(&margins);
        let deferred = |threshold: &Threshold| {
            let Threshold::TwoSided { low, high } = *threshold else {
                panic!("{threshold:?}")
            };
            assert!(low < high, "{threshold:?}");
            margins.iter().filter(|s| **s > low && **s < high).count()
        };
        let deferred: Vec<usize> = pairs.iter().map(deferred).collect();
        assert!(deferred.iter().filter(|n| **n == 0).count() >= 20);
        assert!(deferred.iter().any(|n| *n > 80));
    }
}
