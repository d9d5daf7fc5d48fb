//! Logistic regression on a few features by damped Newton steps.

use crate::parallel::chunked_sums;
use stage1_core::policy::{sigmoid, softplus};

const MOST_STEPS: usize = 200;
/// Half the squared Newton decrement estimates the mean loss that is still to gain. Below this, the loss itself is too
/// coarse to judge a step by, and Newton's steps are good without judging.
const CLOSE: f64 = 1e-10;
/// A step from here ends within rounding of the optimum.
const CLOSE_ENOUGH: f64 = 1e-16;

/// An optimum.
pub(super) struct Fitted<const D: usize> {
    pub(super) weights: [f64; D],
    /// Mean negative log-likelihood, in nats.
    pub(super) loss: f64,
}

/// Minimises the mean of softplus(w·x) − t·(w·x) over `n` rows with features x and targets t in `[0, 1]`; none if the
/// search doesn't end at an optimum.
pub(super) fn fit<const D: usize>(
    n: usize,
    features: impl Fn(usize) -> [f64; D] + Sync,
    target: impl Fn(usize) -> f64 + Sync,
) -> Option<Fitted<D>> {
    let scale = largest(n, &features);
    let scaled = |i: usize| {
        let mut x = features(i);
        for (x, s) in x.iter_mut().zip(scale) {
            *x /= s;
        }
        x
    };
    let mut fitted = descend(n, &scaled, &target)?;
    for (w, s) in fitted.weights.iter_mut().zip(scale) {
        *w /= s;
    }
    fitted
        .weights
        .iter()
        .all(|w| w.is_finite())
        .then_some(fitted)
}

/// The largest size of each feature: divided by it, all of them weigh alike.
fn largest<const D: usize>(n: usize, features: impl Fn(usize) -> [f64; D]) -> [f64; D] {
    let mut scale = [0.0; D];
    for i in 0..n {
        for (s, x) in scale.iter_mut().zip(features(i)) {
            *s = f64::max(*s, x.abs());
        }
    }
    scale.map(|s| if s > 0.0 { s } else { 1.0 })
}

fn descend<const D: usize>(
    n: usize,
    features: &(impl Fn(usize) -> [f64; D] + Sync),
    target: &(impl Fn(usize) -> f64 + Sync),
) -> Option<Fitted<D>> {
    let loss_at = |weights: &[f64; D]| mean_loss(n, features, target, weights);
    let mut weights = [0.0; D];
    for _ in 0..MOST_STEPS {
        let (gradient, hessian) = derivatives(n, features, target, &weights);
        let step = solve(hessian, gradient)?;
        let gain = dot(&step, &gradient) / 2.0;
        weights = if gain <= CLOSE {
            minus(&weights, &step, 1.0)
        } else {
            shorten(&weights, &step, loss_at)
        };
        if gain <= CLOSE_ENOUGH {
            return Some(Fitted {
                weights,
                loss: loss_at(&weights),
            });
        }
    }
    None
}

/// Goes along −`step`, halving it until the loss doesn't rise; stays if no part of it helps.
fn shorten<const D: usize>(
    weights: &[f64; D],
    step: &[f64; D],
    loss_at: impl Fn(&[f64; D]) -> f64,
) -> [f64; D] {
    let loss = loss_at(weights);
    let shares = std::iter::successors(Some(1.0), |share| Some(share / 2.0)).take(40);
    let mut nexts = shares.map(|share| minus(weights, step, share));
    nexts.find(|next| loss_at(next) <= loss).unwrap_or(*weights)
}

fn minus<const D: usize>(weights: &[f64; D], step: &[f64; D], share: f64) -> [f64; D] {
    std::array::from_fn(|j| weights[j] - share * step[j])
}

fn mean_loss<const D: usize>(
    n: usize,
    features: &(impl Fn(usize) -> [f64; D] + Sync),
    target: &(impl Fn(usize) -> f64 + Sync),
    weights: &[f64; D],
) -> f64 {
    let [sum] = chunked_sums(n, |range| {
        [range
            .map(|i| {
                let logit = dot(weights, &features(i));
                softplus(logit) - target(i) * logit
            })
            .sum()]
    });
    sum / n as f64
}

/// Gradient and Hessian (nine numbers suffice for three features) of the mean loss.
fn derivatives<const D: usize>(
    n: usize,
    features: &(impl Fn(usize) -> [f64; D] + Sync),
    target: &(impl Fn(usize) -> f64 + Sync),
    weights: &[f64; D],
) -> ([f64; D], [[f64; D]; D]) {
    assert!(D <= 3, "twelve sums hold at most three features");
    let sums = chunked_sums::<12>(n, |range| {
        let mut sums = [0.0; 12];
        for i in range {
            let x = features(i);
            let p = sigmoid(dot(weights, &x));
            for (j, xj) in x.iter().enumerate() {
                sums[j] += (p - target(i)) * xj;
                for (k, xk) in x.iter().enumerate() {
                    sums[3 + 3 * j + k] += p * (1.0 - p) * xj * xk;
                }
            }
        }
        sums
    });
    let n = n as f64;
    let gradient = std::array::from_fn(|j| sums[j] / n);
    (
        gradient,
        std::array::from_fn(|j| std::array::from_fn(|k| sums[3 + 3 * j + k] / n)),
    )
}

fn dot<const D: usize>(a: &[f64; D], b: &[f64; D]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves the symmetric system by Cholesky, with as small a ridge as makes it solvable (features may be collinear).
fn solve<const D: usize>(matrix: [[f64; D]; D], right: [f64; D]) -> Option<[f64; D]> {
    let trace: f64 = (0..D).map(|j| matrix[j][j]).sum();
    let ridges = [0.0, 1e-14, 1e-12, 1e-10, 1e-8, 1e-4].into_iter();
    ridges
        .map(|ridge| ridge * trace + if ridge > 0.0 { f64::MIN_POSITIVE } else { 0.0 })
        .find_map(|ridge| {
            let mut ridged = matrix;
            for (j, row) in ridged.iter_mut().enumerate() {
                row[j] += ridge;
            }
            let x = cholesky(ridged, right)?;
            x.iter().all(|x| x.is_finite()).then_some(x)
        })
}

fn cholesky<const D: usize>(mut m: [[f64; D]; D], mut x: [f64; D]) -> Option<[f64; D]> {
    for j in 0..D {
        for i in j..D {
            let sum: f64 = (0..j).map(|k| m[i][k] * m[j][k]).sum();
            let rest = m[i][j] - sum;
            if i > j {
                m[i][j] = rest / m[j][j];
            } else if rest > 1e-15 * m[j][j].abs() {
                m[j][j] = libm::sqrt(rest);
            } else {
                return None;
            }
        }
    }
    for j in 0..D {
        let sum: f64 = (0..j).map(|k| m[j][k] * x[k]).sum();
        x[j] = (x[j] - sum) / m[j][j];
    }
    for j in (0..D).rev() {
        let sum: f64 = (j + 1..D).map(|k| m[k][j] * x[k]).sum();
        x[j] = (x[j] - sum) / m[j][j];
    }
    Some(x)
}
