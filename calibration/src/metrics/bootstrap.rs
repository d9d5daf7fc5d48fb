//! Percentile bootstrap by unit, the same for any number of threads.

use crate::counter::below;
use rayon::prelude::*;

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrap {
    /// Number of resamples; 2,000 is usual.
    pub resamples: usize,
    /// Seed.
    pub seed: u64,
}

/// Level of the interval.
const LEVEL: f64 = 0.05;

impl Bootstrap {
    /// For each statistic, the 95 % percentile interval over resamples of whole units; none where it was defined in none
    /// of them. `rows_of` lists the rows of each unit, `statistics` takes row weights.
    pub(super) fn intervals<const D: usize>(
        self,
        n: usize,
        rows_of: &[Vec<u32>],
        statistics: impl Fn(&[u32]) -> [Option<f64>; D] + Sync,
    ) -> [Option<(f64, f64)>; D] {
        let resample = |weights: &mut Vec<u32>, index: usize| {
            weights.fill(0);
            for draw in 0..rows_of.len() as u64 {
                let unit = below(rows_of.len() as u64, self.seed, index as u64, draw);
                for row in &rows_of[unit as usize] {
                    weights[*row as usize] += 1;
                }
            }
            statistics(weights)
        };
        let drawn: Vec<_> = (0..self.resamples)
            .into_par_iter()
            .map_init(|| vec![0; n], resample)
            .collect();
        std::array::from_fn(|d| percentiles(drawn.iter().filter_map(|values| values[d]).collect()))
    }
}

fn percentiles(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_unstable_by(f64::total_cmp);
    (!values.is_empty()).then(|| {
        (
            quantile(&values, LEVEL / 2.0),
            quantile(&values, 1.0 - LEVEL / 2.0),
        )
    })
}

/// Linear between order statistics (NumPy's default).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_linear_between_values() {
        assert!((quantile(&[1.0, 2.0, 4.0], 0.75) - 3.0).abs() < 1e-15);
        assert!((quantile(&[5.0], 0.025) - 5.0).abs() < 1e-15);
        assert_eq!(percentiles(vec![]), None);
    }

    #[test]
    fn the_interval_of_a_mean_has_its_width_and_grouping_widens_it() {
        let n = 400;
        let statistics = |weights: &[u32]| {
            let ones: u32 = weights[..n / 2].iter().sum();
            [Some(
                f64::from(ones) / f64::from(weights.iter().sum::<u32>()),
            )]
        };
        let single: Vec<Vec<u32>> = (0..n as u32).map(|i| vec![i]).collect();
        let grouped: Vec<Vec<u32>> = (0..n as u32 / 10)
            .map(|g| (10 * g..10 * g + 10).collect())
            .collect();
        let bootstrap = Bootstrap {
            resamples: 2000,
            seed: 1,
        };
        let width = |rows: &[Vec<u32>]| {
            let [interval] = bootstrap.intervals(n, rows, statistics);
            let (low, high) = interval.unwrap();
            high - low
        };
        // Normal theory: 2·1.96·√(¼/units).
        assert!((width(&single) - 3.92 * 0.025).abs() < 0.008);
        assert!((width(&grouped) - 3.92 * 0.025 * 10.0_f64.sqrt()).abs() < 0.025);
    }
}
