//! All metrics at once.

use super::calibration_error::{Bins, bin_errors};
use super::selective::areas;
use super::{Bootstrap, Predictions, Ranking};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stage1_core::metrics::Confusion;
use std::collections::BTreeMap;

/// Bins of `ece`.
const BINS: usize = 15;

/// A metric: a number, or a number with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Metric {
    /// Without an interval.
    Number(f64),
    /// With a 95 % percentile bootstrap interval.
    Interval {
        /// On the rows themselves.
        estimate: f64,
        /// 2.5th percentile.
        low: f64,
        /// 97.5th percentile.
        high: f64,
    },
}

impl Metric {
    /// The number.
    pub fn estimate(&self) -> f64 {
        match *self {
            Self::Number(estimate) | Self::Interval { estimate, .. } => estimate,
        }
    }
}

/// Metrics by name; `null` where one isn't defined (no rows, one class only, nothing answered).
pub type Table = BTreeMap<&'static str, Option<Metric>>;

const NAMES: [&str; 14] = [
    "accuracy",
    "balanced_accuracy",
    "mcc",
    "f1",
    "auroc",
    "average_precision",
    "nll",
    "brier",
    "ece",
    "aurc",
    "e_aurc",
    "augrc",
    "coverage",
    "selective_risk",
];

/// Computes all metrics; `coverage` and `selective_risk` only where a policy answered.
pub fn compute(predictions: &Predictions, bootstrap: Option<Bootstrap>) -> Table {
    let prepared = Prepared::new(predictions);
    let estimates = prepared.statistics(&vec![1; predictions.n()]);
    let intervals = match bootstrap {
        None => [None; NAMES.len()],
        Some(bootstrap) => {
            let rows_of = rows_of_units(predictions);
            bootstrap.intervals(predictions.n(), &rows_of, |weights| {
                prepared.statistics(weights)
            })
        }
    };
    let metrics = estimates
        .into_iter()
        .zip(intervals)
        .map(|(estimate, interval)| match (estimate, interval) {
            (Some(estimate), Some((low, high))) => Some(Metric::Interval {
                estimate,
                low,
                high,
            }),
            (estimate, _) => estimate.map(Metric::Number),
        });
    let named = NAMES.into_iter().zip(metrics);
    let answered = predictions.answers.is_some();
    named
        .filter(|(name, _)| answered || !matches!(*name, "coverage" | "selective_risk"))
        .collect()
}

/// Units in the order of their numbers: the draw must not depend on the order of rows.
fn rows_of_units(predictions: &Predictions) -> Vec<Vec<u32>> {
    let mut rows: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for i in 0..predictions.n() {
        let unit = predictions
            .units
            .as_ref()
            .map_or(i as u64, |units| units[i]);
        rows.entry(unit).or_default().push(i as u32);
    }
    rows.into_values().collect()
}

/// What doesn't depend on row weights.
struct Prepared<'a> {
    predictions: &'a Predictions,
    wrong: Vec<bool>,
    right: Vec<bool>,
    confidence: Vec<f64>,
    bins: Bins,
    by_confidence: Ranking,
    brier: Vec<f64>,
    /// Of each class that is ranked: class 1 of two, else all.
    classes: Vec<(Ranking, Vec<bool>)>,
}

impl<'a> Prepared<'a> {
    fn new(predictions: &'a Predictions) -> Self {
        let confidence = predictions.confidence();
        let wrong = predictions.wrong();
        let ranked = if predictions.classes == 2 {
            1..2
        } else {
            0..predictions.classes
        };
        let rank = |k: usize| {
            (
                Ranking::new(&predictions.of_class(k)),
                predictions.is_class(k),
            )
        };
        Self {
            predictions,
            right: wrong.iter().map(|wrong| !wrong).collect(),
            wrong,
            bins: Bins::equal_width(&confidence, BINS),
            by_confidence: Ranking::new(&confidence),
            confidence,
            brier: predictions.brier(),
            classes: ranked.into_par_iter().map(rank).collect(),
        }
    }

    /// In the order of `NAMES`.
    fn statistics(&self, weights: &[u32]) -> [Option<f64>; NAMES.len()] {
        let confusion = self.confusion(weights);
        let defined = |value: f64| (confusion.total() > 0).then_some(value);
        let areas = areas(&self.by_confidence, &self.wrong, weights);
        let (coverage, risk) = self.answered(weights);
        [
            defined(confusion.accuracy()),
            defined(confusion.balanced_accuracy()),
            defined(confusion.mcc()),
            defined(confusion.f1_default()),
            self.over_classes(|ranking, is| ranking.auroc(is, weights)),
            self.over_classes(|ranking, is| ranking.average_precision(is, weights)),
            mean(&self.predictions.nll, weights),
            mean(&self.brier, weights),
            bin_errors(&self.bins, &self.confidence, &self.right, weights).map(|errors| errors.ece),
            areas.map(|areas| areas.aurc),
            areas.map(|areas| areas.e_aurc),
            areas.map(|areas| areas.augrc),
            coverage,
            risk,
        ]
    }

    fn confusion(&self, weights: &[u32]) -> Confusion {
        let mut confusion = Confusion::new(self.predictions.classes);
        let rows = self
            .predictions
            .labels
            .iter()
            .zip(&self.predictions.predicted)
            .zip(weights);
        for ((label, predicted), weight) in rows {
            for _ in 0..*weight {
                confusion.add(*label, *predicted);
            }
        }
        confusion
    }

    /// The mean over ranked classes for which the statistic is defined.
    fn over_classes(&self, statistic: impl Fn(&Ranking, &[bool]) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self
            .classes
            .iter()
            .filter_map(|(ranking, is)| statistic(ranking, is))
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// Coverage and selective risk of the policy's answers.
    fn answered(&self, weights: &[u32]) -> (Option<f64>, Option<f64>) {
        let Some(answers) = &self.predictions.answers else {
            return (None, None);
        };
        let (mut all, mut answered, mut wrong) = (0u64, 0u64, 0u64);
        for ((answer, label), weight) in answers.iter().zip(&self.predictions.labels).zip(weights) {
            let weight = u64::from(*weight);
            all += weight;
            answered += if answer.is_some() { weight } else { 0 };
            wrong += if answer.is_some_and(|answer| answer != *label) {
                weight
            } else {
                0
            };
        }
        let ratio = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        (ratio(answered, all), ratio(wrong, answered))
    }
}

fn mean(values: &[f64], weights: &[u32]) -> Option<f64> {
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let sum: f64 = values
        .iter()
        .zip(weights)
        .map(|(value, weight)| value * f64::from(*weight))
        .sum();
    (total > 0).then(|| sum / total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{binary_set, multi_set};
    use stage1_core::artifact::Digest;
    use stage1_core::policy::{Calibrator, Policy, Score, Threshold};

    #[test]
    fn names_are_those_of_the_field_and_intervals_hold_the_estimate() {
        let set = multi_set(600, 1);
        let predictions = Predictions::from_logits(&set, None).unwrap();
        let table = compute(
            &predictions,
            Some(Bootstrap {
                resamples: 200,
                seed: 1,
            }),
        );
        assert_eq!(table.len(), 12, "no coverage without a policy");
        for (name, metric) in table {
            let Some(Metric::Interval {
                estimate,
                low,
                high,
            }) = metric
            else {
                panic!("{name}: {metric:?}")
            };
            assert!(low <= high, "{name}");
            // ECE is biased upward in resamples: its interval needn't hold the estimate.
            assert!(
                name == "ece" || (low <= estimate && estimate <= high),
                "{name} {metric:?}"
            );
        }
    }

    #[test]
    fn a_policy_adds_coverage_and_risk() {
        let set = binary_set(500, 1);
        let threshold = Threshold::TwoSided {
            low: -6.0,
            high: 4.0,
        };
        let policy = Policy::new(
            2,
            Score::BinaryMargin,
            threshold,
            Calibrator::None,
            Digest::of_bytes(b""),
        );
        let table = compute(
            &Predictions::from_logits(&set, Some(&policy)).unwrap(),
            None,
        );
        let margins: Vec<f32> = (0..500).map(|i| set.row(i)[1]).collect();
        let answered = margins.iter().filter(|s| **s >= 4.0 || **s <= -6.0).count();
        let wrong = (0..500)
            .filter(|i| {
                (margins[*i] >= 4.0 && set.labels[*i] == 0)
                    || (margins[*i] <= -6.0 && set.labels[*i] == 1)
            })
            .count();
        assert_eq!(
            table["coverage"],
            Some(Metric::Number(answered as f64 / 500.0))
        );
        assert_eq!(
            table["selective_risk"],
            Some(Metric::Number(wrong as f64 / answered as f64))
        );
        assert_eq!(
            serde_json::to_value(table["coverage"]).unwrap(),
            serde_json::json!(answered as f64 / 500.0)
        );
    }

    #[test]
    fn what_is_not_defined_is_null() {
        let empty = Predictions::from_logits(&multi_set(0, 1), None).unwrap();
        assert!(compute(&empty, None).values().all(Option::is_none));
        let one_class = Predictions::from_positive_probabilities(&[0.2, 0.9], vec![1, 1]);
        let table = compute(&one_class, None);
        assert_eq!(
            (table["auroc"], table["accuracy"]),
            (None, Some(Metric::Number(0.5)))
        );
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let set = multi_set(300, 2);
        let bootstrap = Some(Bootstrap {
            resamples: 50,
            seed: 3,
        });
        let of = |set: &stage1_core::logits::LogitSet| {
            compute(&Predictions::from_logits(set, None).unwrap(), bootstrap)
        };
        let alone = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap()
            .install(|| of(&set));
        let several = rayon::ThreadPoolBuilder::new()
            .num_threads(3)
            .build()
            .unwrap()
            .install(|| of(&set));
        assert_eq!(alone, several);
    }
}
