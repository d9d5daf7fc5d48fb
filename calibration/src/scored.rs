//! Rows with the number that decides them.

use crate::rows::Block;
use rayon::prelude::*;
use stage1_core::certificate::Constraint;
use stage1_core::policy::{Score, Threshold, argmax};

/// Scores, raw arg-maxes and labels of rows.
pub(crate) struct Scored {
    pub(crate) values: Vec<f64>,
    pub(crate) raw: Vec<usize>,
    pub(crate) labels: Vec<usize>,
}

/// Cases that count against a constraint, among those that it is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Cases that count against it.
    pub errors: u64,
    /// Cases that it is about.
    pub total: u64,
}

/// What counting answers and wrong answers needs of a constraint; its level doesn't enter.
pub(crate) const ERRORS_AMONG_ANSWERS: Constraint = Constraint::SelectiveError { alpha: 1.0 };

impl Count {
    fn add(&mut self, case: Option<bool>) {
        self.total += u64::from(case.is_some());
        self.errors += u64::from(case == Some(true));
    }
}

/// What answers (nothing: deferred) to images of known labels come to for a constraint: its errors and its cases.
pub fn count(
    constraint: Constraint,
    answers: impl IntoIterator<Item = (Option<usize>, usize)>,
) -> Count {
    let mut count = Count::default();
    for (answer, label) in answers {
        count.add(constraint.case(answer, label));
    }
    count
}

impl Scored {
    pub(crate) fn new(rows: &Block, score: Score) -> Self {
        Self {
            values: (0..rows.n())
                .into_par_iter()
                .map(|i| score.value(rows.row(i)))
                .collect(),
            raw: (0..rows.n())
                .into_par_iter()
                .map(|i| argmax(rows.row(i).logits))
                .collect(),
            labels: rows.labels.clone(),
        }
    }

    /// The answer to row `i`, nothing if it is deferred, and its label.
    pub(crate) fn answer(&self, i: usize, threshold: Threshold) -> (Option<usize>, usize) {
        (
            threshold.answer(self.values[i], self.raw[i]),
            self.labels[i],
        )
    }

    /// The same of all rows.
    pub(crate) fn answers(
        &self,
        threshold: Threshold,
    ) -> impl Iterator<Item = (Option<usize>, usize)> {
        (0..self.values.len()).map(move |i| self.answer(i, threshold))
    }

    /// Wrong answers among answers.
    pub(crate) fn selective(&self, threshold: Threshold) -> Count {
        count(ERRORS_AMONG_ANSWERS, self.answers(threshold))
    }

    pub(crate) fn count(&self, constraint: Constraint, threshold: Threshold) -> Count {
        count(constraint, self.answers(threshold))
    }
}
