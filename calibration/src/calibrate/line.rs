//! Straight lines on the logit margin, by Newton's method (Lin, Lin & Weng 2007).

use super::binary::{check_overlap, check_two_classes};
use super::logistic;
use stage1_core::policy::Fallback;

/// Platt scaling (Platt 1999): (a, b) of sigmoid(a·s + b) for margins s = z₁ − z₀; `labels` says whether the class is 1.
/// The targets are smoothed: (n₁ + 1)/(n₁ + 2) and 1/(n₀ + 2), so that an optimum exists even if a margin separates the
/// classes.
///
/// # Errors
/// A [`Fallback`]: no rows, one class, or a slope that isn't positive.
pub fn platt(margins: &[f64], labels: &[bool]) -> Result<(f64, f64), Fallback> {
    check_two_classes(labels)?;
    let ones = labels.iter().filter(|label| **label).count() as f64;
    let zeros = labels.len() as f64 - ones;
    line(
        margins,
        labels,
        [1.0 / (zeros + 2.0), (ones + 1.0) / (ones + 2.0)],
    )
}

/// Logistic regression on the margin: as [`platt`] with the labels themselves as targets. This is Cox's recalibration
/// (Cox 1958, "Two further applications of a model for binary regression").
///
/// # Errors
/// A [`Fallback`]: no rows, one class, a margin that separates the classes, or a slope that isn't positive.
pub fn affine(margins: &[f64], labels: &[bool]) -> Result<(f64, f64), Fallback> {
    check_overlap(margins, labels)?;
    line(margins, labels, [0.0, 1.0])
}

/// The best line for `targets` of label 0 and 1.
fn line(margins: &[f64], labels: &[bool], targets: [f64; 2]) -> Result<(f64, f64), Fallback> {
    // Centred, so that margins far from zero can tell slope from intercept.
    let centre = margins.iter().sum::<f64>() / margins.len() as f64;
    let [slope, height] = logistic::fit(
        margins.len(),
        |i| [margins[i] - centre, 1.0],
        |i| targets[usize::from(labels[i])],
    )
    .ok_or(Fallback::NotConverged)?
    .weights;
    // The slope's own rounding must not pass for a slope.
    if slope * spread(margins) > 1e-9 {
        Ok((slope, height - slope * centre))
    } else {
        Err(Fallback::SlopeNotPositive)
    }
}

/// Largest minus smallest.
fn spread(margins: &[f64]) -> f64 {
    let (low, high) = margins
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), m| {
            (l.min(*m), h.max(*m))
        });
    high - low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_margins_have_a_closed_form() {
        // Two distinct margins, two parameters: the mean target at each margin is matched exactly. Far from zero, the
        // intercept is known to fewer digits.
        for (shift, tolerance) in [(0.0, 1e-10), (1e6, 1e-5)] {
            let margins = [vec![shift - 1.0; 10], vec![shift + 2.0; 10]].concat();
            let labels: Vec<bool> = (0..20).map(|i| !(3..12).contains(&i)).collect();
            let (high, low) = (12.0 / 13.0, 1.0 / 11.0);
            type Fit = fn(&[f64], &[bool]) -> Result<(f64, f64), Fallback>;
            let cases: [(&str, Fit, f64, f64); 2] =
                [("platt", platt, high, low), ("affine", affine, 1.0, 0.0)];
            for (name, fit, high, low) in cases {
                let (a, b) = fit(&margins, &labels).unwrap();
                let logit = |p: f64| (p / (1.0 - p)).ln();
                let left = logit(0.3 * high + 0.7 * low);
                let right = logit(0.8 * high + 0.2 * low);
                let at = |s: f64| a * (s + shift) + b;
                assert!(
                    (at(-1.0) - left).abs() < tolerance && (at(2.0) - right).abs() < tolerance,
                    "{name} {shift}: {a} {b}"
                );
            }
        }
    }
}
