//! Softmax regression on one feature per class, with and without penalties: what vector scaling, SVS and SMS have in
//! common.

use super::cholesky::Cholesky;
use super::quasi_newton::{Curvature, Point, minimise};
use crate::parallel::chunked_vector_sums;
use libm::{exp, log};

/// Which features a class's logit is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Its own.
    Vector,
    /// All of them.
    Matrix,
}

/// Weights of the squares that are added to the mean loss.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Penalty {
    /// Of a bias.
    pub(super) bias: f64,
    /// Of a class's own weight, from 1.
    pub(super) own: f64,
    /// Of another class's weight.
    pub(super) other: f64,
    /// Of the sum of the biases: where nothing else tells them from biases that are all larger.
    pub(super) sum_of_biases: f64,
}

/// The penalised mean of −ln softmax(W·x + b)_label over rows. Parameters are the weights (K, or K² row by row), then the
/// K biases.
pub(super) struct Regression<'a> {
    /// `[n, K]`.
    pub(super) features: &'a [f64],
    pub(super) labels: &'a [usize],
    pub(super) classes: usize,
    pub(super) shape: Shape,
    pub(super) penalty: Penalty,
}

/// With more parameters than this, their second derivatives are too many to use.
const MOST_EXACT: usize = 500;
/// Multiplications that second derivatives may take: they are taken over as many rows, at even distances.
const CURVATURE_WORK: usize = 1 << 28;

impl Regression<'_> {
    /// The optimum, searched from `start`, or where the search got stuck.
    pub(super) fn minimise(&self, start: Vec<f64>) -> Result<Point, Point> {
        minimise(start, |x| self.value_and_gradient(x), |x| self.curvature(x))
    }

    /// Number of parameters.
    pub(super) fn parameters(&self) -> usize {
        self.weights() + self.classes
    }

    fn weights(&self) -> usize {
        match self.shape {
            Shape::Vector => self.classes,
            Shape::Matrix => self.classes * self.classes,
        }
    }

    /// The parameters that leave the features as they are, times `scale`.
    pub(super) fn scaled_identity(&self, scale: f64) -> Vec<f64> {
        let mut x = vec![0.0; self.parameters()];
        (0..self.classes).for_each(|k| x[self.own(k)] = scale);
        x
    }

    /// Where class `k`'s weight of its own feature is.
    fn own(&self, k: usize) -> usize {
        match self.shape {
            Shape::Vector => k,
            Shape::Matrix => k * self.classes + k,
        }
    }

    fn value_and_gradient(&self, x: &[f64]) -> (f64, Vec<f64>) {
        let (n, classes) = (self.labels.len(), self.classes);
        let mut sums = chunked_vector_sums(n, self.parameters() + 1, |range, sums| {
            let (loss, gradient) = sums.split_at_mut(1);
            let (weights, biases) = gradient.split_at_mut(self.weights());
            let mut residual = vec![0.0; classes];
            for i in range {
                loss[0] += self.residual(i, x, &mut residual);
                let features = self.row(i);
                for (b, r) in biases.iter_mut().zip(&residual) {
                    *b += r;
                }
                match self.shape {
                    Shape::Vector => {
                        for ((w, r), f) in weights.iter_mut().zip(&residual).zip(features) {
                            *w += r * f;
                        }
                    }
                    Shape::Matrix => {
                        for (row, r) in weights.chunks_exact_mut(classes).zip(&residual) {
                            for (w, f) in row.iter_mut().zip(features) {
                                *w += r * f;
                            }
                        }
                    }
                }
            }
        });
        sums.iter_mut().for_each(|sum| *sum /= n as f64);
        let mut gradient = sums.split_off(1);
        let value = sums[0] + self.penalise(x, &mut gradient);
        (value, gradient)
    }

    /// Writes the probabilities of row `i`, less one at its label, over `residual`; returns the row's loss.
    fn residual(&self, i: usize, x: &[f64], residual: &mut [f64]) -> f64 {
        let features = self.row(i);
        let (weights, biases) = x.split_at(self.weights());
        match self.shape {
            Shape::Vector => {
                for (k, u) in residual.iter_mut().enumerate() {
                    *u = weights[k] * features[k] + biases[k];
                }
            }
            Shape::Matrix => {
                let rows = weights.chunks_exact(self.classes);
                for ((u, row), b) in residual.iter_mut().zip(rows).zip(biases) {
                    *u = row.iter().zip(features).map(|(w, f)| w * f).sum::<f64>() + b;
                }
            }
        }
        let label = self.labels[i];
        let own = residual[label];
        let max = residual.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        for u in residual.iter_mut() {
            *u = exp(*u - max);
            sum += *u;
        }
        residual.iter_mut().for_each(|p| *p /= sum);
        residual[label] -= 1.0;
        (max - own) + log(sum)
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.features[i * self.classes..(i + 1) * self.classes]
    }

    /// Adds the penalty's gradient, and returns the penalty.
    fn penalise(&self, x: &[f64], gradient: &mut [f64]) -> f64 {
        let mut total = 0.0;
        for j in 0..self.parameters() {
            let (weight, from) = self.penalty_of(j);
            let distance = x[j] - from;
            total += weight * distance * distance;
            gradient[j] += 2.0 * weight * distance;
        }
        let sum: f64 = x[self.weights()..].iter().sum();
        for g in &mut gradient[self.weights()..] {
            *g += 2.0 * self.penalty.sum_of_biases * sum;
        }
        total + self.penalty.sum_of_biases * sum * sum
    }

    /// The weight of parameter `j`'s square, and where it is measured from.
    fn penalty_of(&self, j: usize) -> (f64, f64) {
        match self.shape {
            _ if j >= self.weights() => (self.penalty.bias, 0.0),
            Shape::Matrix if j / self.classes != j % self.classes => (self.penalty.other, 0.0),
            _ => (self.penalty.own, 1.0),
        }
    }

    fn curvature(&self, x: &[f64]) -> Option<Curvature> {
        let n = self.parameters();
        if n <= MOST_EXACT {
            return Cholesky::of_nearly(&self.hessian(x), n).map(Curvature::Exact);
        }
        let least = f64::MIN_POSITIVE;
        Some(Curvature::Diagonal(
            self.diagonal(x).into_iter().map(|d| d.max(least)).collect(),
        ))
    }

    /// Second derivatives `[D, D]` of D parameters, lower triangle, over rows at even distances.
    pub(super) fn hessian(&self, x: &[f64]) -> Vec<f64> {
        let classes = self.classes;
        // What multiplies the parameters of one class: some features and a one.
        let m = self.weights() / classes + 1;
        let pairs = classes * (classes + 1) / 2;
        let rows = self.rows_for(CURVATURE_WORK / (pairs * m * m));
        let sums = chunked_vector_sums(rows, pairs * m * m, |range, sums| {
            let mut p = vec![0.0; classes];
            for i in range {
                let i = self.nth_of(i, rows);
                self.residual(i, x, &mut p);
                p[self.labels[i]] += 1.0;
                let mut blocks = sums.chunks_exact_mut(m * m);
                for k in 0..classes {
                    for l in 0..=k {
                        let c = if k == l {
                            p[k] * (1.0 - p[k])
                        } else {
                            -p[k] * p[l]
                        };
                        let block = blocks.next().expect("one for each pair");
                        for (a, row) in block.chunks_exact_mut(m).enumerate() {
                            let left = c * self.input(i, k, a, m);
                            for (b, sum) in row.iter_mut().enumerate() {
                                *sum += left * self.input(i, l, b, m);
                            }
                        }
                    }
                }
            }
        });
        self.assemble(&sums, m, rows)
    }

    /// The `a`-th of the `m` numbers that class `k`'s parameters multiply in row `i`.
    #[inline]
    fn input(&self, i: usize, k: usize, a: usize, m: usize) -> f64 {
        match self.shape {
            _ if a + 1 == m => 1.0,
            Shape::Vector => self.features[i * self.classes + k],
            Shape::Matrix => self.features[i * self.classes + a],
        }
    }

    /// Where the parameter is that multiplies [`Regression::input`].
    fn place(&self, k: usize, a: usize, m: usize) -> usize {
        if a + 1 == m {
            self.weights() + k
        } else {
            k * (m - 1) + a
        }
    }

    fn assemble(&self, sums: &[f64], m: usize, rows: usize) -> Vec<f64> {
        let (n, classes) = (self.parameters(), self.classes);
        let mut hessian = vec![0.0; n * n];
        let mut blocks = sums.chunks_exact(m * m);
        for k in 0..classes {
            for l in 0..=k {
                let block = blocks.next().expect("one for each pair");
                for (ab, sum) in block.iter().enumerate() {
                    let (i, j) = (self.place(k, ab / m, m), self.place(l, ab % m, m));
                    hessian[i.max(j) * n + i.min(j)] = sum / rows as f64;
                }
            }
        }
        for (j, d) in self.penalty_curvature().into_iter().enumerate() {
            hessian[j * n + j] += d;
        }
        for i in self.weights()..n {
            for j in self.weights()..=i {
                hessian[i * n + j] += 2.0 * self.penalty.sum_of_biases;
            }
        }
        hessian
    }

    /// The Hessian's diagonal.
    fn diagonal(&self, x: &[f64]) -> Vec<f64> {
        let classes = self.classes;
        let rows = self.rows_for(CURVATURE_WORK / self.parameters());
        let mut sums = chunked_vector_sums(rows, self.parameters(), |range, sums| {
            let (weights, biases) = sums.split_at_mut(self.weights());
            let mut p = vec![0.0; classes];
            for i in range {
                let i = self.nth_of(i, rows);
                self.residual(i, x, &mut p);
                p[self.labels[i]] += 1.0;
                let features = self.row(i);
                for k in 0..classes {
                    let c = p[k] * (1.0 - p[k]);
                    biases[k] += c;
                    match self.shape {
                        Shape::Vector => weights[k] += c * features[k] * features[k],
                        Shape::Matrix => {
                            let row = &mut weights[k * classes..(k + 1) * classes];
                            for (w, f) in row.iter_mut().zip(features) {
                                *w += c * f * f;
                            }
                        }
                    }
                }
            }
        });
        for (j, (sum, d)) in sums.iter_mut().zip(self.penalty_curvature()).enumerate() {
            let shared = if j < self.weights() {
                0.0
            } else {
                2.0 * self.penalty.sum_of_biases
            };
            *sum = *sum / rows as f64 + d + shared;
        }
        sums
    }

    fn penalty_curvature(&self) -> Vec<f64> {
        (0..self.parameters())
            .map(|j| 2.0 * self.penalty_of(j).0)
            .collect()
    }

    /// As many rows as `budget` allows, but enough to tell the parameters apart.
    fn rows_for(&self, budget: usize) -> usize {
        self.labels.len().min(budget.max(4 * self.parameters()))
    }

    /// The `i`-th of `rows` rows at even distances.
    fn nth_of(&self, i: usize, rows: usize) -> usize {
        i * self.labels.len() / rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::uniform;

    #[test]
    fn derivatives_are_those_of_the_value() {
        let (n, classes) = (40, 3);
        let features: Vec<f64> = (0..n * classes)
            .map(|i| 4.0 * uniform(1, 0, i as u64) - 2.0)
            .collect();
        let labels: Vec<usize> = (0..n)
            .map(|i| (uniform(2, 0, i as u64) * 3.0) as usize)
            .collect();
        for shape in [Shape::Vector, Shape::Matrix] {
            let regression = Regression {
                features: &features,
                labels: &labels,
                classes,
                shape,
                penalty: Penalty {
                    bias: 0.1,
                    own: 0.2,
                    other: 0.3,
                    sum_of_biases: 0.4,
                },
            };
            let d = regression.parameters();
            let x: Vec<f64> = (0..d).map(|j| uniform(3, 0, j as u64) - 0.5).collect();
            let (_, gradient) = regression.value_and_gradient(&x);
            let hessian = regression.hessian(&x);
            let diagonal = regression.diagonal(&x);
            let h = 1e-5;
            for j in 0..d {
                let moved = |by: f64| {
                    let mut x = x.clone();
                    x[j] += by;
                    regression.value_and_gradient(&x)
                };
                let ((up, up_gradient), (down, down_gradient)) = (moved(h), moved(-h));
                assert!(
                    ((up - down) / (2.0 * h) - gradient[j]).abs() < 1e-8,
                    "{shape:?} {j}"
                );
                for i in j..d {
                    let want = (up_gradient[i] - down_gradient[i]) / (2.0 * h);
                    assert!(
                        (hessian[i * d + j] - want).abs() < 1e-8,
                        "{shape:?} {i} {j}"
                    );
                }
                assert!(
                    (hessian[j * d + j] - diagonal[j]).abs() < 1e-12,
                    "{shape:?} {j}"
                );
            }
        }
    }
}
