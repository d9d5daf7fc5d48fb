//! Percentile bootstrap by unit, the same for any number of threads.

use super::Predictions;
use crate::counter::{below, bits};
use rayon::prelude::*;

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrap {
    /// Number of resamples: [`Bootstrap::RESAMPLES`] is usual.
    pub resamples: usize,
    /// Seed.
    pub seed: u64,
}

/// Level of the interval.
const LEVEL: f64 = 0.05;

impl Bootstrap {
    /// The usual number of resamples: the ends of a 95 % interval then move by about a tenth of its width from seed to
    /// seed.
    pub const RESAMPLES: usize = 2000;

    /// For each statistic, the 95 % percentile interval over resamples of whole units; none where it was defined in none
    /// of them. `statistics` takes row weights, and always returns as many.
    pub(super) fn intervals(
        self,
        units: &Units,
        statistics: impl Fn(&[u32]) -> Vec<Option<f64>> + Sync,
    ) -> Vec<Option<(f64, f64)>> {
        let resample = |weights: &mut Vec<u32>, index: usize| {
            units.draw(self.seed, index as u64, weights);
            statistics(weights)
        };
        let drawn: Vec<_> = (0..self.resamples)
            .into_par_iter()
            .map_init(|| vec![0; units.rows.len()], resample)
            .collect();
        let count = drawn.first().map_or(0, Vec::len);
        let interval = |d| percentiles(drawn.iter().filter_map(|values| values[d]).collect());
        (0..count).map(interval).collect()
    }
}

/// Which rows are drawn together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Units {
    /// Rows, unit by unit.
    rows: Vec<u32>,
    /// Where each unit ends in `rows`.
    ends: Vec<u32>,
}

impl Units {
    /// Units in the order of their numbers; rows without units in the order of a hash of what they hold. A draw then
    /// doesn't depend on the order of the rows: rows that hold the same are interchangeable.
    pub(super) fn new(predictions: &Predictions) -> Self {
        let key = |i: usize| match &predictions.units {
            Some(units) => units[i],
            None => fingerprint(predictions, i),
        };
        let keys = (0..predictions.n()).map(key).collect();
        Self::of_keys(keys, predictions.units.is_some())
    }

    /// Rows in the order of their keys, one of each row; rows of one key are one unit if `grouped`.
    pub(crate) fn of_keys(keys: Vec<u64>, grouped: bool) -> Self {
        let mut keyed: Vec<(u64, u32)> = keys.into_iter().zip(0..).collect();
        keyed.par_sort_unstable();
        let together = |end: usize| {
            grouped
                && keyed
                    .get(end)
                    .is_some_and(|next| next.0 == keyed[end - 1].0)
        };
        let ends = (1..=keyed.len()).filter(|end| !together(*end));
        Self {
            ends: ends.map(|end| end as u32).collect(),
            rows: keyed.iter().map(|(_, row)| *row).collect(),
        }
    }

    /// The number of units.
    pub(crate) fn count(&self) -> u64 {
        self.ends.len() as u64
    }

    /// The rows of each unit.
    pub(crate) fn each(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let bounds = starts.zip(&self.ends);
        bounds.map(|(start, end)| &self.rows[start as usize..*end as usize])
    }

    /// Weights of the rows in one resample: as many draws of a unit as there are units.
    pub(crate) fn draw(&self, seed: u64, resample: u64, weights: &mut [u32]) {
        weights.fill(0);
        let count = self.ends.len() as u64;
        for draw in 0..count {
            let unit = below(count, seed, resample, draw) as usize;
            let start = if unit == 0 { 0 } else { self.ends[unit - 1] };
            for row in &self.rows[start as usize..self.ends[unit] as usize] {
                weights[*row as usize] += 1;
            }
        }
    }
}

/// A hash of all that a row brings into a statistic.
fn fingerprint(predictions: &Predictions, i: usize) -> u64 {
    let answer = predictions.answers.as_ref().map_or(0, |answers| {
        answers[i].map_or(1, |answer| answer as u64 + 2)
    });
    let outcome = bits(
        predictions.labels[i] as u64,
        predictions.predicted[i] as u64,
        answer,
    );
    let numbers = predictions.row(i).iter().chain(&predictions.nll[i..=i]);
    numbers.fold(outcome, |hash, number| bits(hash, number.to_bits(), 0))
}

/// The ends of a 95 % percentile interval; none of nothing.
pub(crate) fn percentiles(mut values: Vec<f64>) -> Option<(f64, f64)> {
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

    fn predictions(units: Option<Vec<u64>>) -> Predictions {
        let p: Vec<f64> = (0..400).map(|i| f64::from(i) / 400.0).collect();
        let labels = (0..400).map(|i| usize::from(i % 3 == 0)).collect();
        let mut predictions = Predictions::from_positive_probabilities(&p, labels);
        predictions.units = units;
        predictions
    }

    #[test]
    fn the_interval_of_a_mean_has_its_width_and_grouping_widens_it() {
        let statistics = |weights: &[u32]| {
            let ones: u32 = weights[..200].iter().sum();
            vec![Some(
                f64::from(ones) / f64::from(weights.iter().sum::<u32>()),
            )]
        };
        let bootstrap = Bootstrap {
            resamples: Bootstrap::RESAMPLES,
            seed: 1,
        };
        let width = |units| {
            let (low, high) =
                bootstrap.intervals(&Units::new(&predictions(units)), statistics)[0].unwrap();
            high - low
        };
        // Normal theory: 2·1.96·√(¼/units).
        assert!((width(None) - 3.92 * 0.025).abs() < 0.008);
        let tens = (0..400).map(|i| i / 10).collect();
        assert!((width(Some(tens)) - 3.92 * 0.025 * 10.0_f64.sqrt()).abs() < 0.025);
    }

    #[test]
    fn units_are_whole_and_every_row_has_one() {
        let numbers: Vec<u64> = (0..400).map(|i| i * 7 % 13).collect();
        for units in [
            Units::new(&predictions(Some(numbers.clone()))),
            Units::new(&predictions(None)),
        ] {
            let mut rows = units.rows.clone();
            rows.sort_unstable();
            assert_eq!(rows, (0..400).collect::<Vec<u32>>());
        }
        let units = Units::new(&predictions(Some(numbers.clone())));
        assert_eq!(units.ends.len(), 13);
        let mut weights = vec![0; 400];
        units.draw(1, 0, &mut weights);
        for i in 13..400 {
            assert_eq!(
                weights[i],
                weights[i - 13],
                "rows of one unit are drawn together"
            );
        }
    }
}
