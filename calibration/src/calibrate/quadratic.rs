//! A parabola on the logit margin. **Not monotone.**

use super::binary::{Tied, check_overlap, tie_groups};
use super::logistic;
use stage1_core::policy::Fallback;

/// [c₀, c₁, c₂] that maximise the likelihood of sigmoid(c₀ + c₁·s + c₂·s²) for margins s = z₁ − z₀; `labels` says whether
/// the class is 1. Beyond the parabola's vertex a surer margin gets a smaller probability.
///
/// The logit is such a parabola exactly where the margins of either class are normal, each with a variance of its own:
/// logistic discrimination with squares (Cox 1966; Anderson 1975, "Quadratic logistic discrimination"). As
/// `quadratic-scaling` of the package probmetrics, which goes with 2511.03685.
///
/// # Errors
/// A [`Fallback`]: no rows, one class, fewer than three distinct margins, a parabola that separates the classes, or one
/// that falls on average over the rows.
pub fn quadratic(margins: &[f64], labels: &[bool]) -> Result<[f64; 3], Fallback> {
    check_overlap(margins, labels)?;
    let groups = tie_groups(margins, labels);
    if groups.len() < 3 {
        return Err(Fallback::TooFewValues);
    }
    if separates(&groups) {
        return Err(Fallback::Separable);
    }
    let (centre, scale) = middle(margins);
    let feature = |i: usize| (margins[i] - centre) / scale;
    let target = |i: usize| if labels[i] { 1.0 } else { 0.0 };
    let fit = logistic::fit(
        margins.len(),
        |i| [1.0, feature(i), feature(i) * feature(i)],
        target,
    );
    let [d0, d1, d2] = fit.ok_or(Fallback::NotConverged)?.weights;
    // The mean of the features is 0, so that the mean slope over the rows is d1; its rounding must not pass for a slope.
    if d1 <= 1e-9 {
        return Err(Fallback::SlopeNotPositive);
    }
    let (c1, c2) = (d1 / scale, d2 / scale / scale);
    Ok([
        d0 - c1 * centre + c2 * centre * centre,
        c1 - 2.0 * c2 * centre,
        c2,
    ])
}

/// Mean, and largest distance from it.
fn middle(margins: &[f64]) -> (f64, f64) {
    let mean = margins.iter().sum::<f64>() / margins.len() as f64;
    let distance = |far: f64, s: &f64| far.max((s - mean).abs());
    (mean, margins.iter().fold(0.0, distance))
}

/// Whether a parabola's sign is right in all rows where it isn't 0: one class, then the other, then the first again, with
/// mixed margins only at its two roots.
fn separates(groups: &[Tied]) -> bool {
    let outside = |first_is_one: bool| {
        let pure = |group: &Tied, one: bool| group.ones == if one { group.rows } else { 0 };
        let mut rest = groups;
        for (one, has_root_after) in [
            (first_is_one, true),
            (!first_is_one, true),
            (first_is_one, false),
        ] {
            let run = rest.iter().take_while(|group| pure(group, one)).count();
            rest = &rest[run..];
            if has_root_after && rest.first().is_some_and(|g| 0 < g.ones && g.ones < g.rows) {
                rest = &rest[1..];
            }
        }
        rest.is_empty()
    };
    outside(true) || outside(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_margins_have_a_closed_form() {
        // Three distinct margins, three parameters: the rate at each margin is matched exactly.
        for shift in [0.0, 30.0] {
            let margins: Vec<f64> = (0..30).map(|i| shift + f64::from(i / 10) * 1.5).collect();
            let ones = [2, 7, 6];
            let labels: Vec<bool> = (0..30).map(|i| i % 10 < ones[i / 10]).collect();
            let [c0, c1, c2] = quadratic(&margins, &labels).unwrap();
            for (group, ones) in ones.iter().enumerate() {
                let s = shift + group as f64 * 1.5;
                let rate = *ones as f64 / 10.0;
                let want = (rate / (1.0 - rate)).ln();
                let got = c0 + c1 * s + c2 * s * s;
                assert!((got - want).abs() < 1e-9, "{shift} {group}: {got} {want}");
            }
            assert!(c2 < 0.0, "it bends");
        }
    }

    #[test]
    fn parabolas_that_separate_are_found() {
        // Per margin: all of class 0, all of class 1, or mixed.
        for (pattern, want) in [
            ("000111", true),
            ("001100", true),
            ("110011", true),
            ("00m11", true),
            ("0m1m0", true),
            ("0mm0", true),
            ("m0m", true),
            ("0m0", true),
            ("01010", false),
            ("0m0m0m0", false),
            ("0mmm1", false),
            ("mmm", false),
            ("0101", false),
        ] {
            let groups: Vec<Tied> = pattern
                .chars()
                .enumerate()
                .map(|(i, kind)| Tied {
                    margin: i as f64,
                    rows: 2,
                    ones: match kind {
                        '0' => 0,
                        '1' => 2,
                        _ => 1,
                    },
                })
                .collect();
            assert_eq!(separates(&groups), want, "{pattern}");
        }
    }
}
