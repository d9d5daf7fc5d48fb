//! Rows sorted by a score, with their ties, and what follows from that order under any row weights.

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
    /// If there are 2³² rows or more.
    pub fn new(scores: &[f64]) -> Self {
        let order = sorted(scores);
        let ends = (1..=order.len()).filter(|end| {
            let differs = |next: &u32| {
                scores[order[end - 1] as usize]
                    .total_cmp(&scores[*next as usize])
                    .is_ne()
            };
            order.get(*end).is_none_or(differs)
        });
        Self {
            ends: ends.map(|end| end as u32).collect(),
            order,
        }
    }

    /// As [`Ranking::new`], but ties are broken by the order of the rows, as software that sorts stably does. What it
    /// gives depends on the order of the input.
    ///
    /// # Panics
    /// If there are 2³² rows or more.
    pub fn ties_in_row_order(scores: &[f64]) -> Self {
        let order = sorted(scores);
        Self {
            ends: (1..=order.len() as u32).collect(),
            order,
        }
    }

    /// The groups of equal scores, best first.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.order[start as usize..*end as usize])
    }

    /// For each group, best first: total weight, and weight of the rows that `is` marks.
    pub(crate) fn weighed<'a>(
        &'a self,
        is: &'a [bool],
        weights: &'a [u32],
    ) -> impl Iterator<Item = (f64, f64)> + 'a {
        self.groups().map(|group| {
            let mut sums = (0u64, 0u64);
            for row in group {
                let weight = u64::from(weights[*row as usize]);
                sums.0 += weight;
                sums.1 += if is[*row as usize] { weight } else { 0 };
            }
            (sums.0 as f64, sums.1 as f64)
        })
    }

    /// The probability that a positive row scores above a negative one, ties counting half; none without both.
    pub fn auroc(&self, positive: &[bool], weights: &[u32]) -> Option<f64> {
        let (mut positives, mut negatives, mut area) = (0.0, 0.0, 0.0);
        for (all, hits) in self.weighed(positive, weights) {
            area += (all - hits) * (positives + hits / 2.0);
            positives += hits;
            negatives += all - hits;
        }
        (positives > 0.0 && negatives > 0.0).then(|| area / (positives * negatives))
    }

    /// Σ (recall_i − recall_{i−1})·precision_i over distinct scores; none without a positive row.
    pub fn average_precision(&self, positive: &[bool], weights: &[u32]) -> Option<f64> {
        let (mut positives, mut seen, mut sum) = (0.0, 0.0, 0.0);
        for (all, hits) in self.weighed(positive, weights) {
            positives += hits;
            seen += all;
            if hits > 0.0 {
                sum += hits * positives / seen;
            }
        }
        (positives > 0.0).then(|| sum / positives)
    }
}

fn sorted(scores: &[f64]) -> Vec<u32> {
    let n = u32::try_from(scores.len()).expect("fewer than 2^32 rows");
    let mut order: Vec<u32> = (0..n).collect();
    // Ties by row: the same as a stable sort, and faster.
    order.sort_unstable_by(|a, b| {
        scores[*b as usize]
            .total_cmp(&scores[*a as usize])
            .then(a.cmp(b))
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;

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
