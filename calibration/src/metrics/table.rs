//! All metrics at once.

use super::prepared::Prepared;
use super::{Bootstrap, Predictions};
use crate::metrics::bootstrap::Units;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

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
pub type Table = BTreeMap<Cow<'static, str>, Option<Metric>>;

/// Where the curve of risk over coverage is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Levels {
    /// Risks r of `coverage_at_risk_<r>`, from 0 to 1.
    pub risks: Vec<f64>,
    /// Coverages c of `risk_at_coverage_<c>`, from 0 to 1.
    pub coverages: Vec<f64>,
}

impl Default for Levels {
    /// Coverage at a risk of 5 %, risk at a coverage of 80 %.
    fn default() -> Self {
        Self {
            risks: vec![0.05],
            coverages: vec![0.8],
        }
    }
}

/// Name patterns of what only describes the rows at hand, and why it says less of others.
const DESCRIPTIVE: [(&str, &str); 7] = [
    ("ece", PLUG_IN),
    ("ece_equal_mass", PLUG_IN),
    ("ece_classwise", PLUG_IN),
    ("smooth_ece", PLUG_IN),
    (
        "brier_*",
        "a part of the plug-in decomposition: biased for few rows",
    ),
    ("coverage_at_risk_*", SAME_ROWS),
    ("risk_at_coverage_*", SAME_ROWS),
];
const PLUG_IN: &str = "a plug-in error: biased upward for few rows";
const SAME_ROWS: &str =
    "its threshold is found on the rows that it describes; `calibrate` certifies one";

/// Why the metric `name` is descriptive only; none if it estimates what it names without a systematic error to speak of.
/// No metric is a guarantee: that is a certificate's business.
pub fn caveat(name: &str) -> Option<&'static str> {
    let is = |pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    DESCRIPTIVE
        .iter()
        .find(|(pattern, _)| is(pattern))
        .map(|(_, why)| *why)
}

/// Computes all metrics at the default [`Levels`]; `coverage` and `selective_risk` only where a policy answered.
///
/// With a bootstrap, metrics get intervals, except plug-in calibration errors and the parts of the Brier score: a
/// resample of few rows is biased as they are, once more, so that its percentiles lie beside the truth. `ece_debiased`
/// has an interval.
pub fn compute(predictions: &Predictions, bootstrap: Option<Bootstrap>) -> Table {
    compute_at(predictions, bootstrap, &Levels::default())
}

/// As [`compute`], at other levels.
pub fn compute_at(
    predictions: &Predictions,
    bootstrap: Option<Bootstrap>,
    levels: &Levels,
) -> Table {
    let prepared = Prepared::new(predictions, levels, bootstrap.is_some());
    let (estimates, described) = rayon::join(|| prepared.estimates(), || prepared.described());
    let intervals = match bootstrap {
        None => vec![None; estimates.len()],
        Some(bootstrap) => bootstrap.intervals(&Units::new(predictions), |weights| {
            prepared.resampled(weights)
        }),
    };
    let with_interval = estimates
        .into_iter()
        .zip(intervals)
        .map(|((name, estimate), interval)| (name, metric(estimate, interval)));
    let plain = described
        .into_iter()
        .map(|(name, value)| (name, value.map(Metric::Number)));
    with_interval.chain(plain).collect()
}

fn metric(estimate: Option<f64>, interval: Option<(f64, f64)>) -> Option<Metric> {
    match (estimate?, interval) {
        (estimate, Some((low, high))) => Some(Metric::Interval {
            estimate,
            low,
            high,
        }),
        (estimate, None) => Some(Metric::Number(estimate)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::uniform;
    use crate::testing::{binary_set, multi_set};
    use stage1_core::artifact::Digest;
    use stage1_core::logits::LogitSet;
    use stage1_core::policy::{Calibrator, Policy, Score, Threshold};

    #[test]
    fn estimates_have_intervals_and_plug_in_errors_do_not() {
        let predictions = Predictions::from_logits(&multi_set(600, 1), None).unwrap();
        let bootstrap = Bootstrap {
            resamples: 200,
            seed: 1,
        };
        let table = compute(&predictions, Some(bootstrap));
        assert_eq!(table.len(), 25, "{table:?}");
        for (name, metric) in table {
            let plain =
                name.contains("ece") && name != "ece_debiased" || name.starts_with("brier_");
            match metric.unwrap() {
                Metric::Number(value) => assert!(plain && value.is_finite(), "{name}"),
                Metric::Interval {
                    estimate,
                    low,
                    high,
                } => assert!(
                    !plain && low <= estimate && estimate <= high,
                    "{name} {metric:?}"
                ),
            }
            assert_eq!(
                caveat(&name).is_some(),
                plain || name.contains("_at_"),
                "{name}"
            );
        }
    }

    #[test]
    fn the_interval_of_the_debiased_error_holds_the_truth() {
        // Rows of one confidence, ¾, with half of them right: the error is ¼. And calibrated ones: it is 0.
        for (rate, want) in [(0.5, 0.25), (0.75, 0.0)] {
            let held = (0..100).filter(|seed| {
                let labels = (0..300)
                    .map(|i| usize::from(uniform(*seed, i, 0) < rate))
                    .collect();
                let predictions = Predictions::from_positive_probabilities(&[0.75; 300], labels);
                let bootstrap = Bootstrap {
                    resamples: 200,
                    seed: 5,
                };
                let Some(Metric::Interval { low, high, .. }) =
                    compute(&predictions, Some(bootstrap))["ece_debiased"]
                else {
                    panic!("no interval")
                };
                low <= want && want <= high
            });
            // Of 100 intervals at 95 %, fewer than 86 hold the truth with chance 1e-4.
            assert!(held.count() >= 86, "{rate}");
        }
    }

    #[test]
    fn parts_add_up_to_the_brier_score() {
        for predictions in [
            Predictions::from_logits(&multi_set(20_000, 4), None).unwrap(),
            Predictions::from_logits(&binary_set(20_000, 4), None).unwrap(),
        ] {
            let table = compute(&predictions, None);
            let of = |name: &str| table[name].unwrap().estimate();
            let binned = of("brier_reliability") - of("brier_resolution")
                + of("brier_uncertainty")
                + of("brier_within_bin_variance")
                - of("brier_within_bin_covariance");
            let isotonic =
                of("brier_miscalibration") - of("brier_discrimination") + of("brier_uncertainty");
            for sum in [binned, isotonic] {
                assert!((sum - of("brier")).abs() < 1e-12, "{sum} {}", of("brier"));
            }
        }
    }

    #[test]
    fn levels_name_their_metrics() {
        let predictions = Predictions::from_logits(&multi_set(100, 1), None).unwrap();
        let levels = Levels {
            risks: vec![0.1, 0.0],
            coverages: vec![1.0],
        };
        let table = compute_at(&predictions, None, &levels);
        let names: Vec<_> = table.keys().filter(|name| name.contains("_at_")).collect();
        assert_eq!(
            names,
            [
                "coverage_at_risk_0",
                "coverage_at_risk_0.1",
                "risk_at_coverage_1"
            ]
        );
        let error = 1.0 - table["accuracy"].unwrap().estimate();
        assert!((table["risk_at_coverage_1"].unwrap().estimate() - error).abs() < 1e-15);
    }

    /// Sets that break what isn't careful, by name.
    fn hostile() -> Vec<(&'static str, LogitSet)> {
        let set = |classes: usize, rows: &[(&[f32], i64)]| LogitSet {
            classes,
            logits: rows.iter().flat_map(|row| row.0).copied().collect(),
            labels: rows.iter().map(|row| row.1).collect(),
            ..LogitSet::default()
        };
        let (huge, most) = (1e30_f32, f32::MAX);
        vec![
            ("no rows", set(3, &[])),
            ("one row, right", set(2, &[(&[0.0, 1.0], 1)])),
            ("one row, wrong", set(5, &[(&[0.0, 1.0, 2.0, 3.0, 4.0], 0)])),
            (
                "one class of many",
                set(4, &[(&[0.0, 1.0, 2.0, 3.0], 3), (&[1.0, 0.0, 0.0, 0.0], 3)]),
            ),
            (
                "all tied",
                set(
                    3,
                    &[
                        (&[0.0; 3], 0),
                        (&[0.0; 3], 1),
                        (&[0.0; 3], 2),
                        (&[0.0; 3], 0),
                    ],
                ),
            ),
            (
                "huge and right",
                set(3, &[(&[huge, -huge, 0.0], 0), (&[-huge, huge, 0.0], 1)]),
            ),
            (
                "huge and wrong",
                set(3, &[(&[huge, -huge, 0.0], 1), (&[-huge, huge, 0.0], 0)]),
            ),
            (
                "largest there are",
                set(
                    2,
                    &[(&[most, -most], 1), (&[-most, most], 0), (&[most, most], 0)],
                ),
            ),
            (
                "two right, one wrong, two classes",
                set(2, &[(&[0.0, 2.0], 1), (&[0.0, -2.0], 0), (&[0.0, 1.0], 0)]),
            ),
        ]
    }

    #[test]
    fn everything_is_finite_or_null() {
        let bootstrap = Some(Bootstrap {
            resamples: 50,
            seed: 1,
        });
        for (name, set) in hostile() {
            for units in [None, Some(vec![7; set.n()])] {
                let set = LogitSet {
                    units,
                    ..set.clone()
                };
                let table = compute(&Predictions::from_logits(&set, None).unwrap(), bootstrap);
                for (metric, value) in &table {
                    let numbers = match value {
                        None => vec![],
                        Some(Metric::Number(value)) => vec![*value],
                        Some(Metric::Interval {
                            estimate,
                            low,
                            high,
                        }) => vec![*estimate, *low, *high],
                    };
                    assert!(
                        numbers.iter().all(|x| x.is_finite()),
                        "{name}: {metric} {value:?}"
                    );
                }
                let missing = table.values().filter(|value| value.is_none()).count();
                assert!(set.n() > 0 || missing == table.len(), "{name}: {table:?}");
                assert!(
                    set.n() == 0 || missing <= 2,
                    "{name}: only the ranks may miss a class: {table:?}"
                );
            }
        }
    }

    #[test]
    fn the_order_of_rows_changes_nothing() {
        for units in [None, Some((0..400).map(|i| i % 37).collect::<Vec<u64>>())] {
            let mut set = multi_set(400, 3);
            // Coarse logits: many ties, and rows that hold the same.
            set.logits.iter_mut().for_each(|z| *z = z.round());
            set.units = units;
            let shuffled = set.subset(&(0..400).map(|i| i * 171 % 400).rev().collect::<Vec<_>>());
            let bootstrap = Some(Bootstrap {
                resamples: 40,
                seed: 9,
            });
            let of = |set| compute(&Predictions::from_logits(set, None).unwrap(), bootstrap);
            for ((name, one), other) in of(&set).iter().zip(of(&shuffled).values()) {
                let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{name}: {a} {b}");
                match (one.unwrap(), other.unwrap()) {
                    (Metric::Number(a), Metric::Number(b)) => near(a, b),
                    (
                        Metric::Interval {
                            estimate,
                            low,
                            high,
                        },
                        Metric::Interval {
                            estimate: e,
                            low: l,
                            high: h,
                        },
                    ) => {
                        near(estimate, e);
                        near(low, l);
                        near(high, h);
                    }
                    (one, other) => panic!("{name}: {one:?} {other:?}"),
                }
            }
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
        let of = |set: &LogitSet| compute(&Predictions::from_logits(set, None).unwrap(), bootstrap);
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
