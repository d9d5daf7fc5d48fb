//! A rising curve through pooled rates.

use super::venn_abers::check_scores;
use serde::{Deserialize, Serialize};

/// Straight lines between knots, flat beyond the first and the last: scikit-learn's `IsotonicRegression` with
/// `out_of_bounds="clip"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IsotonicCurve {
    /// (margin s, rate of class 1): margins rise strictly, rates don't fall.
    pub knots: Vec<[f64; 2]>,
    /// How many rows n the curve was fitted on: reported probabilities stay within [1/(n+2), 1 − 1/(n+2)], since n rows
    /// can't tell a rate of 0 from a small one.
    pub rows: u64,
}

/// More rows than that can't be told apart by the bounds in `f64`.
const MOST_ROWS: u64 = 1 << 50;

impl IsotonicCurve {
    /// The curve itself at margin `s`, in [0, 1].
    ///
    /// # Panics
    /// If there are no knots.
    pub fn rate(&self, s: f64) -> f64 {
        let right = self.knots.partition_point(|[x, _]| *x < s);
        let Some([x1, y1]) = self.knots.get(right).copied() else {
            return self.knots[self.knots.len() - 1][1];
        };
        let Some([x0, y0]) = right.checked_sub(1).map(|left| self.knots[left]) else {
            return y1;
        };
        let share = (s - x0) / (x1 - x0);
        // Rounding must not lift the line above its end.
        (y0 + share * (y1 - y0)).min(y1)
    }

    /// The probability that is reported at margin `s`: the curve within its bounds.
    ///
    /// # Panics
    /// As [`IsotonicCurve::rate`].
    pub fn probability(&self, s: f64) -> f64 {
        let least = 1.0 / (self.rows as f64 + 2.0);
        self.rate(s).clamp(least, 1.0 - least)
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        if self.rows == 0 || self.rows > MOST_ROWS {
            return Err(format!("rows is {}, 1 to 2^50 are possible", self.rows));
        }
        check_scores("knots", self.knots.iter().map(|[x, _]| *x))?;
        let rates = || self.knots.iter().map(|[_, y]| *y);
        if rates().all(|y| (0.0..=1.0).contains(&y)) && rates().is_sorted() {
            return Ok(());
        }
        Err("the rates of its knots must lie in [0, 1] and not fall".to_owned())
    }
}
