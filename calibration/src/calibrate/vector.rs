//! Vector scaling (Guo et al. 2017): a weight and a bias per class, of largest likelihood.

use super::cholesky::Cholesky;
use super::regression::{Penalty, Regression, Shape};
use super::temperature;
use crate::rows::Labelled;
use stage1_core::policy::Fallback;

/// A curvature that has fallen below this share of what it was at the start: the search has run away.
const GONE: f64 = 1e-10;
/// With more classes than this, curvatures are too many to see whether the likelihood has a maximum, and unpenalised
/// parameters too many to trust: SVS is there.
pub const MOST_VECTOR_CLASSES: usize = 250;

/// (w, b) that maximise the likelihood of softmax(w ⊙ z + b); the biases sum to zero.
///
/// # Errors
/// As [`temperature`](super::temperature()), which it starts from; [`Fallback::TooManyClasses`] for more than
/// [`MOST_VECTOR_CLASSES`]; [`Fallback::ClassWithoutRows`] or
/// [`Fallback::Separable`] if the likelihood has no maximum, [`Fallback::TooFewValues`] if it has many (a class's logits
/// are constant), [`Fallback::SlopeNotPositive`] if the weights aren't positive on average.
pub fn vector(rows: Labelled<'_>) -> Result<(Vec<f64>, Vec<f64>), Fallback> {
    if rows.classes > MOST_VECTOR_CLASSES {
        return Err(Fallback::TooManyClasses);
    }
    let t = temperature(rows)?;
    check(rows)?;
    let classes = rows.classes;
    // Centred, so that logits far from zero can tell weights from biases; the biases take the centres back at the end.
    let centres = means(rows);
    let centred = |(j, z): (usize, &f32)| f64::from(*z) - centres[j % classes];
    let features: Vec<f64> = rows.logits.iter().enumerate().map(centred).collect();
    let regression = Regression {
        features: &features,
        labels: rows.labels,
        classes,
        shape: Shape::Vector,
        penalty: Penalty {
            sum_of_biases: 1.0 / (classes * classes) as f64,
            ..Penalty::default()
        },
    };
    let mut start = regression.scaled_identity(1.0 / t);
    for (bias, centre) in start[classes..].iter_mut().zip(&centres) {
        *bias = centre / t;
    }
    let optimum = search(&regression, start)?;
    let (weights, biases) = optimum.split_at(classes);
    if weights.iter().sum::<f64>() <= 0.0 {
        return Err(Fallback::SlopeNotPositive);
    }
    let shifts = biases.iter().zip(weights).zip(&centres);
    let biases: Vec<f64> = shifts.map(|((b, w), centre)| b - w * centre).collect();
    let mean = biases.iter().sum::<f64>() / classes as f64;
    Ok((weights.to_vec(), biases.iter().map(|b| b - mean).collect()))
}

/// The optimum, if there is exactly one.
fn search(regression: &Regression<'_>, start: Vec<f64>) -> Result<Vec<f64>, Fallback> {
    let at_start = Curvatures::new(regression, &start);
    if at_start.least_share(&at_start) < GONE {
        return Err(Fallback::TooFewValues);
    }
    let searched = regression.minimise(start);
    let (Ok(end) | Err(end)) = &searched;
    if Curvatures::new(regression, &end.x).least_share(&at_start) < GONE {
        return Err(Fallback::Separable);
    }
    searched
        .map(|optimum| optimum.x)
        .map_err(|_| Fallback::NotConverged)
}

fn means(rows: Labelled<'_>) -> Vec<f64> {
    let mut means = vec![0.0; rows.classes];
    for i in 0..rows.n() {
        for (mean, z) in means.iter_mut().zip(rows.row(i)) {
            *mean += f64::from(*z) / rows.n() as f64;
        }
    }
    means
}

/// Whether each class has rows, and logits that differ.
fn check(rows: Labelled<'_>) -> Result<(), Fallback> {
    let mut seen = vec![false; rows.classes];
    rows.labels.iter().for_each(|label| seen[*label] = true);
    if !seen.iter().all(|seen| *seen) {
        return Err(Fallback::ClassWithoutRows);
    }
    let first = rows.row(0);
    let varies = |k: usize| (1..rows.n()).any(|i| rows.row(i)[k].total_cmp(&first[k]).is_ne());
    if (0..rows.classes).all(varies) {
        return Ok(());
    }
    Err(Fallback::TooFewValues)
}

/// Second derivatives of single parameters, alone and once the others are accounted for.
struct Curvatures {
    alone: Vec<f64>,
    rest: Vec<f64>,
}

impl Curvatures {
    fn new(regression: &Regression<'_>, x: &[f64]) -> Self {
        let n = regression.parameters();
        let hessian = regression.hessian(x);
        Self {
            alone: (0..n).map(|j| hessian[j * n + j]).collect(),
            rest: Cholesky::of(hessian, n)
                .map_or_else(|| vec![0.0; n], |cholesky| cholesky.pivots().collect()),
        }
    }

    /// The smallest share of a parameter's curvature at `start` that is left here.
    fn least_share(&self, start: &Self) -> f64 {
        let parameters = self.rest.iter().zip(&start.alone);
        let shares = parameters.map(|(rest, alone)| if *alone > 0.0 { rest / alone } else { 0.0 });
        shares.fold(f64::INFINITY, f64::min)
    }
}
