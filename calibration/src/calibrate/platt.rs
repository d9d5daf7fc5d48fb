//! Platt scaling on the logit margin (Platt 1999), by Newton's method (Lin, Lin & Weng 2007).

use super::{check_two_classes, logistic};
use stage1_core::policy::Fallback;

/// (a, b) of sigmoid(a·s + b) for margins s = z₁ − z₀; `labels` says whether the class is 1. The targets are smoothed:
/// (n₁ + 1)/(n₁ + 2) and 1/(n₀ + 2), so that an optimum exists even if a margin separates the classes.
///
/// # Errors
/// A [`Fallback`]: no rows, one class, or a slope that isn't positive.
pub fn platt(margins: &[f64], labels: &[bool]) -> Result<(f64, f64), Fallback> {
    check_two_classes(labels)?;
    let ones = labels.iter().filter(|label| **label).count() as f64;
    let zeros = labels.len() as f64 - ones;
    let (high, low) = ((ones + 1.0) / (ones + 2.0), 1.0 / (zeros + 2.0));
    let target = |i: usize| if labels[i] { high } else { low };
    let optimum =
        logistic::fit(margins.len(), |i| [margins[i], 1.0], target).ok_or(Fallback::NotConverged);
    match optimum {
        // The slope's own rounding must not pass for a slope.
        Ok(fit) if fit.weights[0] * spread(margins) > 1e-9 => Ok((fit.weights[0], fit.weights[1])),
        Ok(_) => Err(Fallback::SlopeNotPositive),
        Err(reason) => Err(reason),
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
        // Two distinct margins, two parameters: the mean target at each margin is matched exactly.
        let margins = [vec![-1.0; 10], vec![2.0; 10]].concat();
        let labels: Vec<bool> = (0..20).map(|i| !(3..12).contains(&i)).collect();
        let (a, b) = platt(&margins, &labels).unwrap();
        let (high, low) = (12.0 / 13.0, 1.0 / 11.0);
        let logit = |p: f64| (p / (1.0 - p)).ln();
        let left = logit(0.3 * high + 0.7 * low);
        let right = logit(0.8 * high + 0.2 * low);
        assert!(
            (b - a - left).abs() < 1e-10 && (2.0 * a + b - right).abs() < 1e-10,
            "{a} {b}"
        );
    }
}
