//! Conformal risk control: thresholds whose *expected* risk is at most α.
//!
//! # What is promised, and what isn't
//!
//! For losses in [0, B] that don't fall as the threshold gets laxer, the laxest threshold with
//! n/(n+1)·R̂ + B/(n+1) ≤ α has E\[risk\] ≤ α over calibrations and a new image (Angelopoulos, Bates, Fisch, Lei &
//! Schuster 2022, 2208.02814). That is `guarantee: expectation`. **It is no bound with confidence 1 − δ**: of a
//! false-positive rate controlled at α = .05, the true rate exceeds .05 in 45 %, 48 % and 49 % of calibrations with 200,
//! 1,000 and 5,000 negatives ([`excess_probability`]). Where one calibration must hold, use
//! [`certify`](crate::certify), or [`rcps`] for monotone losses. It holds for independent units (one row of each counts),
//! for one attempt (the best of several isn't an average one), and for images drawn like those of val_calib.
//!
//! [`scrc`] controls the risk *among selected rows* (selective conformal risk control, 2512.12844): the [`Selection`] is
//! fixed on val_select, and risk control runs on the selected rows of val_calib; given the selection they and a new
//! selected row are exchangeable, so that no new theory is needed. [`answers`] makes a policy of it
//! (`calibrate.guarantee: expectation`): the loss is a wrong answer, and a selected image that is deferred loses nothing. With the loss "the set misses the label" it is
//! [`SetPredictor::fit_selected`](crate::conformal::SetPredictor::fit_selected).
//!
//! ```
//! use stage1_calibration::crc::{GridLosses, crc};
//!
//! // Loss 1 if the score lies below the threshold; from strict to lax, 0.1 to 0.9.
//! let scores: Vec<f64> = (0..99).map(|i| f64::from(i) / 99.0).collect();
//! let grid: Vec<f64> = (1..10).map(|i| f64::from(i) / 10.0).collect();
//! let losses = GridLosses::below(&scores, &grid)?;
//! // 40 scores are below 0.4, and 40 + 1 of 99 + 1 is above 0.4: 0.3 it is.
//! assert_eq!(crc(&losses, 0.4)?, Some(2));
//! # Ok::<(), stage1_calibration::crc::CrcError>(())
//! ```

pub mod answers;
mod estimate;
mod losses;
mod scrc;
mod selection;

pub use estimate::{Estimate, estimate};
pub use losses::GridLosses;
pub use scrc::{LossFamily, Scrc, ScrcFit, ScrcRefusal, scrc};
pub use selection::Selection;

use crate::binomial;
use crate::bounds::hoeffding_bentkus_p;
use crate::decimal::floor_times;

/// What can be wrong with a request for risk control.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrcError {
    /// A level that promises nothing, or what can't be.
    #[error("{name} is {value}: a number above 0 and below {below} is needed")]
    Level {
        /// `alpha` or `delta`.
        name: &'static str,
        /// Its value.
        value: f64,
        /// 1, or the largest loss.
        below: f64,
    },
    /// Losses must not fall from one threshold to the next.
    #[error(
        "the mean loss falls from threshold {from} to the next ({before} to {after}): order thresholds from strict to lax, and use a monotone loss"
    )]
    NotMonotone {
        /// Index of the threshold before.
        from: usize,
        /// Sum of losses there.
        before: f64,
        /// Sum of losses at the next.
        after: f64,
    },
    /// A loss outside its range.
    #[error("the losses at threshold {at} add up to {sum}, {n} losses from 0 to {bound} can't")]
    OutOfRange {
        /// Index of the threshold.
        at: usize,
        /// Sum of losses.
        sum: f64,
        /// Number of losses.
        n: u64,
        /// Largest loss.
        bound: f64,
    },
    /// A largest loss that is none.
    #[error("the largest possible loss is {bound}: a positive number is needed")]
    Bound {
        /// Its value.
        bound: f64,
    },
    /// An exact binomial test counts errors.
    #[error(
        "the losses at threshold {at} add up to {sum}: an exact binomial test needs losses that are 0 or 1; use Hoeffding–Bentkus"
    )]
    NotCounts {
        /// Index of the threshold.
        at: usize,
        /// Sum of losses.
        sum: f64,
    },
    /// A share that isn't one.
    #[error("share is {share}: a number above 0 and at most 1 is needed")]
    Share {
        /// Its value.
        share: f64,
    },
    /// Nothing to fix the selection on.
    #[error("val_select has no rows: the selection is fixed on it")]
    EmptySelect,
    /// A score with two sides has no strict and lax, and a gate isn't a function of the logits.
    #[error(
        "score binary_margin has two sides, and gate is no function of the logits; select by max_probability"
    )]
    Score,
}

/// Index of the laxest threshold with (Σ losses + B) ≤ α·(n + 1), all stricter ones included; none if not even the
/// strictest has it. `guarantee: expectation`.
///
/// # Errors
/// [`CrcError::Level`].
pub fn crc(losses: &GridLosses, alpha: f64) -> Result<Option<usize>, CrcError> {
    check_level("alpha", alpha, losses.bound())?;
    let n_plus_1 = losses.n() + 1;
    // Whole sums are compared as integers, as decimals are meant: 1 + 1 ≤ 0.1·20 must hold.
    let whole = floor_times(n_plus_1, alpha) as f64;
    let fractional = alpha * n_plus_1 as f64;
    let controlled = |sum: f64| {
        let inflated = sum + losses.bound();
        let limit = if inflated.fract() == 0.0 {
            whole
        } else {
            fractional
        };
        inflated <= limit
    };
    Ok(losses.laxest(controlled))
}

/// The most errors among `n` rows that 0/1 losses may have: ⌊α(n + 1)⌋ − 1; none if not even zero errors are few enough.
pub fn allowed_errors(n: u64, alpha: f64) -> Option<u64> {
    floor_times(n + 1, alpha).checked_sub(1)
}

/// P(true rate > α) of a threshold by [`crc`] on `n` continuous scores with 0/1 losses: the rate is a draw from
/// Beta(k + 1, n − k), k = [`allowed_errors`]. It is about one half, which is why this is no guarantee at 1 − δ.
pub fn excess_probability(n: u64, alpha: f64) -> f64 {
    allowed_errors(n, alpha).map_or(0.0, |k| binomial::cdf(k, n, alpha))
}

/// The p-value that [`rcps`] tests each threshold by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PValue {
    /// Exact, for losses that are 0 or 1.
    Binomial,
    /// For fractional losses; never better on 0/1 losses.
    HoeffdingBentkus,
}

/// Index of the laxest threshold whose risk is at most α with confidence 1 − δ, for monotone losses: thresholds are
/// tested from strict to lax until the first that isn't rejected, without a price for their number (Bates et al. 2021,
/// 2101.02703, Thm 1). `guarantee: pac`. The exact form of this for answers is [`certify`](crate::certify).
///
/// # Errors
/// [`CrcError::Level`], or [`CrcError::NotCounts`].
pub fn rcps(
    losses: &GridLosses,
    alpha: f64,
    delta: f64,
    test: PValue,
) -> Result<Option<usize>, CrcError> {
    check_level("alpha", alpha, losses.bound())?;
    check_level("delta", delta, 1.0)?;
    if test == PValue::Binomial {
        losses.check_counts()?;
    }
    let (n, bound) = (losses.n(), losses.bound());
    let p = |sum: f64| match test {
        PValue::Binomial => binomial::cdf(sum as u64, n, alpha),
        PValue::HoeffdingBentkus => hoeffding_bentkus_p(sum / bound, n, alpha / bound),
    };
    Ok(losses.laxest(|sum| p(sum) <= delta))
}

fn check_level(name: &'static str, value: f64, below: f64) -> Result<(), CrcError> {
    if value > 0.0 && value < below {
        return Ok(());
    }
    Err(CrcError::Level { name, value, below })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_decide_and_not_floats() {
        // (k + 1) / (n + 1) = α exactly.
        for (n, alpha, k) in [(19, 0.1, 1), (9, 0.1, 0), (99, 0.29, 28), (199, 0.05, 9)] {
            assert_eq!(allowed_errors(n, alpha), Some(k), "{n} {alpha}");
            let at = |k: u64| GridLosses::new(vec![k as f64], n, 1.0).unwrap();
            assert_eq!(crc(&at(k), alpha).unwrap(), Some(0), "{n} {alpha}");
            assert_eq!(crc(&at(k + 1), alpha).unwrap(), None, "{n} {alpha}");
        }
        assert_eq!(allowed_errors(8, 0.1), None);
    }

    /// The figures of the binding page.
    #[test]
    fn about_half_of_all_calibrations_exceed_the_target() {
        for (n, want) in [(200, 0.455), (1000, 0.480), (5000, 0.491)] {
            let got = excess_probability(n, 0.05);
            assert!((got - want).abs() < 5e-4, "{n}: {got}");
        }
    }

    #[test]
    fn scaled_losses_are_controlled_alike() {
        let sums = [0.0, 1.5, 3.0, 20.0];
        let plain = GridLosses::new(sums.to_vec(), 50, 1.0).unwrap();
        let tens = GridLosses::new(sums.map(|sum| 10.0 * sum).to_vec(), 50, 10.0).unwrap();
        let fractional = PValue::HoeffdingBentkus;
        for (alpha, want) in [
            (0.01, None),
            (0.04, Some(0)),
            (0.06, Some(1)),
            (0.5, Some(3)),
        ] {
            assert_eq!(crc(&plain, alpha).unwrap(), want, "{alpha}");
            assert_eq!(crc(&tens, 10.0 * alpha).unwrap(), want, "{alpha}");
            let with_confidence = |losses, alpha| rcps(losses, alpha, 0.1, fractional).unwrap();
            assert_eq!(
                with_confidence(&plain, alpha),
                with_confidence(&tens, 10.0 * alpha),
                "{alpha}"
            );
        }
        assert_eq!(rcps(&plain, 0.2, 0.1, fractional).unwrap(), Some(2));
    }

    #[test]
    fn what_is_no_monotone_loss_is_refused() {
        let cases = [
            (
                "falls from threshold 1",
                GridLosses::new(vec![0.0, 2.0, 1.0], 9, 1.0),
            ),
            ("add up to 10", GridLosses::new(vec![0.0, 10.0], 9, 1.0)),
            ("add up to NaN", GridLosses::new(vec![f64::NAN], 9, 1.0)),
            (
                "largest possible loss is 0",
                GridLosses::new(vec![0.0], 9, 0.0),
            ),
        ];
        for (want, got) in cases {
            let got = got.unwrap_err().to_string();
            assert!(got.contains(want), "{got}");
        }
        let halves = GridLosses::new(vec![0.5], 9, 1.0).unwrap();
        assert!(matches!(
            rcps(&halves, 0.1, 0.1, PValue::Binomial),
            Err(CrcError::NotCounts { at: 0, .. })
        ));
        assert!(crc(&halves, 0.0).is_err());
    }
}
