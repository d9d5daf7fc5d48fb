use super::CrcError;

/// The losses of `n` rows at every threshold of a grid, from strict to lax: sums, which don't fall.
#[derive(Debug, Clone, PartialEq)]
pub struct GridLosses {
    sums: Vec<f64>,
    n: u64,
    bound: f64,
}

impl GridLosses {
    /// `sums[j]` is the sum of `n` losses in `[0, bound]` at threshold j.
    ///
    /// # Errors
    /// [`CrcError::Bound`], [`CrcError::OutOfRange`] or [`CrcError::NotMonotone`].
    pub fn new(sums: Vec<f64>, n: u64, bound: f64) -> Result<Self, CrcError> {
        if !(bound.is_finite() && bound > 0.0) {
            return Err(CrcError::Bound { bound });
        }
        // Sums of fractions in another order differ in their last bits.
        let slack = 1e-9 * bound * n.max(1) as f64;
        for (at, sum) in sums.iter().enumerate() {
            if !(*sum >= 0.0 && *sum <= bound * n as f64 + slack) {
                return Err(CrcError::OutOfRange {
                    at,
                    sum: *sum,
                    n,
                    bound,
                });
            }
        }
        if let Some(from) = sums.windows(2).position(|pair| pair[1] < pair[0] - slack) {
            return Err(CrcError::NotMonotone {
                from,
                before: sums[from],
                after: sums[from + 1],
            });
        }
        Ok(Self { sums, n, bound })
    }

    /// Loss 1 for a score below the threshold, else 0; `thresholds` ascend.
    ///
    /// # Errors
    /// [`CrcError::NotMonotone`] if they don't.
    pub fn below(scores: &[f64], thresholds: &[f64]) -> Result<Self, CrcError> {
        let mut sorted = scores.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let below = |threshold: &f64| sorted.partition_point(|s| s < threshold) as f64;
        let sums = thresholds.iter().map(below).collect();
        Self::new(sums, scores.len() as u64, 1.0)
    }

    /// Number of rows.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// The largest possible loss.
    pub fn bound(&self) -> f64 {
        self.bound
    }

    /// Sums of losses, one per threshold.
    pub fn sums(&self) -> &[f64] {
        &self.sums
    }

    pub(super) fn check_counts(&self) -> Result<(), CrcError> {
        let is_count = |sum: &f64| sum.fract() == 0.0;
        match self.sums.iter().position(|sum| !is_count(sum)) {
            None => Ok(()),
            Some(at) => Err(CrcError::NotCounts {
                at,
                sum: self.sums[at],
            }),
        }
    }

    /// The last threshold before the first that isn't `controlled`.
    pub(super) fn laxest(&self, controlled: impl Fn(f64) -> bool) -> Option<usize> {
        let failed = self.sums.iter().position(|sum| !controlled(*sum));
        failed.unwrap_or(self.sums.len()).checked_sub(1)
    }
}
