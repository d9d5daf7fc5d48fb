//! How often the classes come after deployment, if nothing else has changed.
//!
//! # What is assumed
//!
//! **Label shift**: the classes' frequencies have changed, and the images of each class are still those of val_calib:
//! P(x | y) stays. Every result here is conditional on that, no data without labels can confirm it, and under any other
//! shift (a new camera, night, a new class) the numbers mean nothing. No certificate follows from them: a certificate
//! for other frequencies takes new labelled rows.
//!
//! # Two estimates
//!
//! - **BBSE** (Lipton, Wang & Smola 2018, 1802.03916): solves C·w = μ for the weights w_k = target frequency / source
//!   frequency; C is the confusion matrix of val_calib (share predicted i and labelled k), μ the shares predicted now. It
//!   asks nothing of the probabilities, may give negative weights, and fails if C can't be inverted.
//! - **EM** (Saerens, Latinne & Decaestecker 2002; on calibrated probabilities as in Alexandari, Kundaje & Shrikumar 2020,
//!   1901.06852): the frequencies under which the calibrated probabilities are most likely. The better the
//!   calibration, the better the estimate.
//!
//! Where both differ by much, label shift is in doubt. Neither has an interval here: the estimates count rows, and rows of one
//! group aren't independent, so that a few large groups can decide them.
//!
//! ```
//! use stage1_calibration::shift::{Confusion, bbse, em};
//!
//! // Predicted and true classes where nothing had changed: right in 90 % of each class, half of them class 1.
//! let pairs = (0..100).map(|i| (usize::from((i % 2 == 1) ^ (i % 20 < 2)), i % 2));
//! let source = Confusion::count(2, pairs)?;
//! // Now 74 % are predicted to be 1: 0.9·q + 0.1·(1 − q) = 0.74 for q = 0.8.
//! let now = bbse(&source, &[0.26, 0.74])?;
//! assert!((now.target_shares[1] - 0.8).abs() < 1e-9);
//! let probabilities = [[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]].concat();
//! assert!(em(&probabilities, &[0.5, 0.5])?.target_shares[1] > 0.66);
//! # Ok::<(), stage1_calibration::shift::ShiftError>(())
//! ```

mod bbse;
mod em;
mod estimate;

pub use bbse::{Bbse, Confusion, bbse};
pub use em::{Em, em};
pub use estimate::{LabelShift, estimate};

use serde::{Deserialize, Serialize};

/// What a result holds under, and not otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// P(image | class) has not changed.
    LabelShift,
}

/// Why the frequencies can't be estimated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShiftError {
    /// There are no rows to learn from, or to estimate for.
    #[error(
        "{which} has no rows: label shift is estimated from val_calib's rows for those that came after"
    )]
    NoRows {
        /// `val_calib`, or `the stream`.
        which: &'static str,
    },
    /// A class without a labelled row: its images are unknown.
    #[error(
        "class {class} has no row in val_calib: what its images look like is unknown, and so is how often they come"
    )]
    ClassAbsent {
        /// Index of the class.
        class: usize,
    },
    /// Two mixtures of classes are predicted alike.
    #[error(
        "the confusion matrix can't be inverted (pivot {pivot:e} for class {class}): the model doesn't tell some classes apart, so that many frequencies explain the predictions; use EM, or a model that predicts every class"
    )]
    Singular {
        /// Index of the class.
        class: usize,
        /// What is left of its column.
        pivot: f64,
    },
    /// Sizes that don't go together.
    #[error("{what} has {got} values, {want} were expected")]
    Length {
        /// Whose.
        what: &'static str,
        /// Found.
        got: usize,
        /// Expected.
        want: usize,
    },
    /// A number that is no probability.
    #[error("{what}: value {at} is {value}, a probability from 0 to 1 is needed")]
    Probability {
        /// Whose.
        what: &'static str,
        /// Its index.
        at: usize,
        /// Its value.
        value: f64,
    },
    /// A class index beyond the classes.
    #[error("class {class} was counted, there are {classes} classes")]
    Class {
        /// The index.
        class: usize,
        /// Number of classes.
        classes: usize,
    },
}

fn check_probabilities(what: &'static str, values: &[f64]) -> Result<(), ShiftError> {
    match values.iter().position(|p| !(0.0..=1.0).contains(p)) {
        None => Ok(()),
        Some(at) => Err(ShiftError::Probability {
            what,
            at,
            value: values[at],
        }),
    }
}

fn check_length(what: &'static str, got: usize, want: usize) -> Result<(), ShiftError> {
    if got == want {
        return Ok(());
    }
    Err(ShiftError::Length { what, got, want })
}

/// Probabilities of one row under other class frequencies: p_k·w_k, scaled to add up to one; `weights` are target over
/// source frequencies, below zero counts as zero. A row that is left with nothing stays as it is. Conditional on label
/// shift.
///
/// # Panics
/// If there are not as many weights as probabilities.
pub fn reweighted(probabilities: &[f64], weights: &[f64]) -> Vec<f64> {
    assert_eq!(probabilities.len(), weights.len(), "one weight per class");
    let products = probabilities
        .iter()
        .zip(weights)
        .map(|(p, w)| p * w.max(0.0));
    let mut out: Vec<f64> = products.collect();
    let sum: f64 = out.iter().sum();
    if sum > 0.0 {
        out.iter_mut().for_each(|p| *p /= sum);
    } else {
        out.copy_from_slice(probabilities);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_follow_the_frequencies() {
        let cases = [
            ("twice as often", [0.5, 0.5], [2.0, 0.5], [0.8, 0.2]),
            ("unchanged", [0.25, 0.75], [1.0, 1.0], [0.25, 0.75]),
            (
                "a negative weight is none",
                [0.5, 0.5],
                [1.5, -0.25],
                [1.0, 0.0],
            ),
            ("nothing is left", [1.0, 0.0], [0.0, 2.0], [1.0, 0.0]),
        ];
        for (name, probabilities, weights, want) in cases {
            let got = reweighted(&probabilities, &weights);
            let near = got
                .iter()
                .zip(want)
                .all(|(got, want)| (got - want).abs() < 1e-15);
            assert!(near, "{name}: {got:?}");
        }
    }
}
