//! Temperature scaling (Guo et al. 2017) by a search that can't get lost: the likelihood is convex in 1/T.

use crate::parallel::chunked_sums;
use crate::rows::Labelled;
use libm::{exp, fabs, log};
use stage1_core::policy::{Fallback, Mixture, argmax, softmax_into};

/// The search's border: T between e⁻¹⁶ and e¹⁶.
const BORDER: f64 = 16.0;
/// The search ends when u = ln(1/T) is known to this.
const WIDTH: f64 = 1e-13;
/// Rows on which a search over many starts.
const SOME: usize = 1 << 14;

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
    if rows.n() < 4 * SOME {
        return None;
    }
    let some = || (0..SOME).map(|i| i * rows.n() / SOME);
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
    for _ in 0..8 {
        let (value, derivative) = slope(rows, u);
        let step = value / derivative;
        u -= step;
        // Not the opposites: NaN must not pass.
        if !(fabs(step) < 1.0 && fabs(u) < BORDER) {
            return None;
        }
        // Errors are squared at each step.
        if fabs(step) <= 1e-8 {
            return Some(u);
        }
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
/// row is reported as impossible.
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
    let temperature = exp(-u);
    let [sum, derivative] = chunked_sums(rows.n(), |range| {
        let mut p = Vec::with_capacity(rows.classes);
        let mut sums = [0.0; 2];
        for i in range {
            let row = rows.row(i);
            softmax_into(row, temperature, &mut p);
            // Relative to the label's logit: a shift of all logits must not cost digits.
            let origin = f64::from(row[rows.labels[i]]);
            let (mut mean, mut square) = (0.0, 0.0);
            for (z, p) in row.iter().zip(&p) {
                let z = f64::from(*z) - origin;
                mean += p * z;
                square += p * z * z;
            }
            sums[0] += mean;
            sums[1] += square - mean * mean;
        }
        sums
    });
    let n = rows.n() as f64;
    (sum / n, derivative / n / temperature)
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
