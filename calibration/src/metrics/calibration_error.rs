//! Calibration error by bins. All of it is descriptive: plug-in errors are biased upward for few rows.

/// Which bin each row falls into, and how many there are.
#[derive(Debug, Clone, PartialEq)]
pub struct Bins {
    of: Vec<u32>,
    count: usize,
}

impl Bins {
    /// `count` bins of equal width, closed on the right; 0 goes to the first.
    pub fn equal_width(scores: &[f64], count: usize) -> Self {
        let edges: Vec<f64> = (1..count).map(|i| i as f64 / count as f64).collect();
        let bin = |score: &f64| edges.partition_point(|edge| edge < score) as u32;
        Self {
            of: scores.iter().map(bin).collect(),
            count,
        }
    }

    /// `count` bins of equal size along the sorted scores, the first ones larger by a row where it doesn't come out
    /// even (NumPy's `array_split` of a stable `argsort`): ties may be cut.
    pub fn equal_mass(scores: &[f64], count: usize) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let (size, larger) = (scores.len() / count, scores.len() % count);
        let mut of = vec![0; scores.len()];
        let mut rows = order.into_iter();
        for bin in 0..count {
            for row in rows.by_ref().take(size + usize::from(bin < larger)) {
                of[row] = bin as u32;
            }
        }
        Self { of, count }
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
    let mut sums = vec![[0.0; 3]; bins.count];
    for (((bin, score), outcome), weight) in bins.of.iter().zip(scores).zip(outcomes).zip(weights) {
        let weight = f64::from(*weight);
        let sum = &mut sums[*bin as usize];
        sum[0] += weight;
        sum[1] += weight * score;
        sum[2] += if *outcome { weight } else { 0.0 };
    }
    let n: f64 = sums.iter().map(|sum| sum[0]).sum();
    if n == 0.0 {
        return None;
    }
    let mut errors = BinErrors {
        ece: 0.0,
        mce: 0.0,
        l2_squared: 0.0,
        l2_squared_debiased: 0.0,
    };
    for [rows, score, outcome] in sums.into_iter().filter(|sum| sum[0] > 0.0) {
        let (share, rate) = (rows / n, outcome / rows);
        let gap = (score / rows - rate).abs();
        let variance = if rows > 1.0 {
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
