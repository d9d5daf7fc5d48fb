//! Judging an epoch on val_select: metrics, the best one, and when to stop.

use crate::{events::Metrics, head::values};
use serde::{Deserialize, Serialize};
use stage1_core::{
    config::EarlyStop,
    metrics::{Confusion, SurestFirst},
    policy::Score,
};
use tch::{Device, Kind, Tensor};

/// Accuracy, AUGRC by the largest probability, balanced accuracy, MCC, F1 and NLL (nats per image) of `logits` `[n, K]`. A row's class is its first
/// largest logit.
pub fn metrics(logits: &Tensor, labels: &[usize]) -> Metrics {
    let classes = logits.size()[1] as usize;
    let mut confusion = Confusion::new(classes);
    let rows = values(logits);
    let mut wrong = Vec::with_capacity(labels.len());
    for (row, &label) in rows.chunks_exact(classes).zip(labels) {
        let answer = first_largest(row);
        confusion.add(label, answer);
        wrong.push(answer != label);
    }
    let surest_first = SurestFirst::new(&largest_probabilities(&rows, classes));
    let named = [
        ("accuracy", confusion.accuracy()),
        ("augrc", surest_first.augrc(|row| wrong[row], |_| 1)),
        ("balanced_accuracy", confusion.balanced_accuracy()),
        ("f1", confusion.f1_default()),
        ("mcc", confusion.mcc()),
        ("nll", nll(logits, labels)),
    ];
    named
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Of each row of logits.
pub(crate) fn largest_probabilities(rows: &[f32], classes: usize) -> Vec<f64> {
    let score = Score::MaxProbability { temperature: 1.0 };
    rows.chunks_exact(classes)
        .map(|row| score.value(row))
        .collect()
}

/// The index of the first largest value.
pub(crate) fn first_largest(row: &[f32]) -> usize {
    let better = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (1..row.len()).fold(0, better)
}

fn nll(logits: &Tensor, labels: &[usize]) -> f64 {
    -log_likelihoods(logits, labels)
        .mean(Kind::Double)
        .double_value(&[])
}

/// Negative log-likelihood of each row, in nats.
pub(crate) fn nll_of_each(logits: &Tensor, labels: &[usize]) -> Vec<f64> {
    let each = -log_likelihoods(logits, labels).flatten(0, -1);
    Vec::try_from(each.to_device(Device::Cpu).contiguous()).expect("a flat tensor of doubles")
}

/// `[n, 1]`.
fn log_likelihoods(logits: &Tensor, labels: &[usize]) -> Tensor {
    let labels: Vec<_> = labels.iter().map(|&label| label as i64).collect();
    let labels = Tensor::from_slice(&labels).to_device(logits.device());
    let log_probabilities = logits.to_kind(Kind::Double).log_softmax(-1, Kind::Double);
    log_probabilities.gather(1, &labels.unsqueeze(1), false)
}

/// Which epoch is the best, and whether another is worth its time.
pub struct Selection {
    rule: EarlyStop,
    standing: Standing,
}

/// What the epochs so far amount to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The metrics of the best one.
    pub best: Option<Metrics>,
    /// The value that an improvement is measured from; none before the first epoch.
    reference: Option<f64>,
    /// Epochs since the last improvement.
    stale: usize,
}

impl Selection {
    /// No epoch yet.
    pub fn new(rule: EarlyStop) -> Self {
        Self {
            rule,
            standing: Standing::default(),
        }
    }

    /// What the epochs so far amount to.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Goes on from there.
    pub fn restore(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// Takes in an epoch's metrics; whether it is the best so far. Of equal epochs the one with the lower NLL is better,
    /// then the earlier one.
    pub fn judge(&mut self, metrics: &Metrics) -> bool {
        let score = self.score(metrics);
        // Strictly: with `min_delta` 0, standing still isn't an improvement.
        let reference = self.standing.reference;
        if reference.is_none_or(|reference| score > reference + self.rule.min_delta) {
            self.standing.reference = Some(score);
            self.standing.stale = 0;
        } else {
            self.standing.stale += 1;
        }
        let rank = |m: &Metrics| (self.score(m), -m["nll"]);
        let is_best = self
            .standing
            .best
            .as_ref()
            .is_none_or(|best| rank(metrics) > rank(best));
        if is_best {
            self.standing.best = Some(metrics.clone());
        }
        is_best
    }

    /// Whether the patience is used up.
    pub fn should_stop(&self) -> bool {
        self.standing.stale >= self.rule.patience
    }

    /// The selection metric, turned so that higher is better.
    fn score(&self, metrics: &Metrics) -> f64 {
        let metric = self.rule.metric;
        metric.score(metrics[metric.name()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage1_core::config::SelectionMetric;

    fn epoch(mcc: f64, nll: f64) -> Metrics {
        let named = [
            ("accuracy", 0.5),
            ("balanced_accuracy", 0.5),
            ("f1", 0.5),
            ("mcc", mcc),
            ("nll", nll),
        ];
        named
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    #[test]
    fn the_best_epoch_and_the_stop_follow_the_rule() {
        struct Case {
            name: &'static str,
            metric: SelectionMetric,
            min_delta: f64,
            epochs: &'static [(f64, f64)],
            best: usize,
            stops_after: Option<usize>,
        }
        let cases = [
            Case {
                name: "rises",
                metric: SelectionMetric::Mcc,
                min_delta: 0.0,
                epochs: &[(0.1, 1.0), (0.2, 1.0), (0.3, 1.0)],
                best: 2,
                stops_after: None,
            },
            Case {
                name: "stands still: the lower NLL is kept, the patience runs",
                metric: SelectionMetric::Mcc,
                min_delta: 0.0,
                epochs: &[(0.5, 1.0), (0.5, 0.9), (0.5, 0.95)],
                best: 1,
                stops_after: Some(2),
            },
            Case {
                name: "small steps count as one when they add up",
                metric: SelectionMetric::Mcc,
                min_delta: 0.15,
                epochs: &[(0.1, 1.0), (0.2, 1.0), (0.3, 1.0), (0.4, 1.0), (0.5, 1.0)],
                best: 4,
                stops_after: None,
            },
            Case {
                name: "steps below min_delta: kept, but not worth going on",
                metric: SelectionMetric::Mcc,
                min_delta: 0.5,
                epochs: &[(0.1, 1.0), (0.2, 1.0), (0.3, 1.0)],
                best: 2,
                stops_after: Some(2),
            },
            Case {
                name: "NLL: lower is better",
                metric: SelectionMetric::Nll,
                min_delta: 0.0,
                epochs: &[(0.1, 1.0), (0.0, 0.5), (0.9, 0.7)],
                best: 1,
                stops_after: None,
            },
        ];
        for case in cases {
            let mut selection = Selection::new(EarlyStop {
                metric: case.metric,
                patience: 2,
                min_delta: case.min_delta,
            });
            let (mut best, mut stop) = (None, None);
            for (i, &(mcc, nll)) in case.epochs.iter().enumerate() {
                if selection.judge(&epoch(mcc, nll)) {
                    best = Some(i);
                }
                if selection.should_stop() && stop.is_none() {
                    stop = Some(i);
                }
            }
            assert_eq!(
                (best, stop),
                (Some(case.best), case.stops_after),
                "{}",
                case.name
            );
        }
    }

    #[test]
    fn metrics_of_known_logits() {
        // Rows 0 and 1 are right; row 2 is a tie, which goes to the first class: wrong.
        let logits = Tensor::from_slice(&[2.0_f32, 0.0, -1.0, 1.0, 0.0, 0.0]).reshape([3, 2]);
        let got = metrics(&logits, &[0, 1, 1]);
        let nll = ((1.0 + (-2.0_f64).exp()).ln() * 2.0 + 2.0_f64.ln()) / 3.0;
        let want = [
            ("accuracy", 2.0 / 3.0),
            // The wrong row is the least sure one.
            ("augrc", 0.5 / 9.0),
            ("balanced_accuracy", 0.75),
            ("f1", 2.0 / 3.0),
            ("mcc", 0.5),
            ("nll", nll),
        ];
        for (name, want) in want {
            assert!(
                (got[name] - want).abs() < 1e-12,
                "{name}: {} for {want}",
                got[name]
            );
        }
    }
}
