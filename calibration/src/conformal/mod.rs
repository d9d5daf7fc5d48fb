//! Split-conformal prediction sets: instead of one label, all labels that can't be ruled out.
//!
//! # What is promised
//!
//! *On average* over calibrations and over images drawn like those of val_calib, the set holds the true label with
//! probability at least 1 − α (`guarantee: expectation`, no δ). Given one val_calib the coverage is a draw from
//! Beta(r, n + 1 − r), r = ⌈(n + 1)(1 − α)⌉: about every second calibration covers less than 1 − α. It says nothing about
//! one image or one class ([`Conditioning::PerClass`], "Mondrian" sets, promises it for every class), nothing under
//! shift, and a set may be empty or hold every label.
//!
//! *Units.* Where images come in groups, one image of each counts, and the promise is about a random image of a random
//! group. *Attempts.* It is for one method, chosen beforehand: the smallest of several sets doesn't keep it.
//!
//! # How
//!
//! A [`SetScore`] says how odd a label looks; the threshold is the r-th smallest score of the true labels of val_calib,
//! one row per unit; if r > n no label can be ruled out. Sets are {k : s_k ≤ q}: the exact convention, not "and the label
//! that crosses", which gives larger ones. Nothing that was fitted on val_calib may enter the score: the temperature is
//! val_select's.
//!
//! | score | paper |
//! |---|---|
//! | least ambiguous, 1 − p | Sadinle, Lei & Wasserman 2016, 1609.00451 |
//! | adaptive, Σ of larger p + U·p | Romano, Sesia & Candès 2020, 2006.02544 |
//! | regularised adaptive | Angelopoulos, Bates, Malik & Jordan 2020, 2009.14193 |
//!
//! ```
//! use stage1_calibration::conformal::{SetMethod, SetPredictor, SetScore};
//! use stage1_calibration::rows::CalibRows;
//! use stage1_core::logits::LogitSet;
//!
//! // Three classes: of the unsure rows (the first and second logits close together) every second is of class 1.
//! let calib = LogitSet {
//!     classes: 3,
//!     logits: (0..200).flat_map(|i| [(i % 10) as f32 / 2.0, 0.0, -3.0]).collect(),
//!     labels: (0..200).map(|i| i64::from(i % 10 < 3 && i % 2 == 0)).collect(),
//!     ..LogitSet::default()
//! };
//! let calib = CalibRows::new(&calib, 7)?;
//! let sets = SetPredictor::fit(&SetMethod::new(SetScore::Lac), &calib, 0.1)?;
//! assert_eq!(sets.predict(&[4.5, 0.0, -3.0])?, Some(vec![0]));
//! assert_eq!(sets.predict(&[0.0, 0.0, -3.0])?, Some(vec![0, 1]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod predictor;
mod quantile;
mod score;
mod verdict;

pub use predictor::{Conditioning, SetMethod, SetPredictor, Thresholds};
pub use quantile::{Quantile, p_value, rank};
pub use score::SetScore;
pub use verdict::{SetValidation, SetVerdict, misses_tail};

/// What can be wrong with a request for prediction sets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConformalError {
    /// A level that is no probability between 0 and 1.
    #[error("{name} is {value}: a number between 0 and 1 (both excluded) is needed")]
    Level {
        /// `alpha` or `gamma`.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// A number of the method that makes no score.
    #[error("{name} is {value}: {want} is needed")]
    Parameter {
        /// `temperature` or `lambda`.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it must be.
        want: &'static str,
    },
    /// Rows of another number of classes.
    #[error(
        "{what} has {got} classes, the sets are over {want}: are these logits of the same model?"
    )]
    Classes {
        /// Whose rows.
        what: &'static str,
        /// Found.
        got: usize,
        /// Expected.
        want: usize,
    },
    /// A logit is NaN or infinite.
    #[error(
        "logit {class} is {value}: a finite number was expected; the image or the model is damaged"
    )]
    NonFinite {
        /// Index of the logit.
        class: usize,
        /// Its value.
        value: f32,
    },
}
