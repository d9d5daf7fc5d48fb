//! Rows with the number that decides them.

use crate::rows::Block;
use rayon::prelude::*;
use stage1_core::certificate::Constraint;
use stage1_core::policy::{Score, Threshold, argmax};
use std::ops::{Add, AddAssign, Range, Sub};

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
    fn see(&mut self, case: Option<bool>) {
        self.total += u64::from(case.is_some());
        self.errors += u64::from(case == Some(true));
    }
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            errors: self.errors + other.errors,
            total: self.total + other.total,
        }
    }
}

/// What answers (nothing: deferred) to images of known labels come to for a constraint: its errors and its cases.
pub fn count(
    constraint: Constraint,
    answers: impl IntoIterator<Item = (Option<usize>, usize)>,
) -> Count {
    let mut count = Count::default();
    for (answer, label) in answers {
        count.see(constraint.case(answer, label));
    }
    count
}

impl Scored {
    pub(crate) fn new(rows: &Block, score: &Score) -> Self {
        let of_row = |i| {
            let row = rows.row(i);
            (score.value(row), argmax(row.logits))
        };
        let (values, raw) = (0..rows.n()).into_par_iter().map(of_row).unzip();
        Self {
            values,
            raw,
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

    /// Wrong answers among answers.
    pub(crate) fn selective(&self, threshold: Threshold) -> Count {
        self.count(ERRORS_AMONG_ANSWERS, threshold)
    }

    /// [`count`] of all rows.
    pub(crate) fn count(&self, constraint: Constraint, threshold: Threshold) -> Count {
        let of_chunk =
            |rows: Range<usize>| count(constraint, rows.map(|i| self.answer(i, threshold)));
        self.chunks().map(of_chunk).reduce(Count::default, Add::add)
    }

    fn chunks(&self) -> impl ParallelIterator<Item = Range<usize>> {
        let n = self.values.len();
        let starts = (0..n).into_par_iter().step_by(CHUNK);
        starts.map(move |start| start..n.min(start + CHUNK))
    }

    /// [`Self::count`] at each of many thresholds, in one pass: a row is answered, in one way, from the strictest
    /// threshold that its score meets on.
    pub(crate) fn counts(&self, constraint: Constraint, thresholds: &[Threshold]) -> Vec<Count> {
        let [up, down] = [Side::Up, Side::Down].map(|side| Borders::new(side, thresholds));
        let zero = || (Tail::new(&up), Tail::new(&down), Change::default());
        let chunk = |rows: Range<usize>| {
            let (mut above, mut below, mut deferred) = zero();
            for i in rows {
                let (score, label) = (self.values[i], self.labels[i]);
                let unanswered = Change::of(constraint.case(None, label));
                let change = |answer| Change::of(constraint.case(Some(answer), label)) - unanswered;
                deferred += unanswered;
                above.meet(&up, score, || change(up.answer.unwrap_or(self.raw[i])));
                below.meet(&down, score, || change(down.answer.unwrap_or(self.raw[i])));
            }
            (above, below, deferred)
        };
        let (above, below, deferred) = self
            .chunks()
            .map(chunk)
            .reduce(zero, |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2));
        let mut counts = vec![deferred; thresholds.len()];
        above.spread(&up, &mut counts);
        below.spread(&down, &mut counts);
        counts.into_iter().map(Change::count).collect()
    }
}

/// Rows that a thread counts at once.
const CHUNK: usize = 1 << 14;

/// Which of a threshold's borders.
#[derive(Clone, Copy)]
enum Side {
    /// Scores from it up are answered.
    Up,
    /// Scores from it down are answered.
    Down,
}

/// One side's borders, those that answer least first; scores are compared with their sign so that larger is surer.
struct Borders {
    side: Side,
    /// The class that is answered beyond them; none: the one with the largest logit.
    answer: Option<usize>,
    /// Falling, with the threshold that each belongs to.
    falling: Vec<(f64, usize)>,
}

impl Borders {
    fn new(side: Side, thresholds: &[Threshold]) -> Self {
        let border = |threshold: &Threshold| match (*threshold, side) {
            (Threshold::TwoSided { high, .. }, Side::Up) => Some((high, Some(1))),
            (Threshold::TwoSided { low, .. }, Side::Down) => Some((-low, Some(0))),
            (Threshold::OneSided { at_least }, Side::Up) => Some((at_least, None)),
            _ => None,
        };
        let borders = thresholds.iter().map(border).enumerate();
        let mut falling: Vec<(f64, usize)> = borders
            .filter_map(|(j, border)| Some((border?.0, j)))
            .collect();
        falling.sort_by(|a, b| b.0.total_cmp(&a.0));
        Self {
            side,
            answer: thresholds
                .iter()
                .find_map(border)
                .and_then(|border| border.1),
            falling,
        }
    }

    /// The first border that `score` meets.
    fn first_met(&self, score: f64) -> usize {
        let surer = match self.side {
            Side::Up => score,
            Side::Down => -score,
        };
        self.falling.partition_point(|(border, _)| *border > surer)
    }
}

/// For each border, what the rows change that meet it first; the last place is that of rows that meet none.
struct Tail(Vec<Change>);

impl Tail {
    fn new(borders: &Borders) -> Self {
        Self(vec![Change::default(); borders.falling.len() + 1])
    }

    fn meet(&mut self, borders: &Borders, score: f64, change: impl FnOnce() -> Change) {
        let first = borders.first_met(score);
        if first < borders.falling.len() {
            self.0[first] += change();
        }
    }

    /// Adds, to the count of each threshold, what all rows change that meet its border.
    fn spread(&self, borders: &Borders, counts: &mut [Change]) {
        let mut sum = Change::default();
        for ((_, threshold), change) in borders.falling.iter().zip(&self.0) {
            sum += *change;
            counts[*threshold] += sum;
        }
    }
}

impl Add for Tail {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
        self
    }
}

/// What answering rows instead of deferring them adds to a count, or takes from it.
#[derive(Debug, Clone, Copy, Default)]
struct Change {
    errors: i64,
    total: i64,
}

impl Change {
    fn of(case: Option<bool>) -> Self {
        Self {
            errors: i64::from(case == Some(true)),
            total: i64::from(case.is_some()),
        }
    }

    fn count(self) -> Count {
        Count {
            errors: self.errors.unsigned_abs(),
            total: self.total.unsigned_abs(),
        }
    }
}

impl Add for Change {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            errors: self.errors + other.errors,
            total: self.total + other.total,
        }
    }
}

impl Sub for Change {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            errors: self.errors - other.errors,
            total: self.total - other.total,
        }
    }
}

impl AddAssign for Change {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::below;

    /// Scores and thresholds of few values, so that many are equal.
    fn scored(classes: u64) -> Scored {
        let n = 40_000;
        let small = |stream, most| (0..n).map(move |i| below(most, 1, stream, i));
        Scored {
            values: small(0, 60).map(|x| x as f64 - 30.0).collect(),
            raw: small(1, classes).map(|x| x as usize).collect(),
            labels: small(2, classes).map(|x| x as usize).collect(),
        }
    }

    #[test]
    fn counting_at_many_thresholds_is_counting_at_each() {
        let alpha = 0.1;
        let one_sided: Vec<Threshold> = [5.0, -40.0, 12.5, 5.0, 31.0, -3.0]
            .map(|at_least| Threshold::OneSided { at_least })
            .to_vec();
        let two_sided: Vec<Threshold> = [(-3.0, 3.0), (0.0, 1.0), (-29.0, 40.0), (-40.0, 2.0)]
            .map(|(low, high)| Threshold::TwoSided { low, high })
            .to_vec();
        let everywhere = [
            Constraint::SelectiveError { alpha },
            Constraint::Precision { class: 1, alpha },
            Constraint::ClassError { class: 0, alpha },
            Constraint::Coverage { at_least: 0.5 },
        ];
        let of_two = [false, true].into_iter().flat_map(|defer_as_error| {
            [
                Constraint::Fnr {
                    alpha,
                    defer_as_error,
                },
                Constraint::Fpr {
                    alpha,
                    defer_as_error,
                },
            ]
        });
        for (classes, thresholds) in [(2, &two_sided), (2, &one_sided), (5, &one_sided)] {
            let scored = scored(classes);
            let constraints = everywhere.into_iter().chain(of_two.clone());
            for constraint in constraints {
                let want: Vec<Count> = thresholds
                    .iter()
                    .map(|threshold| scored.count(constraint, *threshold))
                    .collect();
                assert_eq!(
                    scored.counts(constraint, thresholds),
                    want,
                    "{constraint:?}"
                );
                assert_ne!(want[0], want[1], "{constraint:?}");
            }
        }
        assert_eq!(scored(2).counts(everywhere[0], &[]), []);
    }
}
