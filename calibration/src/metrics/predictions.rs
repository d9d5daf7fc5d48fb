use crate::error::{Error, Result};
use crate::rows::class;
use libm::log;
use rayon::prelude::*;
use stage1_core::logits::LogitSet;
use stage1_core::policy::{Outcome, Policy, argmax, exp_of_nonpositive};

/// Probabilities, predictions and labels of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// Number of classes.
    pub classes: usize,
    /// `[n, classes]`, row-major; rows sum to one.
    pub probabilities: Vec<f64>,
    /// Predicted classes `[n]`.
    pub predicted: Vec<usize>,
    /// True classes `[n]`.
    pub labels: Vec<usize>,
    /// −ln probability of the true class `[n]`, in nats.
    pub nll: Vec<f64>,
    /// Units `[n]`; none: every row is its own.
    pub units: Option<Vec<u64>>,
    /// What a policy answers `[n]`, nothing where it defers.
    pub answers: Option<Vec<Option<usize>>>,
}

impl Predictions {
    /// Softmax probabilities and arg-maxes of raw logits, and the answers of `policy` if there is one.
    ///
    /// # Errors
    /// As [`LogitSet::validate`], and [`Error::Row`] when the policy can't decide a row.
    pub fn from_logits(set: &LogitSet, policy: Option<&Policy>) -> Result<Self> {
        set.validate()?;
        let labels: Vec<usize> = set.labels.par_iter().map(|label| class(*label)).collect();
        let mut probabilities = vec![0.0; set.logits.len()];
        let rows = probabilities
            .par_chunks_mut(set.classes)
            .zip(&labels)
            .enumerate();
        let (predicted, nll) = rows
            .map(|(i, (p, label))| softmax(set.row(i), *label, p))
            .unzip();
        Ok(Self {
            classes: set.classes,
            probabilities,
            predicted,
            nll,
            labels,
            units: set.units.clone(),
            answers: policy.map(|policy| answers(set, policy)).transpose()?,
        })
    }

    /// Given probabilities `[n, classes]`; the prediction is the first largest. Logarithms are clipped at ε = 2⁻⁵², as
    /// scikit-learn does.
    ///
    /// # Panics
    /// If the lengths don't agree or a label is no class.
    pub fn from_probabilities(classes: usize, probabilities: Vec<f64>, labels: Vec<usize>) -> Self {
        assert_eq!(
            probabilities.len(),
            labels.len() * classes,
            "probabilities are [n, classes]"
        );
        let rows = || probabilities.chunks_exact(classes);
        let largest = |row: &[f64]| {
            (0..classes)
                .rev()
                .max_by(|a, b| row[*a].total_cmp(&row[*b]))
                .unwrap_or(0)
        };
        let clipped = |p: f64| -libm::log(p.clamp(f64::EPSILON, 1.0));
        Self {
            classes,
            predicted: rows().map(largest).collect(),
            nll: rows()
                .zip(&labels)
                .map(|(row, label)| clipped(row[*label]))
                .collect(),
            labels,
            probabilities,
            units: None,
            answers: None,
        }
    }

    /// Given probabilities of class 1 of two; class 1 is predicted from one half on.
    ///
    /// # Panics
    /// If the lengths don't agree or a label isn't 0 or 1.
    pub fn from_positive_probabilities(p: &[f64], labels: Vec<usize>) -> Self {
        let both = p.iter().flat_map(|p| [1.0 - p, *p]).collect();
        let mut predictions = Self::from_probabilities(2, both, labels);
        predictions.predicted = p.iter().map(|p| usize::from(*p >= 0.5)).collect();
        predictions
    }

    /// Number of rows.
    pub fn n(&self) -> usize {
        self.labels.len()
    }

    /// The probabilities of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.probabilities[i * self.classes..(i + 1) * self.classes]
    }

    /// The largest probability of each row.
    pub fn confidence(&self) -> Vec<f64> {
        let largest = |row: &[f64]| row.iter().copied().fold(0.0, f64::max);
        self.probabilities
            .par_chunks(self.classes)
            .map(largest)
            .collect()
    }

    /// The probability of class `k` in each row.
    pub fn of_class(&self, k: usize) -> Vec<f64> {
        self.probabilities
            .iter()
            .skip(k)
            .step_by(self.classes)
            .copied()
            .collect()
    }

    /// Whether the label of each row is `k`.
    pub fn is_class(&self, k: usize) -> Vec<bool> {
        self.labels.iter().map(|label| *label == k).collect()
    }

    /// Whether the prediction of each row is wrong.
    pub fn wrong(&self) -> Vec<bool> {
        self.labels
            .iter()
            .zip(&self.predicted)
            .map(|(label, predicted)| label != predicted)
            .collect()
    }

    /// Σ_k (p_k − [label = k])² of each row.
    pub fn brier(&self) -> Vec<f64> {
        let of = |(row, label): (&[f64], &usize)| {
            let parts = row.iter().enumerate().map(|(k, p)| {
                let miss = p - f64::from(k == *label);
                miss * miss
            });
            parts.sum()
        };
        self.probabilities
            .par_chunks(self.classes)
            .zip(&self.labels)
            .map(of)
            .collect()
    }
}

/// Writes the softmax of `logits` to `p`; returns the arg-max and −ln of the label's probability.
fn softmax(logits: &[f32], label: usize, p: &mut [f64]) -> (usize, f64) {
    let predicted = argmax(logits);
    let max = f64::from(logits[predicted]);
    for (p, z) in p.iter_mut().zip(logits) {
        *p = exp_of_nonpositive(f64::from(*z) - max);
    }
    let sum: f64 = p.iter().sum();
    for p in p {
        *p /= sum;
    }
    // The difference of logits first: a large maximum must not cost the digits of the logarithm.
    (predicted, max - f64::from(logits[label]) + log(sum))
}

fn answers(set: &LogitSet, policy: &Policy) -> Result<Vec<Option<usize>>> {
    let answer = |row: usize| match policy.decide(set.model_row(row)) {
        Ok(decision) => Ok(match decision.outcome {
            Outcome::Answer { label } => Some(label),
            Outcome::Defer => None,
        }),
        Err(source) => Err(Error::Row { row, source }),
    };
    // In order: the row that is named is the first that can't be decided.
    (0..set.n()).map(answer).collect()
}
