//! Rows with the number that decides them.

use crate::rows::Labelled;
use stage1_core::policy::{Score, Threshold, argmax};

/// Scores, raw arg-maxes and labels of rows.
pub(crate) struct Scored {
    pub(crate) score: Score,
    pub(crate) values: Vec<f64>,
    pub(crate) raw: Vec<usize>,
    pub(crate) labels: Vec<usize>,
}

impl Scored {
    pub(crate) fn new(rows: Labelled<'_>, score: Score) -> Self {
        Self {
            score,
            values: (0..rows.n()).map(|i| score.value(rows.row(i))).collect(),
            raw: (0..rows.n()).map(|i| argmax(rows.row(i))).collect(),
            labels: rows.labels.to_vec(),
        }
    }

    /// Rows answered at `threshold`, and wrong ones among them.
    pub(crate) fn count(&self, threshold: Threshold) -> (u64, u64) {
        let rows = self.values.iter().zip(&self.raw).zip(&self.labels);
        rows.fold(
            (0, 0),
            |(answered, errors), ((score, raw), label)| match threshold.answer(*score, *raw) {
                None => (answered, errors),
                Some(answer) => (answered + 1, errors + u64::from(answer != *label)),
            },
        )
    }
}
