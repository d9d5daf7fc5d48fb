//! The inductive Venn–Abers predictor, as two step functions.

use serde::{Deserialize, Serialize};

/// p₀(s) and p₁(s): what isotonic regression says at margin s if the new row joins with label 0, and with label 1
/// (Vovk, Petej & Fedorova 2015). Both rise by steps; p₀ ≤ p₁.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VennAbersSteps {
    /// (margin x, value): p₀(s) is the value of the last step with x ≤ s, and 0 before the first.
    pub p0: Vec<[f64; 2]>,
    /// (margin x, value): p₁(s) is the value of the first step with x ≥ s, and 1 after the last.
    pub p1: Vec<[f64; 2]>,
}

impl VennAbersSteps {
    /// (p₀, p₁) at margin `s`.
    pub fn interval(&self, s: f64) -> (f64, f64) {
        let at_or_before = self.p0.partition_point(|[x, _]| *x <= s);
        let at_or_after = self.p1.partition_point(|[x, _]| *x < s);
        (
            at_or_before.checked_sub(1).map_or(0.0, |i| self.p0[i][1]),
            self.p1.get(at_or_after).map_or(1.0, |step| step[1]),
        )
    }

    /// The one probability p₁ / (1 − p₀ + p₁), which is minimax for the log loss.
    pub fn probability(&self, s: f64) -> f64 {
        let (p0, p1) = self.interval(s);
        p1 / (1.0 - p0 + p1)
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        for (name, steps) in [("p0", &self.p0), ("p1", &self.p1)] {
            check_scores(name, steps.iter().map(|[x, _]| *x))?;
            let values = || steps.iter().map(|[_, y]| *y);
            let in_range = values().all(|y| match name {
                "p0" => (0.0..1.0).contains(&y),
                _ => y > LEAST && y <= 1.0,
            });
            if !in_range || !values().is_sorted() {
                return Err(format!(
                    "the values of {name} must not fall, and lie in [0, 1) for p0 and (0, 1] for p1"
                ));
            }
        }
        Ok(())
    }
}

/// A p₁ of n rows is at least 1 / (n + 1).
const LEAST: f64 = 1e-20;

/// Margins of `f32` logits lie within this.
const LARGEST_MARGIN: f64 = 2.0 * f32::MAX as f64;

/// At least one margin, all of them possible, and rising strictly.
pub(super) fn check_scores(
    name: &str,
    mut margins: impl Iterator<Item = f64> + Clone,
) -> Result<(), String> {
    let rising = margins.clone().is_sorted_by(|a, b| a < b);
    let possible = margins.clone().all(|x| x.abs() <= LARGEST_MARGIN);
    if margins.next().is_some() && rising && possible {
        return Ok(());
    }
    Err(format!(
        "the margins of {name} must be finite and rise strictly, and there must be one at least"
    ))
}
