//! Temperature scaling (Guo et al. 2017) by a search that can't get lost: the likelihood is convex in 1/T.

use crate::parallel::chunked_sums;
use crate::rows::Labelled;
use libm::{exp, fabs, log};
use stage1_core::policy::{Fallback, Mixture, argmax, exp_of_nonpositive};
use std::ops::Range;

/// The search's border: T between e⁻¹⁶ and e¹⁶.
const BORDER: f64 = 16.0;
/// The search ends when u = ln(1/T) is known to this.
const WIDTH: f64 = 1e-13;
/// A search over many rows starts on this share of them,
const SHARE: usize = 16;
/// if these are as many.
const SOME: usize = 1 << 12;

/// The temperature T that maximises the likelihood of `labels` under softmax(z / T).
///
/// # Errors
/// A [`Fallback`]: no rows, one class only, every row right (T → 0), logits that rank nothing (T → ∞), or an optimum
/// beyond the search's border.
pub fn temperature(rows: Labelled<'_>) -> Result<f64, Fallback> {
    temperature_near(rows, None)
}

/// As [`temperature`], searched first near the temperature of similar rows: the optimum is the same.
pub(super) fn temperature_near(rows: Labelled<'_>, near: Option<f64>) -> Result<f64, Fallback> {
    check(rows)?;
    let start = near.or_else(|| of_some(rows)).map(|t| -log(t));
    match start.and_then(|u| polished(rows, u)) {
        Some(u) => Ok(exp(-u)),
        None => in_bracket(rows),
    }
}

/// The temperature of rows at even distances, if there are so many that it saves work.
fn of_some(rows: Labelled<'_>) -> Option<f64> {
    if rows.n() < SHARE * SOME {
        return None;
    }
    let some = || (0..rows.n()).step_by(SHARE);
    let logits: Vec<f32> = some().flat_map(|i| rows.row(i)).copied().collect();
    let labels: Vec<usize> = some().map(|i| rows.labels[i]).collect();
    temperature(Labelled {
        logits: &logits,
        classes: rows.classes,
        labels: &labels,
    })
    .ok()
}

/// Newton's steps from `u`; none if they don't soon end inside the border.
fn polished(rows: Labelled<'_>, mut u: f64) -> Option<f64> {
    let mut before = f64::INFINITY;
    for _ in 0..8 {
        let (value, derivative) = slope(rows, u);
        let step = value / derivative;
        u -= step;
        // Not the opposites: NaN must not pass.
        if !(fabs(step) < 1.0 && fabs(u) < BORDER) {
            return None;
        }
        // Each step is about the square of the one before, times a factor: what the next one would still be.
        let size = fabs(step);
        let next = size * size * (size / (before * before)).max(1.0);
        if size <= 1e-8 || (before.is_finite() && next <= 1e-10) {
            return Some(u);
        }
        before = size;
    }
    None
}

fn in_bracket(rows: Labelled<'_>) -> Result<f64, Fallback> {
    let (at_low, _) = slope(rows, -BORDER);
    let (at_high, _) = slope(rows, BORDER);
    if at_high <= 0.0 {
        let all_right = (0..rows.n()).all(|i| argmax(rows.row(i)) == rows.labels[i]);
        return Err(if all_right && at_low < 0.0 {
            Fallback::Separable
        } else {
            Fallback::AtBoundary
        });
    }
    if at_low >= 0.0 {
        return Err(if ranks(rows) {
            Fallback::AtBoundary
        } else {
            Fallback::SlopeNotPositive
        });
    }
    Ok(exp(-root(rows)))
}

/// Temperature scaling mixed with the uniform distribution, whose share is 1/(n + 1) (Laplace's rule): no class of any
/// row is reported as impossible. As `ts-mix` of the package probmetrics, which goes with Berta, Holzmüller, Jordan & Bach
/// 2025, "Rethinking early stopping: refine, then calibrate" (2501.19195).
///
/// # Errors
/// As [`temperature`].
pub fn ts_mix(rows: Labelled<'_>) -> Result<Mixture, Fallback> {
    ts_mix_near(rows, None)
}

/// As [`ts_mix`], searched first near the temperature of similar rows.
pub(super) fn ts_mix_near(rows: Labelled<'_>, near: Option<f64>) -> Result<Mixture, Fallback> {
    Ok(Mixture::new(temperature_near(rows, near)?, rows.n()))
}

fn check(rows: Labelled<'_>) -> Result<(), Fallback> {
    let first = rows.labels.first().ok_or(Fallback::NoRows)?;
    if rows.labels.iter().all(|label| label == first) {
        return Err(Fallback::OneClass);
    }
    Ok(())
}

/// Whether labels have larger logits than the mean class: the sign of g's limit for T → ∞, beyond its rounding.
fn ranks(rows: Labelled<'_>) -> bool {
    let [limit, size] = chunked_sums(rows.n(), |range| {
        let mut sums = [0.0; 2];
        for i in range {
            let row = rows.row(i);
            let mean = row.iter().map(|z| f64::from(*z)).sum::<f64>() / row.len() as f64;
            let own = f64::from(row[rows.labels[i]]);
            sums[0] += mean - own;
            sums[1] += fabs(mean) + fabs(own);
        }
        sums
    });
    limit < -1e-12 * size
}

/// Bisection on u, taking Newton's step where it stays inside the bracket.
fn root(rows: Labelled<'_>) -> f64 {
    let (mut low, mut high, mut u) = (-BORDER, BORDER, 0.0);
    while high - low > WIDTH {
        let (value, derivative) = slope(rows, u);
        if value < 0.0 {
            low = u;
        } else {
            high = u;
        }
        let newton = u - value / derivative;
        if fabs(newton - u) <= WIDTH {
            return newton;
        }
        u = if low < newton && newton < high {
            newton
        } else {
            low + (high - low) / 2.0
        };
    }
    u
}

/// g(u) = mean over rows of Σ_k z_k·softmax(e^u·z)_k − z_label, which rises with u and is 0 at the optimum; and g′(u).
fn slope(rows: Labelled<'_>, u: f64) -> (f64, f64) {
    let scale = exp(u);
    let [sum, derivative] = chunked_sums(rows.n(), |range| {
        let mut block = Block::new(rows.classes);
        let mut sums = [0.0; 2];
        for start in range.clone().step_by(LANES) {
            block.read(rows, start..range.end.min(start + LANES));
            block.add_to(&mut sums, scale);
        }
        sums
    });
    let n = rows.n() as f64;
    (sum / n, derivative * scale / n)
}

/// Rows that are worked on together: loops over them become vector code.
const LANES: usize = 32;

/// Logits by class, each class's of a few rows side by side.
struct Block {
    /// z_k − z_label: a shift of all logits must not cost digits. Lanes without a row hold zeros, and add nothing.
    logits: Vec<[f64; LANES]>,
    /// The largest of a row.
    largest: [f64; LANES],
}

impl Block {
    fn new(classes: usize) -> Self {
        Self {
            logits: vec![[0.0; LANES]; classes],
            largest: [0.0; LANES],
        }
    }

    fn read(&mut self, rows: Labelled<'_>, range: Range<usize>) {
        self.logits.fill([0.0; LANES]);
        for (lane, i) in range.enumerate() {
            let row = rows.row(i);
            let origin = f64::from(row[rows.labels[i]]);
            for (class, z) in self.logits.iter_mut().zip(row) {
                class[lane] = f64::from(*z) - origin;
            }
        }
        self.largest = [f64::NEG_INFINITY; LANES];
        for class in &self.logits {
            for (largest, z) in self.largest.iter_mut().zip(class) {
                *largest = if *z > *largest { *z } else { *largest };
            }
        }
    }

    /// Adds the mean logit of each row under its softmax, and the variance.
    fn add_to(&self, sums: &mut [f64; 2], scale: f64) {
        let [mut whole, mut first, mut second] = [[0.0; LANES]; 3];
        for class in &self.logits {
            for lane in 0..LANES {
                let z = class[lane];
                let e = exp_of_nonpositive((z - self.largest[lane]) * scale);
                whole[lane] += e;
                first[lane] += e * z;
                second[lane] += e * z * z;
            }
        }
        for lane in 0..LANES {
            let mean = first[lane] / whole[lane];
            sums[0] += mean;
            sums[1] += second[lane] / whole[lane] - mean * mean;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_that_were_scaled_get_their_temperature_back() {
        // Two classes, one margin m: of 100 rows, 73 are right: sigmoid(m/T) = .73.
        let labels: Vec<usize> = (0..200)
            .map(|i| usize::from(!(73..173).contains(&i)))
            .collect();
        let logits: Vec<f32> = (0..200)
            .flat_map(|i| if i < 100 { [0.0, 3.0] } else { [3.0, 0.0] })
            .collect();
        let t = temperature(Labelled {
            logits: &logits,
            classes: 2,
            labels: &labels,
        })
        .unwrap();
        let want = 3.0 / (0.73_f64 / 0.27).ln();
        assert!((t - want).abs() < 1e-10, "{t} {want}");
    }
}
