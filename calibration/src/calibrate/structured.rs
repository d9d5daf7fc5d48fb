//! Structured vector and matrix scaling (SVS, SMS; arXiv 2511.03685, and the objective of its package probmetrics).

use super::regression::{Penalty, Regression, Shape};
use super::temperature::ts_mix_near;
use crate::rows::Labelled;
use rayon::prelude::*;
use stage1_core::policy::{Calibrator, Fallback, Mixture};

/// SMS has K² + K parameters: with more classes than this they are too many to fit, to store and to trust.
pub const MOST_SMS_CLASSES: usize = 100;
/// The weight λ of the penalties.
const LAMBDA: f64 = 1.0;

/// An optimum of SVS or SMS.
#[derive(Debug, Clone, PartialEq)]
pub struct Structured {
    /// What makes the features L: centred logarithms of temperature scaling's probabilities, mixed with the uniform
    /// distribution.
    pub mixture: Mixture,
    /// The weights: `[K]` for SVS, `[K, K]` row by row for SMS. Without data they would be 1, or the identity.
    pub weights: Vec<f64>,
    /// The biases `[K]`.
    pub biases: Vec<f64>,
    /// The minimised sum of the mean loss in nats and the penalties.
    pub objective: f64,
}

/// Minimises the mean of −ln softmax(w ⊙ L + b)_label + λK/n·|b|² + λK/n·|w − 1|², λ = 1.
///
/// # Errors
/// As [`temperature`](super::temperature()), whose probabilities it starts from, and [`Fallback::NotConverged`].
pub fn svs(rows: Labelled<'_>) -> Result<Structured, Fallback> {
    fit(rows, Shape::Vector, None)
}

/// Minimises the mean of −ln softmax(W·L + b)_label + λK/n·|b|² + λK/n·|diag W − 1|² + λK(K−1)/n·|rest of W|², λ = 1.
///
/// # Errors
/// As [`svs`], and [`Fallback::TooManyClasses`] for more than [`MOST_SMS_CLASSES`].
pub fn sms(rows: Labelled<'_>) -> Result<Structured, Fallback> {
    fit(rows, Shape::Matrix, None)
}

/// As [`svs`] and [`sms`], searched from the calibrator of another fit to similar rows: the optimum is the same.
pub(super) fn calibrator(
    rows: Labelled<'_>,
    shape: Shape,
    similar: Option<&Calibrator>,
) -> Result<Calibrator, Fallback> {
    let start = match similar {
        Some(Calibrator::Svs {
            mixture,
            weights,
            biases,
        }) if shape == Shape::Vector => Some((mixture.t, [&weights[..], biases].concat())),
        Some(Calibrator::Sms {
            mixture,
            matrix,
            biases,
        }) if shape == Shape::Matrix => Some((mixture.t, [&matrix[..], biases].concat())),
        _ => None,
    };
    let Structured {
        mixture,
        weights,
        biases,
        ..
    } = fit(rows, shape, start)?;
    Ok(match shape {
        Shape::Vector => Calibrator::Svs {
            mixture,
            weights,
            biases,
        },
        Shape::Matrix => Calibrator::Sms {
            mixture,
            matrix: weights,
            biases,
        },
    })
}

/// `start` is a temperature and parameters.
fn fit(
    rows: Labelled<'_>,
    shape: Shape,
    start: Option<(f64, Vec<f64>)>,
) -> Result<Structured, Fallback> {
    if shape == Shape::Matrix && rows.classes > MOST_SMS_CLASSES {
        return Err(Fallback::TooManyClasses);
    }
    let mixture = ts_mix_near(rows, start.as_ref().map(|(t, _)| *t))?;
    let features = centred_logs(rows, &mixture);
    let (k, n) = (rows.classes as f64, rows.n() as f64);
    let regression = Regression {
        features: &features,
        labels: rows.labels,
        classes: rows.classes,
        shape,
        penalty: Penalty {
            bias: LAMBDA * k / n,
            own: LAMBDA * k / n,
            other: LAMBDA * k * (k - 1.0) / n,
            sum_of_biases: 0.0,
        },
    };
    let start = start.map_or_else(|| regression.scaled_identity(1.0), |(_, x)| x);
    let mut optimum = regression
        .minimise(start)
        .map_err(|_| Fallback::NotConverged)?;
    let biases = optimum.x.split_off(optimum.x.len() - rows.classes);
    Ok(Structured {
        mixture,
        weights: optimum.x,
        biases,
        objective: optimum.value,
    })
}

fn centred_logs(rows: Labelled<'_>, mixture: &Mixture) -> Vec<f64> {
    let mut features = vec![0.0; rows.logits.len()];
    let write = |(i, out): (usize, &mut [f64]), row: &mut Vec<f64>| {
        mixture.centred_logs_into(rows.row(i), row);
        out.copy_from_slice(row);
    };
    features
        .par_chunks_exact_mut(rows.classes)
        .enumerate()
        .for_each_with(Vec::with_capacity(rows.classes), |row, out| write(out, row));
    features
}
