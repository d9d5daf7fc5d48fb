//! What stops a training that has collapsed: it would go on for days, and leave a backbone that knows nothing.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use stage1_core::config::GuardsConfig;
use std::collections::BTreeMap;

/// What of the average stays at each step: it is over about the last ten.
const KEPT: f64 = 0.9;

/// The entropy of the teacher's mean answer.
pub(crate) const BATCH_ENTROPY: &str = "batch_entropy";
/// The mean entropy of the teacher's targets.
pub(crate) const SAMPLE_ENTROPY: &str = "sample_entropy";
/// How much class tokens differ.
pub(crate) const FEATURE_DEVIATION: &str = "feature_deviation";

/// Averages of what is watched.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Guard {
    steps: usize,
    averages: BTreeMap<String, f64>,
}

/// A measure and its limit.
struct Limit {
    measure: &'static str,
    holds: fn(f64, f64) -> bool,
    limit: f64,
    key: &'static str,
    what: &'static str,
    advice: &'static str,
}

impl Guard {
    /// Takes in a step's measures.
    ///
    /// # Errors
    /// [`Error::Collapsed`] when an average is beyond its limit.
    pub(crate) fn check(
        &mut self,
        measures: &BTreeMap<String, f64>,
        config: &GuardsConfig,
        (epoch, step): (usize, usize),
    ) -> Result<()> {
        self.steps += 1;
        for limit in limits(config) {
            let value = measures[limit.measure];
            let average = self
                .averages
                .entry(limit.measure.to_owned())
                .and_modify(|average| *average = KEPT * *average + (1.0 - KEPT) * value)
                .or_insert(value);
            if self.steps > config.after_steps && !(limit.holds)(*average, limit.limit) {
                return Err(Error::Collapsed {
                    what: limit.what,
                    measure: limit.measure,
                    value: *average,
                    key: limit.key,
                    limit: limit.limit,
                    epoch,
                    step: step + 1,
                    advice: limit.advice,
                });
            }
        }
        Ok(())
    }
}

fn limits(config: &GuardsConfig) -> [Limit; 3] {
    let at_least = |value: f64, limit: f64| value >= limit;
    let at_most = |value: f64, limit: f64| value <= limit;
    [
        Limit {
            measure: FEATURE_DEVIATION,
            holds: at_least,
            limit: config.min_feature_deviation,
            key: "min_feature_deviation",
            what: "the teacher's class tokens are nearly the same for all images",
            advice: "lower `explora.learning_rate`, raise `explora.teacher_momentum` or `explora.loss.koleo`, and check that the \
                     images differ",
        },
        Limit {
            measure: BATCH_ENTROPY,
            holds: at_least,
            limit: config.min_batch_entropy,
            key: "min_batch_entropy",
            what: "the teacher gives all images to the same few prototypes",
            advice: "keep `explora.sinkhorn_iterations` at 3, lower `explora.learning_rate`, raise `explora.teacher_momentum` or \
                     the teacher's temperatures",
        },
        Limit {
            measure: SAMPLE_ENTROPY,
            holds: at_most,
            limit: config.max_sample_entropy,
            key: "max_sample_entropy",
            what: "the teacher's answers are uniform, and say nothing about an image",
            advice: "lower the teacher's temperatures or `explora.learning_rate`, and check that the images differ",
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measures(batch: f64, sample: f64, deviation: f64) -> BTreeMap<String, f64> {
        [
            (BATCH_ENTROPY, batch),
            (SAMPLE_ENTROPY, sample),
            (FEATURE_DEVIATION, deviation),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    #[test]
    fn each_collapse_is_told_with_value_limit_and_advice() {
        let config = GuardsConfig {
            after_steps: 2,
            ..GuardsConfig::default()
        };
        let cases = [
            ("fine", measures(0.5, 0.5, 0.5), None),
            (
                "one prototype",
                measures(0.01, 0.5, 0.5),
                Some("min_batch_entropy"),
            ),
            (
                "uniform",
                measures(0.5, 1.0, 0.5),
                Some("max_sample_entropy"),
            ),
            (
                "one direction",
                measures(0.5, 0.5, 0.001),
                Some("min_feature_deviation"),
            ),
            (
                "no number",
                measures(0.5, 0.5, f64::NAN),
                Some("min_feature_deviation"),
            ),
        ];
        for (name, measures, want) in cases {
            let mut guard = Guard::default();
            // Not yet.
            guard.check(&measures, &config, (1, 0)).unwrap();
            guard.check(&measures, &config, (1, 1)).unwrap();
            let checked = guard.check(&measures, &config, (1, 2));
            match want {
                None => checked.unwrap(),
                Some(key) => {
                    let message = checked.unwrap_err().to_string();
                    for part in [key, "epoch 1, step 3", "Try"] {
                        assert!(message.contains(part), "{name}: {message}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_bad_step_is_no_collapse() {
        let config = GuardsConfig {
            after_steps: 0,
            ..GuardsConfig::default()
        };
        let mut guard = Guard::default();
        for _ in 0..5 {
            guard
                .check(&measures(0.5, 0.5, 0.5), &config, (1, 0))
                .unwrap();
        }
        guard
            .check(&measures(0.0, 0.5, 0.5), &config, (1, 0))
            .unwrap();
        let lasting = (0..40).map(|_| guard.check(&measures(0.0, 0.5, 0.5), &config, (1, 0)));
        assert!(lasting.into_iter().any(|checked| checked.is_err()));
    }
}
