use super::ConformalError;
use crate::decimal::floor_times;
use serde::{Deserialize, Serialize};

/// Scores are sums of probabilities, and sums of the same numbers in another order differ in their last bits: what lies
/// this near above the threshold counts as equal. It can only add labels.
const EQUAL: f64 = 1e-12;

/// ⌈(`n` + 1)(1 − `alpha`)⌉ in integers, `alpha` taken as the decimal that it is written as.
pub fn rank(n: u64, alpha: f64) -> u64 {
    n + 1 - floor_times(n + 1, alpha)
}

/// The threshold of `n` calibration scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantile {
    /// Number of scores.
    pub n: u64,
    /// ⌈(n + 1)(1 − α)⌉.
    pub rank: u64,
    /// The rank-th smallest score; none (+∞) if the rank exceeds n: no label can be ruled out.
    pub value: Option<f64>,
}

impl Quantile {
    /// The threshold of `scores`, which are finite, at miscoverage `alpha`.
    ///
    /// # Errors
    /// [`ConformalError::Level`].
    pub fn of(scores: &[f64], alpha: f64) -> Result<Self, ConformalError> {
        check_level("alpha", alpha)?;
        let mut sorted = scores.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let n = sorted.len() as u64;
        let rank = rank(n, alpha);
        let at = usize::try_from(rank - 1).ok();
        Ok(Self {
            n,
            rank,
            value: at.and_then(|at| sorted.get(at).copied()),
        })
    }

    /// Whether a label with this score is in the set.
    pub fn admits(&self, score: f64) -> bool {
        self.value.is_none_or(|value| score <= value + EQUAL)
    }
}

pub(super) fn check_level(name: &'static str, value: f64) -> Result<(), ConformalError> {
    if value > 0.0 && value < 1.0 {
        return Ok(());
    }
    Err(ConformalError::Level { name, value })
}

/// The conformal p-value of a label: (#{scores > score} + `u`·(#{scores = score} + 1)) / (n + 1), of ascending
/// calibration scores. `u` = 1 gives the plain one, a uniform draw the smoothed one, which is exactly uniform.
pub fn p_value(ascending: &[f64], score: f64, u: f64) -> f64 {
    let below = ascending.partition_point(|s| *s < score);
    let up_to = ascending.partition_point(|s| *s <= score);
    let larger = (ascending.len() - up_to) as f64;
    let equal = (up_to - below + 1) as f64;
    (larger + u * equal) / (ascending.len() + 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_decimal() {
        let cases = [
            (9, 0.1, 9),
            (8, 0.1, 9),
            (10, 0.1, 10),
            (19, 0.05, 19),
            (99, 0.29, 71),
            (0, 0.1, 1),
            (300, 0.05, 286),
        ];
        for (n, alpha, want) in cases {
            assert_eq!(rank(n, alpha), want, "{n} {alpha}");
        }
    }

    #[test]
    fn the_float_trap_is_real_and_avoided() {
        let mut trapped = 0;
        for percent in 1..100_u64 {
            let alpha = percent as f64 / 100.0;
            for n in 1..500_u64 {
                let want = ((n + 1) * (100 - percent)).div_ceil(100);
                assert_eq!(rank(n, alpha), want, "{n} {alpha}");
                trapped += u32::from(((n + 1) as f64 * (1.0 - alpha)).ceil() as u64 != want);
            }
        }
        assert!(trapped > 0);
    }

    #[test]
    fn a_rank_beyond_n_rules_nothing_out() {
        let eight = Quantile::of(&[0.5; 8], 0.1).unwrap();
        assert_eq!((eight.rank, eight.value), (9, None));
        assert!(eight.admits(1e300));
        let nine = Quantile::of(&[0.5; 9], 0.1).unwrap();
        assert_eq!((nine.rank, nine.value), (9, Some(0.5)));
        assert!(nine.admits(0.5) && !nine.admits(0.500_001));
        assert!(Quantile::of(&[0.5], 0.0).is_err());
        assert!(Quantile::of(&[0.5], f64::NAN).is_err());
    }

    #[test]
    fn p_values_count_the_label_itself() {
        let scores = [0.1, 0.2, 0.2, 0.4];
        let cases = [
            (0.2, 1.0, 0.8),
            (0.2, 0.0, 0.2),
            (0.5, 1.0, 0.2),
            (0.0, 1.0, 1.0),
        ];
        for (score, u, want) in cases {
            assert!(
                (p_value(&scores, score, u) - want).abs() < 1e-15,
                "{score} {u}"
            );
        }
    }
}
