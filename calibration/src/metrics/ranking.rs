//! Rows sorted by a score, with their ties, and what follows from that order under any row weights.

use super::sorting::sort;

/// Rows from the largest score to the smallest; equal scores form a group.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranking {
    order: Vec<u32>,
    /// Where each group ends in `order`.
    ends: Vec<u32>,
}

impl Ranking {
    /// Sorts rows by `scores`, largest first; ties stay together.
    ///
    /// # Panics
    /// If there are 2³⁰ rows or more.
    pub fn new(scores: &[f64]) -> Self {
        let keys: Vec<u64> = scores.iter().map(|score| falling(*score)).collect();
        Self::of_keys(&keys)
    }

    /// Sorts rows by `keys`, smallest first; equal keys form a group, their rows in row order.
    ///
    /// # Panics
    /// If there are 2³⁰ rows or more.
    pub(crate) fn of_keys(keys: &[u64]) -> Self {
        let mut order: Vec<u32> = Vec::with_capacity(keys.len());
        let mut ends = Vec::with_capacity(keys.len());
        // Rows of one prefix are few, and lie together: they alone are compared in full.
        for run in by_prefix(keys).chunk_by(|a, b| a >> 32 == b >> 32) {
            let start = order.len();
            order.extend(run.iter().map(|word| *word as u32));
            let rows = &mut order[start..];
            rows.sort_unstable_by_key(|row| (keys[*row as usize], *row));
            let tied = |pair: &[u32]| keys[pair[0] as usize] == keys[pair[1] as usize];
            let inner = (start + 1..)
                .zip(rows.windows(2))
                .filter(|(_, pair)| !tied(pair));
            ends.extend(inner.map(|(end, _)| end as u32));
            ends.push(order.len() as u32);
        }
        Self { order, ends }
    }

    /// As [`Ranking::new`], but ties are broken by the order of the rows, as software that sorts stably does. What it
    /// gives depends on the order of the input.
    ///
    /// # Panics
    /// If there are 2³⁰ rows or more.
    pub fn ties_in_row_order(scores: &[f64]) -> Self {
        let Self { order, .. } = Self::new(scores);
        Self {
            ends: (1..=order.len() as u32).collect(),
            order,
        }
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.order.len()
    }

    /// The groups of equal scores, best first.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.order[start as usize..*end as usize])
    }

    /// The probability that a marked row scores above another one, ties counting half; none without both.
    pub fn auroc(&self, positive: &[bool], weights: &[u32]) -> Option<f64> {
        Marked::new(self, positive).areas(weights).0
    }

    /// Σ (recall_i − recall_{i−1})·precision_i over distinct scores; none without a positive row.
    pub fn average_precision(&self, positive: &[bool], weights: &[u32]) -> Option<f64> {
        Marked::new(self, positive).areas(weights).1
    }
}

/// Words that rise: the first half of a row's key, then the row.
fn by_prefix(keys: &[u64]) -> Vec<u64> {
    assert!(
        keys.len() < 1 << 30,
        "{} rows: fewer than 2^30 can be ranked",
        keys.len()
    );
    let words = keys.iter().zip(0..);
    let mut words: Vec<u64> = words.map(|(key, row)| key >> 32 << 32 | row).collect();
    sort(&mut words, &mut Vec::new());
    words
}

/// A number that rises where `score` falls, by `f64::total_cmp`; both zeros are one score.
pub(super) fn falling(score: f64) -> u64 {
    let bits = (score + 0.0).to_bits();
    let sign = 1 << 63;
    // A negative number's bits rise already as it falls.
    if bits & sign == 0 { !bits ^ sign } else { bits }
}

/// How often a row counts.
pub(crate) trait Weights: Copy {
    /// The weight of row `row`.
    fn of(self, row: usize) -> u64;
}

/// Every row counts once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Once;

impl Weights for Once {
    fn of(self, _: usize) -> u64 {
        1
    }
}

impl Weights for &[u32] {
    fn of(self, row: usize) -> u64 {
        u64::from(self[row])
    }
}

/// A ranking whose rows are marked (positive, wrong …): one word for each row in its order, so that a pass under other
/// weights reads memory once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Marked(Vec<u32>);

/// Whether the row is marked.
const MARK: u32 = 0b10;
/// Whether the row is the last of its group of equal scores.
const LAST: u32 = 0b01;

impl Marked {
    pub(crate) fn new(ranking: &Ranking, marks: &[bool]) -> Self {
        let mut words = Vec::with_capacity(ranking.order.len());
        for group in ranking.groups() {
            words.extend(
                group
                    .iter()
                    .map(|row| row << 2 | u32::from(marks[*row as usize]) << 1),
            );
            if let Some(last) = words.last_mut() {
                *last |= LAST;
            }
        }
        Self(words)
    }

    /// The weight of all rows.
    pub(super) fn weight(&self, weights: impl Weights) -> u64 {
        (0..self.0.len()).map(|row| weights.of(row)).sum()
    }

    /// Visits each group that has weight, best first: its weight, and the weight of its marked rows.
    #[inline]
    pub(crate) fn each_group(&self, weights: impl Weights, mut visit: impl FnMut(f64, f64)) {
        let (mut all, mut marked) = (0u64, 0u64);
        for word in &self.0 {
            let weight = weights.of((word >> 2) as usize);
            all += weight;
            marked += if word & MARK == 0 { 0 } else { weight };
            if word & LAST != 0 && all > 0 {
                visit(all as f64, marked as f64);
                (all, marked) = (0, 0);
            }
        }
    }

    /// AUROC and average precision of the marked rows: see [`Ranking`].
    pub(crate) fn areas(&self, weights: impl Weights) -> (Option<f64>, Option<f64>) {
        let mut areas = Areas::default();
        self.each_group(weights, |all, marked| areas.add(all, marked));
        areas.finish()
    }
}

/// AUROC and average precision of marked rows, from groups of equal scores, best first.
#[derive(Debug, Default)]
pub(super) struct Areas {
    positives: f64,
    negatives: f64,
    area: f64,
    precision: f64,
}

impl Areas {
    /// Adds a group's weight, and the weight of its marked rows.
    #[inline]
    pub(super) fn add(&mut self, all: f64, hits: f64) {
        self.area += (all - hits) * (self.positives + hits / 2.0);
        self.positives += hits;
        self.negatives += all - hits;
        if hits > 0.0 {
            self.precision += hits * self.positives / (self.positives + self.negatives);
        }
    }

    /// See [`Ranking::auroc`] and [`Ranking::average_precision`].
    pub(super) fn finish(self) -> (Option<f64>, Option<f64>) {
        let Self {
            positives,
            negatives,
            area,
            precision,
        } = self;
        (
            (positives > 0.0 && negatives > 0.0).then(|| area / (positives * negatives)),
            (positives > 0.0).then(|| precision / positives),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::uniform;

    /// Enough for rows to be dealt, not compared.
    const MANY: usize = 1 << 13;

    #[test]
    fn keys_fall_as_scores_rise() {
        let rising = [
            f64::NEG_INFINITY,
            -1e30,
            -1.0,
            -1e-300,
            0.0,
            1e-300,
            0.5,
            1.0,
            f64::INFINITY,
        ];
        assert!(
            rising
                .windows(2)
                .all(|pair| falling(pair[0]) > falling(pair[1]))
        );
        assert_eq!(falling(-0.0), falling(0.0));
        assert!(falling(f64::NAN) < falling(f64::INFINITY));
    }

    #[test]
    fn ranking_is_a_stable_sort_with_its_ties() {
        for (n, levels) in [(100, 1e3), (MANY, 1e3), (MANY + 1, 1e15), (MANY, 2.0)] {
            // Some rows differ in the first digits, some in the last ones alone, some are tied.
            let score = |i: u64| {
                let x = (levels * uniform(1, i, 0)).floor() / levels;
                if i.is_multiple_of(3) {
                    1.0 - x * 1e-12
                } else {
                    x - 0.5
                }
            };
            let scores: Vec<f64> = (0..n as u64).map(score).collect();
            let mut want: Vec<u32> = (0..n as u32).collect();
            want.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
            let got = Ranking::new(&scores);
            assert!(got.order == want, "{n} rows, {levels} levels");
            let ends = (1..=n)
                .filter(|i| *i == n || scores[want[i - 1] as usize] > scores[want[*i] as usize]);
            assert!(
                got.ends == ends.map(|i| i as u32).collect::<Vec<_>>(),
                "{n} rows, {levels} levels"
            );
        }
    }

    fn brute_auroc(scores: &[f64], positive: &[bool], weights: &[u32]) -> f64 {
        let (mut wins, mut pairs) = (0.0, 0.0);
        for i in 0..scores.len() {
            for j in 0..scores.len() {
                if positive[i] && !positive[j] {
                    let weight = f64::from(weights[i] * weights[j]);
                    pairs += weight;
                    wins += weight
                        * if scores[i] > scores[j] {
                            1.0
                        } else if scores[i] < scores[j] {
                            0.0
                        } else {
                            0.5
                        };
                }
            }
        }
        wins / pairs
    }

    #[test]
    fn auroc_counts_pairs_with_weights_and_ties() {
        let scores = [0.1, 0.5, 0.5, 0.9, 0.5, 0.3];
        let positive = [false, true, false, true, true, true];
        for weights in [[1; 6], [2, 0, 3, 1, 1, 4]] {
            let got = Ranking::new(&scores).auroc(&positive, &weights).unwrap();
            assert!((got - brute_auroc(&scores, &positive, &weights)).abs() < 1e-15);
        }
        assert_eq!(Ranking::new(&scores).auroc(&[true; 6], &[1; 6]), None);
    }

    #[test]
    fn weights_are_repetitions() {
        let scores = [0.4, 0.2, 0.9, 0.4];
        let positive = [true, false, false, true];
        let repeated = [0.4, 0.4, 0.2, 0.9, 0.9, 0.9, 0.4];
        let repeated_positive = [true, true, false, false, false, false, true];
        let weighted = Ranking::new(&scores)
            .average_precision(&positive, &[2, 1, 3, 1])
            .unwrap();
        let plain = Ranking::new(&repeated)
            .average_precision(&repeated_positive, &[1; 7])
            .unwrap();
        assert!((weighted - plain).abs() < 1e-15);
    }
}
