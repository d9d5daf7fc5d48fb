//! Calibrators of the *reported* probability. Their output enters no comparison, so that they may be fitted on the rows
//! that certify.
//!
//! Data from which nothing can be learnt gives a [`Fallback`], never NaN.

mod beta;
mod logistic;
mod platt;
mod temperature;

pub use beta::beta;
pub use platt::platt;
pub use temperature::temperature;

use crate::error::{Error, Result};
use crate::rows::Labelled;
use stage1_core::config::CalibratorChoice;
use stage1_core::policy::{Calibrator, Fallback};

/// With fewer rows than this, `auto` takes Platt's two parameters instead of beta's three.
const FEW_ROWS: usize = 300;
/// The same for the rows of the rarer class.
const FEW_OF_A_CLASS: usize = 30;

/// A calibrator, or the reason why it is [`Calibrator::None`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// What to apply.
    pub calibrator: Calibrator,
    /// Why nothing was fitted although something was asked for.
    pub fallback: Option<Fallback>,
}

/// Fits the calibrator that `choice` asks for. `auto`: temperature for several classes; for two, beta, or Platt with
/// fewer than 300 rows or fewer than 30 of a class.
///
/// # Errors
/// [`Error::Calibrator`] when the choice doesn't go with the number of classes.
pub fn fit(rows: Labelled<'_>, choice: CalibratorChoice) -> Result<Fit> {
    let binary = rows.classes == 2;
    let fitted = match choice {
        CalibratorChoice::None => Ok(Calibrator::None),
        CalibratorChoice::Temperature => fit_temperature(rows),
        CalibratorChoice::Auto if !binary => fit_temperature(rows),
        CalibratorChoice::Auto if few(rows.labels) => fit_platt(rows),
        CalibratorChoice::Auto => fit_beta(rows),
        CalibratorChoice::Platt if binary => fit_platt(rows),
        CalibratorChoice::Beta if binary => fit_beta(rows),
        CalibratorChoice::Platt | CalibratorChoice::Beta => {
            return Err(Error::Calibrator {
                choice,
                classes: rows.classes,
            });
        }
    };
    Ok(match fitted {
        Ok(calibrator) => Fit {
            calibrator,
            fallback: None,
        },
        Err(fallback) => Fit {
            calibrator: Calibrator::None,
            fallback: Some(fallback),
        },
    })
}

fn few(labels: &[usize]) -> bool {
    let ones = labels.iter().filter(|label| **label == 1).count();
    labels.len() < FEW_ROWS || ones.min(labels.len() - ones) < FEW_OF_A_CLASS
}

fn fit_temperature(rows: Labelled<'_>) -> Result<Calibrator, Fallback> {
    temperature(rows).map(|t| Calibrator::Temperature { t })
}

fn fit_platt(rows: Labelled<'_>) -> Result<Calibrator, Fallback> {
    let (margins, labels) = binary_columns(rows);
    platt(&margins, &labels).map(|(a, b)| Calibrator::Platt { a, b })
}

fn fit_beta(rows: Labelled<'_>) -> Result<Calibrator, Fallback> {
    let (margins, labels) = binary_columns(rows);
    beta(&margins, &labels).map(|[a, b, c]| Calibrator::Beta { a, b, c })
}

/// Margins z₁ − z₀, and whether the label is 1.
pub(crate) fn binary_columns(rows: Labelled<'_>) -> (Vec<f64>, Vec<bool>) {
    let margin = |i| stage1_core::policy::Score::BinaryMargin.value(rows.row(i));
    (
        (0..rows.n()).map(margin).collect(),
        rows.labels.iter().map(|label| *label == 1).collect(),
    )
}

/// Two-class data with both classes in it.
fn check_two_classes(labels: &[bool]) -> Result<(), Fallback> {
    match labels.split_first() {
        None => Err(Fallback::NoRows),
        Some((first, rest)) if rest.iter().all(|label| label == first) => Err(Fallback::OneClass),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        name: &'static str,
        margins: Vec<f32>,
        labels: Vec<usize>,
        want: [Option<Fallback>; 3],
    }

    #[test]
    fn degenerate_data_gives_a_reason_and_never_nan() {
        use Fallback::{AtBoundary, NoRows, OneClass, Separable, SlopeNotPositive};
        let alternating: Vec<usize> = (0..40).map(|i| i % 2).collect();
        let cases = [
            Case {
                name: "no rows",
                margins: vec![],
                labels: vec![],
                want: [Some(NoRows); 3],
            },
            Case {
                name: "one class",
                margins: vec![1.0, -2.0, 3.0],
                labels: vec![1, 1, 1],
                want: [Some(OneClass); 3],
            },
            Case {
                name: "all correct",
                margins: vec![1.0, 2.0, -1.0, -2.0],
                labels: vec![1, 1, 0, 0],
                // Platt's smoothed targets have an optimum even here.
                want: [Some(Separable), None, Some(Separable)],
            },
            Case {
                name: "all wrong",
                margins: vec![1.0, 2.0, -1.0, -2.0],
                labels: vec![0, 0, 1, 1],
                want: [Some(SlopeNotPositive); 3],
            },
            Case {
                name: "constant logits",
                margins: vec![0.0; 40],
                labels: alternating.clone(),
                want: [
                    Some(AtBoundary),
                    Some(SlopeNotPositive),
                    Some(SlopeNotPositive),
                ],
            },
            Case {
                name: "huge logits",
                margins: alternating
                    .iter()
                    .enumerate()
                    .map(|(i, y)| if (i < 4) ^ (*y == 1) { 1e30 } else { -1e30 })
                    .collect(),
                labels: alternating.clone(),
                want: [Some(AtBoundary), None, None],
            },
        ];
        for Case {
            name,
            margins,
            labels,
            want,
        } in cases
        {
            let logits = stage1_core::logits::LogitSet::binary_columns(&margins);
            let rows = Labelled {
                logits: &logits,
                classes: 2,
                labels: &labels,
            };
            for (choice, want) in [
                CalibratorChoice::Temperature,
                CalibratorChoice::Platt,
                CalibratorChoice::Beta,
            ]
            .into_iter()
            .zip(want)
            {
                let fit = fit(rows, choice).unwrap();
                assert_eq!(fit.fallback, want, "{name}, {choice:?}: {fit:?}");
                assert!(
                    fit.fallback.is_none() || fit.calibrator == Calibrator::None,
                    "{name}"
                );
                for margin in [-3.0, 0.0, 1e3] {
                    let p = fit.calibrator.probabilities(&[0.0, margin]);
                    assert!(
                        p.iter().all(|p| (0.0..=1.0).contains(p)),
                        "{name}, {choice:?}: {fit:?} {p:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn auto_takes_fewer_parameters_for_fewer_rows() {
        let labelled = |n: usize, ones: usize| {
            let labels: Vec<usize> = (0..n).map(|i| usize::from(i < ones)).collect();
            let margins: Vec<f32> = (0..n)
                .map(|i| (i * 7919 % 1000) as f32 / 250.0 - 2.0 + 2.0 * labels[i] as f32)
                .collect();
            (
                stage1_core::logits::LogitSet::binary_columns(&margins),
                labels,
            )
        };
        for (n, ones, beta) in [
            (400, 200, true),
            (400, 29, false),
            (299, 150, false),
            (400, 371, false),
        ] {
            let (logits, labels) = labelled(n, ones);
            let fit = fit(
                Labelled {
                    logits: &logits,
                    classes: 2,
                    labels: &labels,
                },
                CalibratorChoice::Auto,
            )
            .unwrap();
            assert_eq!(
                matches!(fit.calibrator, Calibrator::Beta { .. }),
                beta,
                "{n} {ones} {fit:?}"
            );
            assert_eq!(
                matches!(fit.calibrator, Calibrator::Platt { .. }),
                !beta,
                "{n} {ones} {fit:?}"
            );
        }
    }

    #[test]
    fn a_choice_that_does_not_go_with_the_classes_is_refused() {
        let rows = Labelled {
            logits: &[0.0; 3],
            classes: 3,
            labels: &[0],
        };
        for choice in [CalibratorChoice::Platt, CalibratorChoice::Beta] {
            assert!(matches!(
                fit(rows, choice),
                Err(Error::Calibrator { classes: 3, .. })
            ));
        }
        assert!(fit(rows, CalibratorChoice::Auto).is_ok());
    }
}
