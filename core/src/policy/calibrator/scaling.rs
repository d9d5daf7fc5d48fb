//! Scaling of several classes.

use super::check::positive;
use crate::policy::softmax::softmax_into;
use libm::log;
use serde::{Deserialize, Serialize};

/// (1 − u)·softmax(z / t) + u/K: temperature scaling that leaves no class at zero. Fitted on n rows, u is 1/(n + 1), as
/// in Laplace's rule: one more row, of a class drawn at random.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    /// Temperature, positive.
    pub t: f64,
    /// The share u of the uniform distribution.
    pub uniform: f64,
}

/// Smaller shares come of no number of rows, and would leave classes at zero.
const LEAST_SHARE: f64 = 1e-20;

impl Mixture {
    /// Of temperature `t`, fitted on `rows` rows.
    pub fn new(t: f64, rows: usize) -> Self {
        Self {
            t,
            uniform: 1.0 / (rows as f64 + 1.0),
        }
    }

    /// Writes the probabilities of one row over `out`.
    ///
    /// # Panics
    /// If `logits` is empty.
    pub fn probabilities_into(&self, logits: &[f32], out: &mut Vec<f64>) {
        softmax_into(logits, self.t, out);
        let floor = self.uniform / logits.len() as f64;
        for p in out {
            *p = (1.0 - self.uniform) * *p + floor;
        }
    }

    /// Writes ln p − mean ln p of one row over `out`.
    ///
    /// # Panics
    /// If `logits` is empty.
    pub fn centred_logs_into(&self, logits: &[f32], out: &mut Vec<f64>) {
        self.probabilities_into(logits, out);
        let mut sum = 0.0;
        for p in out.iter_mut() {
            *p = log(*p);
            sum += *p;
        }
        let mean = sum / out.len() as f64;
        for p in out {
            *p -= mean;
        }
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        positive("t", self.t)?;
        if (LEAST_SHARE..1.0).contains(&self.uniform) {
            return Ok(());
        }
        Err(format!(
            "uniform is {}, a share between 0 and 1 is needed",
            self.uniform
        ))
    }
}

/// x ← w ⊙ x + b.
pub(super) fn by_vector(weights: &[f64], biases: &[f64], x: &mut [f64]) {
    assert_eq!(weights.len(), x.len(), "a calibrator of other classes");
    for ((x, w), b) in x.iter_mut().zip(weights).zip(biases) {
        *x = w * *x + b;
    }
}

/// x ← W·x + b.
pub(super) fn by_matrix(matrix: &[f64], biases: &[f64], x: &mut Vec<f64>) {
    assert_eq!(biases.len(), x.len(), "a calibrator of other classes");
    let of = |(row, b): (&[f64], &f64)| row.iter().zip(&*x).map(|(w, x)| w * x).sum::<f64>() + b;
    *x = matrix.chunks_exact(x.len()).zip(biases).map(of).collect();
}
