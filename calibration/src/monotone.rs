//! Losses that can only fall as a threshold rises, in closed form: no grid, no plan, no price for many thresholds.
//!
//! The false-positive rate of "positive if the score is ≥ t" falls as t rises. The smallest threshold whose rate is at
//! most α with confidence 1 − δ is an order statistic of the negatives' scores: with k* = max {k : P(Bin(n, α) ≤ k) ≤ δ},
//! just above the (k* + 1)-th largest (RCPS, Bates et al. 2021, 2101.02703, Theorem 1, with the exact binomial tail). Its
//! true rate is Beta(k* + 1, n − k*) distributed where scores have no ties, so that it is above α with probability
//! P(Bin(n, α) ≤ k*) ≤ δ exactly; with ties less often. The false-negative rate is the mirror image.
//!
//! Here the promise concerns one class and one threshold; nothing is said about answers as a whole. For that, and for
//! several promises at once, use the constraints of a [`plan`](crate::plan).
//!
//! ```
//! use stage1_calibration::monotone::{Threshold, false_positive_threshold};
//!
//! // 200 negatives: at most 5 % false alarms, with confidence 90 %.
//! let negatives: Vec<f64> = (0..200).map(f64::from).collect();
//! let Threshold::Found { at_least, errors, .. } = false_positive_threshold(&negatives, 0.05, 0.1)? else {
//!     panic!("200 are enough")
//! };
//! assert_eq!(negatives.iter().filter(|score| **score >= at_least).count() as u64, errors);
//! assert_eq!(errors, 5);
//! # Ok::<(), stage1_calibration::Error>(())
//! ```

use crate::binomial;
use crate::error::{Result, level};

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Positive if the score is at least this.
    Found {
        /// The threshold.
        at_least: f64,
        /// Errors among the rows that it was made from.
        errors: u64,
        /// P(Bin(n, α) ≤ k*) ≤ δ: how often the true rate is above α, if scores have no ties.
        violation: f64,
    },
    /// There are too few rows for any threshold.
    TooFew {
        /// How many it takes if none of them is wrong.
        needed: u64,
    },
}

/// The smallest threshold whose false-positive rate is at most `alpha` with confidence 1 − `delta`, from the scores of
/// rows of the negative class.
///
/// # Errors
/// [`Error::Level`](crate::Error::Level).
///
/// # Panics
/// If a score is NaN.
pub fn false_positive_threshold(negatives: &[f64], alpha: f64, delta: f64) -> Result<Threshold> {
    let Some(found) = order_statistic(negatives.len(), alpha, delta)? else {
        return Ok(too_few(alpha, delta));
    };
    let mut falling = negatives.to_vec();
    falling.sort_unstable_by(|a, b| b.partial_cmp(a).expect("scores are numbers"));
    // The whole tie group is left out: just above its score, whatever values may lie between.
    let at_least = falling
        .get(found.rank)
        .map_or(f64::NEG_INFINITY, |score| score.next_up());
    Ok(Threshold::Found {
        at_least,
        errors: falling.iter().filter(|score| **score >= at_least).count() as u64,
        violation: found.violation,
    })
}

/// The largest threshold whose false-negative rate is at most `alpha` with confidence 1 − `delta`, from the scores of rows
/// of the positive class.
///
/// # Errors
/// [`Error::Level`](crate::Error::Level).
///
/// # Panics
/// If a score is NaN.
pub fn false_negative_threshold(positives: &[f64], alpha: f64, delta: f64) -> Result<Threshold> {
    let Some(found) = order_statistic(positives.len(), alpha, delta)? else {
        return Ok(too_few(alpha, delta));
    };
    let mut rising = positives.to_vec();
    rising.sort_unstable_by(|a, b| a.partial_cmp(b).expect("scores are numbers"));
    let at_least = rising.get(found.rank).copied().unwrap_or(f64::INFINITY);
    Ok(Threshold::Found {
        at_least,
        errors: rising.iter().filter(|score| **score < at_least).count() as u64,
        violation: found.violation,
    })
}

struct Found {
    /// k*, and the index of the (k* + 1)-th score.
    rank: usize,
    violation: f64,
}

fn order_statistic(n: usize, alpha: f64, delta: f64) -> Result<Option<Found>> {
    level("alpha", alpha)?;
    level("delta", delta)?;
    let n = n as u64;
    Ok(binomial::max_errors(n, alpha, delta).map(|k| Found {
        rank: k as usize,
        violation: binomial::cdf(k, n, alpha),
    }))
}

fn too_few(alpha: f64, delta: f64) -> Threshold {
    Threshold::TooFew {
        needed: binomial::min_rows(0, alpha, delta),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violation(n: u32) -> f64 {
        let scores: Vec<f64> = (0..n).map(f64::from).collect();
        match false_positive_threshold(&scores, 0.05, 0.1).unwrap() {
            Threshold::Found { violation, .. } => violation,
            Threshold::TooFew { .. } => panic!("{n} are enough"),
        }
    }

    /// The binding page's exact values at α = .05, δ = .1.
    #[test]
    fn violations_are_those_of_the_page() {
        for (n, want) in [(200, 0.0623), (1000, 0.0806), (5000, 0.0904)] {
            assert!((violation(n) - want).abs() < 5e-5, "{n}: {}", violation(n));
        }
    }

    #[test]
    fn the_false_negative_rate_is_the_mirror_image() {
        let scores: Vec<f64> = (0..300).map(|i| f64::from(i % 60)).collect();
        let mirrored: Vec<f64> = scores.iter().map(|score| -score).collect();
        let positive = false_positive_threshold(&scores, 0.1, 0.1).unwrap();
        let negative = false_negative_threshold(&mirrored, 0.1, 0.1).unwrap();
        let (
            Threshold::Found {
                at_least: above,
                errors: alarms,
                ..
            },
            Threshold::Found {
                at_least, errors, ..
            },
        ) = (positive, negative)
        else {
            panic!("{positive:?} {negative:?}")
        };
        assert_eq!(alarms, errors);
        assert!((above + at_least).abs() < 1e-9, "{above} {at_least}");
    }

    #[test]
    fn ties_go_together() {
        let mut scores = vec![1.0; 100];
        scores.extend(vec![2.0; 100]);
        let got = false_positive_threshold(&scores, 0.05, 0.1).unwrap();
        assert!(matches!(got, Threshold::Found { errors: 0, at_least, .. } if at_least > 2.0));
    }

    #[test]
    fn too_few_rows_say_how_many_it_takes() {
        let got = false_positive_threshold(&[0.5; 44], 0.05, 0.1).unwrap();
        assert_eq!(got, Threshold::TooFew { needed: 45 });
        assert!(false_negative_threshold(&[], 0.0, 0.1).is_err());
    }
}
