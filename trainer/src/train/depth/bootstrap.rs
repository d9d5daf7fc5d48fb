//! How far val_select's metrics would move on other images: its units, drawn again with replacement, the same draws for all
//! heads (Efron and Tibshirani 1993, percentile intervals).

use crate::{events::Metrics, random::Draw};
use stage1_core::{
    config::SelectionMetric,
    metrics::{Confusion, SurestFirst},
};
use std::collections::BTreeMap;

const RESAMPLES: usize = 1000;
/// Outside of a 95 % interval, on each side.
const TAIL: f64 = 0.025;

/// What a head says of val_select.
pub(super) struct Judged {
    pub(super) metrics: Metrics,
    /// The class of each row.
    pub(super) predicted: Vec<usize>,
    /// Negative log-likelihood of each row, in nats.
    pub(super) nll: Vec<f64>,
    /// By the largest probability.
    pub(super) surest_first: SurestFirst,
}

/// Draws of units, as how often each row comes.
pub(super) struct Resamples {
    labels: Vec<usize>,
    classes: usize,
    units: usize,
    /// Row → its unit, from 0.
    unit_of: Vec<usize>,
    seed: u64,
}

impl Resamples {
    pub(super) fn new(labels: Vec<usize>, units: &[u64], classes: usize, seed: u64) -> Self {
        let mut numbers = BTreeMap::new();
        let unit_of = units.iter().map(|unit| {
            let next = numbers.len();
            *numbers.entry(*unit).or_insert(next)
        });
        let unit_of = unit_of.collect();
        Self {
            labels,
            classes,
            units: numbers.len(),
            unit_of,
            seed,
        }
    }

    pub(super) fn images(&self) -> usize {
        self.labels.len()
    }

    pub(super) fn units(&self) -> usize {
        self.units
    }

    /// 95 % intervals of a head's metric, and of how far its score lies behind another's.
    pub(super) fn intervals(
        &self,
        metric: SelectionMetric,
        of: &Judged,
        best: &Judged,
    ) -> ([f64; 2], [f64; 2]) {
        let mut numbers = Draw::Resample.numbers(self.seed);
        let (mut values, mut behind) = (Vec::new(), Vec::new());
        for _ in 0..RESAMPLES {
            let mut times = vec![0u64; self.units];
            for _ in 0..self.units {
                times[numbers.below(self.units)] += 1;
            }
            let value = self.metric(metric, of, &times);
            values.push(value);
            behind.push(metric.score(self.metric(metric, best, &times)) - metric.score(value));
        }
        (interval(values), interval(behind))
    }

    fn metric(&self, metric: SelectionMetric, of: &Judged, times: &[u64]) -> f64 {
        if metric == SelectionMetric::Nll {
            let weight = |row: usize| times[self.unit_of[row]] as f64;
            let (sum, rows) = (0..self.labels.len()).fold((0.0, 0.0), |(sum, rows), row| {
                (sum + weight(row) * of.nll[row], rows + weight(row))
            });
            return sum / rows;
        }
        if metric == SelectionMetric::Augrc {
            let wrong = |row: usize| of.predicted[row] != self.labels[row];
            return of.surest_first.augrc(wrong, |row| times[self.unit_of[row]]);
        }
        let mut confusion = Confusion::new(self.classes);
        for (row, (&label, &predicted)) in self.labels.iter().zip(&of.predicted).enumerate() {
            confusion.add_times(label, predicted, times[self.unit_of[row]]);
        }
        match metric {
            SelectionMetric::Accuracy => confusion.accuracy(),
            SelectionMetric::BalancedAccuracy => confusion.balanced_accuracy(),
            SelectionMetric::F1 => confusion.f1_default(),
            SelectionMetric::Mcc | SelectionMetric::Augrc | SelectionMetric::Nll => confusion.mcc(),
        }
    }
}

fn interval(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[(share * (values.len() - 1) as f64).round() as usize];
    [at(TAIL), at(1.0 - TAIL)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(predicted: Vec<usize>) -> Judged {
        Judged {
            metrics: Metrics::new(),
            nll: vec![0.5; predicted.len()],
            surest_first: SurestFirst::new(
                &(0..predicted.len())
                    .map(|row| row as f64)
                    .collect::<Vec<_>>(),
            ),
            predicted,
        }
    }

    #[test]
    fn intervals_are_as_wide_as_the_binomial_says_and_wider_for_few_units() {
        let labels: Vec<usize> = (0..400).map(|row| row % 2).collect();
        // Every fifth row of each class is wrong.
        let predicted = (0..400).map(|row| (row % 2) ^ usize::from(row / 2 % 5 == 0));
        let head = judged(predicted.collect());
        let alone: Vec<u64> = (0..400).collect();
        // Units of ten rows that are right or wrong together.
        let together: Vec<u64> = (0..400).map(|row| row / 2 % 5 * 8 + row / 50).collect();
        let width = |units: &[u64]| {
            let resamples = Resamples::new(labels.clone(), units, 2, 1);
            let accuracy = SelectionMetric::Accuracy;
            let ([low, high], behind) = resamples.intervals(accuracy, &head, &head);
            assert!(low < 0.8 && 0.8 < high, "{low} {high}");
            let widest = behind[0].abs().max(behind[1].abs());
            assert!(widest < 1e-12, "a head isn't behind itself: {behind:?}");
            high - low
        };
        // 2 · 1.96 · √(0.8 · 0.2 / n), within a tenth: the percentiles of a thousand resamples.
        let want = |n: f64| 2.0 * 1.96 * (0.16 / n).sqrt();
        for (units, n) in [(&alone, 400.0), (&together, 40.0)] {
            let got = width(units);
            assert!((got / want(n) - 1.0).abs() < 0.15, "{got} for {}", want(n));
        }
    }

    #[test]
    fn lower_likelihoods_lie_behind() {
        let labels = vec![0, 1, 0, 1];
        let (good, mut bad) = (judged(labels.clone()), judged(labels.clone()));
        bad.nll = vec![0.75; 4];
        let resamples = Resamples::new(labels, &[0, 1, 2, 3], 2, 1);
        let (value, behind) = resamples.intervals(SelectionMetric::Nll, &bad, &good);
        for (got, want) in value.iter().chain(&behind).zip([0.75, 0.75, 0.25, 0.25]) {
            assert!((got - want).abs() < 1e-12, "{got} for {want}");
        }
    }

    #[test]
    fn an_error_that_is_sure_of_itself_lies_behind() {
        // The last row is the surest one: wrong there, or in the first.
        let labels = vec![0, 1, 0, 1];
        let (good, bad) = (judged(vec![1, 1, 0, 1]), judged(vec![0, 1, 0, 0]));
        let resamples = Resamples::new(labels, &[0, 1, 2, 3], 2, 1);
        let augrc = |of| resamples.metric(SelectionMetric::Augrc, of, &[1; 4]);
        assert!((augrc(&good) - 0.5 / 16.0).abs() < 1e-15);
        assert!((augrc(&bad) - 3.5 / 16.0).abs() < 1e-15);
        let (_, behind) = resamples.intervals(SelectionMetric::Augrc, &bad, &good);
        assert!(behind[1] > 0.1, "{behind:?}");
    }
}
