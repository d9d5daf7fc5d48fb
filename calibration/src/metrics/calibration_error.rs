//! Calibration error by bins. All of it is descriptive: plug-in errors are biased upward for few rows, and bins hide
//! what cancels within them.

use super::Ranking;
use super::ranking::Weights;

/// Which bin each row falls into, and how many there are.
#[derive(Debug, Clone, PartialEq)]
pub struct Bins {
    of: Vec<u32>,
    count: usize,
}

impl Bins {
    /// `count` bins of equal width, closed on the right; 0 goes to the first.
    pub fn equal_width(scores: &[f64], count: usize) -> Self {
        let width = EqualWidth::new(count);
        Self {
            of: scores
                .iter()
                .map(|score| width.bin(*score) as u32)
                .collect(),
            count,
        }
    }

    /// `count` bins of equal size along the sorted scores, the first ones larger by a row where it doesn't come out
    /// even (NumPy's `array_split` of a stable `argsort`): ties may be cut, and then the order of the rows matters.
    pub fn equal_mass(scores: &[f64], count: usize) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let split = Split::new(scores.len(), count);
        let mut of = vec![0; scores.len()];
        for (place, row) in order.into_iter().enumerate() {
            of[row] = split.bin(place);
        }
        Self { of, count }
    }

    /// As [`Bins::equal_mass`], but equal scores stay together, in the bin that the middle one of them belongs to: the
    /// order of the rows doesn't matter.
    pub fn equal_mass_whole_ties(ranking: &Ranking, count: usize) -> Self {
        let mut of = vec![0; ranking.rows()];
        let split = Split::new(of.len(), count);
        let mut above = 0;
        for group in ranking.groups() {
            let rising_place = of.len() - 1 - (above + group.len() / 2);
            group
                .iter()
                .for_each(|row| of[*row as usize] = split.bin(rising_place));
            above += group.len();
        }
        Self { of, count }
    }
}

/// Right-closed intervals of equal width over [0, 1].
pub(super) struct EqualWidth {
    count: usize,
    /// Of the first one there is no lower end, of the last one no upper.
    edges: Vec<f64>,
}

impl EqualWidth {
    pub(super) fn new(count: usize) -> Self {
        let mut edges: Vec<f64> = (0..=count).map(|i| i as f64 / count as f64).collect();
        edges[0] = f64::NEG_INFINITY;
        edges[count] = f64::INFINITY;
        Self { count, edges }
    }

    /// The number of inner edges below `score`.
    #[inline]
    pub(super) fn bin(&self, score: f64) -> usize {
        // Guess by a product, then compare with the edges themselves: the product may round across one.
        let guess = ((score * self.count as f64) as usize).min(self.count - 1);
        let (below, above) = (score <= self.edges[guess], score > self.edges[guess + 1]);
        guess + usize::from(above) - usize::from(below)
    }

    /// Where bin `bin` starts: the first one at 0.
    #[inline]
    pub(super) fn lower(&self, bin: usize) -> f64 {
        self.edges[bin].max(0.0)
    }
}

/// Places divided as `array_split` does.
struct Split {
    size: usize,
    larger: usize,
}

impl Split {
    fn new(n: usize, count: usize) -> Self {
        Self {
            size: n / count,
            larger: n % count,
        }
    }

    fn bin(&self, place: usize) -> u32 {
        let in_larger = self.larger * (self.size + 1);
        let bin = match place.checked_sub(in_larger) {
            None => place / (self.size + 1),
            Some(rest) => self.larger + rest / self.size,
        };
        bin as u32
    }
}

/// Differences between mean score and mean outcome over bins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BinErrors {
    /// Σ w_b·|score_b − outcome_b|.
    pub ece: f64,
    /// The largest |score_b − outcome_b|.
    pub mce: f64,
    /// Σ w_b·(score_b − outcome_b)².
    pub l2_squared: f64,
    /// The same minus each bin's sampling variance (Kumar, Liang & Ma 2019); bins of one row aren't corrected.
    pub l2_squared_debiased: f64,
}

/// The errors of `scores` against 0/1 `outcomes` under row weights; none without weight.
pub fn bin_errors(
    bins: &Bins,
    scores: &[f64],
    outcomes: &[bool],
    weights: &[u32],
) -> Option<BinErrors> {
    weighed_bin_errors(bins, scores, outcomes, weights)
}

/// [`bin_errors`] under any weights.
pub(super) fn weighed_bin_errors(
    bins: &Bins,
    scores: &[f64],
    outcomes: &[bool],
    weights: impl Weights,
) -> Option<BinErrors> {
    let mut sums = vec![[0.0; 3]; bins.count];
    for (row, ((bin, score), outcome)) in bins.of.iter().zip(scores).zip(outcomes).enumerate() {
        let weight = weights.of(row) as f64;
        let sum = &mut sums[*bin as usize];
        sum[0] += weight;
        sum[1] += weight * score;
        sum[2] += if *outcome { weight } else { 0.0 };
    }
    BinErrors::of(&sums)
}

impl BinErrors {
    /// From each bin's rows, sum of scores, and sum of outcomes.
    pub(super) fn of(sums: &[[f64; 3]]) -> Option<Self> {
        let n: f64 = sums.iter().map(|sum| sum[0]).sum();
        if n == 0.0 {
            return None;
        }
        let mut errors = Self {
            ece: 0.0,
            mce: 0.0,
            l2_squared: 0.0,
            l2_squared_debiased: 0.0,
        };
        for [rows, score, outcome] in sums.iter().filter(|sum| sum[0] > 0.0) {
            let (share, rate) = (rows / n, outcome / rows);
            let gap = (score / rows - rate).abs();
            let variance = if *rows > 1.0 {
                rate * (1.0 - rate) / (rows - 1.0)
            } else {
                0.0
            };
            errors.ece += share * gap;
            errors.mce = errors.mce.max(gap);
            errors.l2_squared += share * gap * gap;
            errors.l2_squared_debiased += share * (gap * gap - variance);
        }
        Some(errors)
    }

    /// The debiased root mean square error: √ of `l2_squared_debiased`, 0 where that is negative.
    pub fn rms_debiased(&self) -> f64 {
        self.l2_squared_debiased.max(0.0).sqrt()
    }

    /// The same in a bootstrap resample. A resample's squared gaps hold the sampling variance twice, that of the rows and
    /// that of the resampling; taken off once only, the interval would lie around the plug-in error.
    pub(super) fn rms_debiased_twice(&self) -> f64 {
        let variance = self.l2_squared - self.l2_squared_debiased;
        (self.l2_squared_debiased - variance).max(0.0).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_closed_on_the_right() {
        assert_eq!(
            Bins::equal_width(&[0.0, 0.1, 0.5, 0.500_1, 1.0], 2).of,
            [0, 0, 0, 1, 1]
        );
        let edges: Vec<f64> = (0..=15).map(|i| f64::from(i) / 15.0).collect();
        let want: Vec<u32> = (0..=15u32).map(|i| i.saturating_sub(1)).collect();
        assert_eq!(Bins::equal_width(&edges, 15).of, want);
    }

    #[test]
    fn equal_mass_splits_as_numpy_does() {
        assert_eq!(
            Bins::equal_mass(&[0.5, 0.1, 0.3, 0.2, 0.4], 2).of,
            [1, 0, 0, 0, 1]
        );
    }

    #[test]
    fn whole_ties_are_equal_mass_where_there_are_none() {
        for (n, count) in [(1, 15), (7, 2), (20, 3), (15, 15), (100, 15)] {
            let scores: Vec<f64> = (0..n).map(|i| f64::from(i * 37 % 101) / 101.0).collect();
            let ranking = Ranking::new(&scores);
            let (whole, cut) = (
                Bins::equal_mass_whole_ties(&ranking, count),
                Bins::equal_mass(&scores, count),
            );
            assert_eq!(whole, cut, "{n} rows, {count} bins");
        }
        let tied = Ranking::new(&[0.5, 0.1, 0.5, 0.5, 0.5, 0.9]);
        assert_eq!(Bins::equal_mass_whole_ties(&tied, 3).of, [1, 0, 1, 1, 1, 2]);
        assert_eq!(
            Bins::equal_mass_whole_ties(&Ranking::new(&[]), 3).of,
            [0; 0]
        );
    }

    #[test]
    fn two_bins_by_hand() {
        let scores = [0.2, 0.4, 0.9];
        let got = bin_errors(
            &Bins::equal_width(&scores, 2),
            &scores,
            &[false, true, true],
            &[1; 3],
        )
        .unwrap();
        assert!((got.ece - (2.0 / 3.0 * 0.2 + 1.0 / 3.0 * 0.1)).abs() < 1e-15);
        assert!((got.mce - 0.2).abs() < 1e-15);
        let plain = 2.0 / 3.0 * 0.04 + 1.0 / 3.0 * 0.01;
        assert!((got.l2_squared - plain).abs() < 1e-15);
        assert!((got.l2_squared_debiased - (plain - 2.0 / 3.0 * 0.25)).abs() < 1e-15);
        assert_eq!(bin_errors(&Bins::equal_width(&[], 2), &[], &[], &[]), None);
    }
}
