//! Calibrators of the *reported* probability. Their output enters no comparison, so that they may be fitted on the rows
//! that certify, and chosen there.
//!
//! Data from which nothing can be learnt gives a [`Fallback`], never NaN.
//!
//! | choice | classes | parameters | keeps the ranking | fitted by |
//! |---|---|---|---|---|
//! | `temperature`, `ts_mix` | any | 1 | of the classes within a row | bisection and Newton steps on the convex likelihood |
//! | `platt`, `affine` | 2 | 2 | yes | Newton's method |
//! | `beta` | 2 | 3 | yes | Newton's method, weights at least 0 |
//! | `quadratic` | 2 | 3 | **no** | Newton's method |
//! | `isotonic`, `venn_abers` | 2 | as the data want | yes, but makes ties | pooling, exactly |
//! | `vector` | 3 to 250 | 2K | no | L-BFGS from the exact curvature |
//! | `svs` | 3 and more | 2K, penalised | no | the same |
//! | `sms` | 3 to 100 | K² + K, penalised | no | the same |
//!
//! Papers: temperature and vector scaling, Guo et al. 2017 (1706.04599); `ts_mix`, Berta, Holzmüller, Jordan & Bach 2025
//! (2501.19195; Laplace's rule); `affine`, Cox 1958; `quadratic`, discriminant analysis of two normal margins (Cox 1966), in
//! the package of 2511.03685; `platt`, Platt 1999 with the targets and the
//! iteration of Lin, Lin & Weng 2007; `beta`, Kull, Silva Filho & Flach 2017; `svs` and `sms`, 2511.03685; `isotonic`,
//! Ayer et al. 1955; `venn_abers`, Vovk, Petej & Fedorova 2015.
//!
//! # What is promised
//!
//! Nothing with a confidence. A reported probability describes how often answers like this one were right on val_calib; it
//! is no bound for one image or one class, and it is as good as images stay like those of val_calib.
//!
//! [`CalibratorChoice::Auto`] chooses among some of them by cross-validation, and [`Selection`] tells how:
//!
//! ```
//! use stage1_calibration::calibrate::{Verdict, fit};
//! use stage1_calibration::rows::Labelled;
//! use stage1_core::config::CalibratorChoice;
//!
//! // Logits ±4 say that 98 % are right; 75 % are.
//! let logits: Vec<f32> = (0..400).flat_map(|i| [0.0, if i % 2 == 0 { 4.0 } else { -4.0 }]).collect();
//! let labels: Vec<usize> = (0..400).map(|i| usize::from((i % 2 == 0) ^ (i % 8 < 2))).collect();
//! let rows = Labelled { logits: &logits, classes: 2, labels: &labels };
//! let fit = fit(rows, None, 7, CalibratorChoice::Auto)?;
//! assert!((fit.calibrator.probabilities(&[0.0, 4.0])[1] - 0.75).abs() < 0.02);
//! let selection = fit.selection.expect("`auto` tells how it chose");
//! let chosen = selection.candidates.iter().find(|c| c.verdict == Verdict::Chosen).expect("one of them");
//! assert_eq!(chosen.choice, CalibratorChoice::Temperature);
//! # Ok::<(), stage1_calibration::Error>(())
//! ```

mod auto;
mod beta;
mod binary;
mod cholesky;
mod isotonic;
mod line;
mod logistic;
mod quadratic;
mod quasi_newton;
mod regression;
mod structured;
mod temperature;
mod vector;
mod venn_abers;

pub use auto::{Candidate, Score, Selection, Verdict};
pub use beta::beta;
pub(crate) use binary::binary_columns;
pub use isotonic::isotonic;
pub use line::{affine, platt};
pub use quadratic::quadratic;
pub use structured::{MOST_SMS_CLASSES, Structured, sms, svs};
pub use temperature::{temperature, ts_mix};
pub use vector::{MOST_VECTOR_CLASSES, vector};
pub use venn_abers::venn_abers;

use crate::error::{Error, Result};
use crate::rows::Labelled;
use regression::Shape;
use stage1_core::config::CalibratorChoice;
use stage1_core::policy::{Calibrator, Fallback, Mixture};
use temperature::{temperature_near, ts_mix_near};

/// A calibrator, or the reason why it is [`Calibrator::None`].
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// What to apply.
    pub calibrator: Calibrator,
    /// Why nothing was fitted although something was asked for.
    pub fallback: Option<Fallback>,
    /// How `auto` chose.
    pub selection: Option<Selection>,
}

impl Fit {
    fn of(fitted: Result<Calibrator, Fallback>, selection: Option<Selection>) -> Self {
        let (calibrator, fallback) = match fitted {
            Ok(calibrator) => (calibrator, None),
            Err(fallback) => (Calibrator::None, Some(fallback)),
        };
        Self {
            calibrator,
            fallback,
            selection,
        }
    }
}

/// Fits the calibrator that `choice` asks for to `rows` of finite logits. `units` `[n]` says which rows belong together
/// (none: each row is its own unit) and `seed` draws the folds of `auto`; nothing else depends on them. Rows in the same
/// order give the same bits, on any number of threads.
///
/// # Errors
/// [`Error::Calibrator`] when the choice doesn't go with the number of classes, [`Error::Units`] when there isn't one
/// unit per row.
pub fn fit(
    rows: Labelled<'_>,
    units: Option<&[u64]>,
    seed: u64,
    choice: CalibratorChoice,
) -> Result<Fit> {
    check_choice(choice, rows.classes)?;
    match units {
        Some(units) if units.len() != rows.n() => Err(Error::Units {
            rows: rows.n(),
            units: units.len(),
        }),
        _ if choice == CalibratorChoice::Auto => Ok(auto::fit(rows, units, seed)),
        _ => Ok(Fit::of(family(rows, choice, None), None)),
    }
}

/// Whether `choice` goes with the number of classes: what can be told before there are rows.
///
/// # Errors
/// [`Error::Calibrator`] if it doesn't.
pub fn check_choice(choice: CalibratorChoice, classes: usize) -> Result<()> {
    use CalibratorChoice as C;
    let goes_with = match choice {
        C::Auto | C::None | C::Temperature | C::TsMix => true,
        C::Platt | C::Affine | C::Beta | C::Quadratic | C::Isotonic | C::VennAbers => classes == 2,
        C::Vector | C::Svs | C::Sms => classes > 2,
    };
    match goes_with {
        true => Ok(()),
        false => Err(Error::Calibrator { choice, classes }),
    }
}

/// Fits one family; `similar` is a fit of the same family to similar rows, which makes the search shorter and changes
/// nothing else.
fn family(
    rows: Labelled<'_>,
    choice: CalibratorChoice,
    similar: Option<&Calibrator>,
) -> Result<Calibrator, Fallback> {
    use CalibratorChoice as C;
    let columns = || binary_columns(rows);
    let near = match similar {
        Some(Calibrator::Temperature { t } | Calibrator::TsMix(Mixture { t, .. })) => Some(*t),
        _ => None,
    };
    let fitted = match choice {
        C::None | C::Auto => Ok(Calibrator::None),
        C::Temperature => temperature_near(rows, near).map(|t| Calibrator::Temperature { t }),
        C::TsMix => ts_mix_near(rows, near).map(Calibrator::TsMix),
        C::Vector => vector(rows).map(|(weights, biases)| Calibrator::Vector { weights, biases }),
        C::Svs => structured::calibrator(rows, Shape::Vector, similar),
        C::Sms => structured::calibrator(rows, Shape::Matrix, similar),
        C::Platt => with(columns(), platt).map(|(a, b)| Calibrator::Platt { a, b }),
        C::Affine => with(columns(), affine).map(|(a, b)| Calibrator::Affine { a, b }),
        C::Beta => with(columns(), beta).map(|[a, b, c]| Calibrator::Beta { a, b, c }),
        C::Quadratic => with(columns(), quadratic).map(|c| Calibrator::Quadratic { c }),
        C::Isotonic => with(columns(), isotonic).map(Calibrator::Isotonic),
        C::VennAbers => with(columns(), venn_abers).map(Calibrator::VennAbers),
    }?;
    // What a policy would refuse is no fit.
    match fitted.validate(rows.classes) {
        Ok(()) => Ok(fitted),
        Err(_) => Err(Fallback::NotConverged),
    }
}

fn with<T>((margins, labels): (Vec<f64>, Vec<bool>), fit: impl FnOnce(&[f64], &[bool]) -> T) -> T {
    fit(&margins, &labels)
}

#[cfg(test)]
mod tests;
