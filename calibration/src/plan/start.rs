//! Where the fixed sequence starts.

use stage1_core::certificate::Candidate;

/// The start j that maximises ĉ_j·pw_j + Σ_{m>j} (ĉ_m − ĉ_{m−1})·min_{j≤l≤m} pw_l, the coverage to be expected: the
/// sequence reaches m only if it passes all before. The smallest on ties.
pub(super) fn best(candidates: &[Candidate]) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for j in 0..candidates.len() {
        let expected = expected_coverage(&candidates[j..]);
        if expected > best.1 {
            best = (j, expected);
        }
    }
    best.0
}

fn expected_coverage(from: &[Candidate]) -> f64 {
    let mut weakest = from[0].power;
    let mut sum = from[0].coverage * weakest;
    for pair in from.windows(2) {
        weakest = weakest.min(pair[1].power);
        sum += (pair[1].coverage - pair[0].coverage) * weakest;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage1_core::policy::Threshold;

    fn candidates(power: &[f64]) -> Vec<Candidate> {
        let one = |(j, power): (usize, &f64)| Candidate {
            threshold: Threshold::OneSided { at_least: 0.0 },
            answered: 0,
            errors: 0,
            risk: 0.0,
            coverage: (j + 1) as f64 / 4.0,
            calib_answered: 0,
            max_errors: None,
            power: *power,
        };
        power.iter().enumerate().map(one).collect()
    }

    #[test]
    fn the_start_balances_reach_and_power() {
        let cases: [(&[f64], usize); 5] = [
            (&[0.0, 0.0, 0.0, 0.0], 0),
            (&[1.0, 1.0, 1.0, 1.0], 0),
            (&[0.1, 0.9, 0.9, 0.0], 1),
            (&[0.9, 0.9, 0.1, 0.9], 3),
            (&[0.9, 0.8, 0.1, 0.2], 0),
        ];
        for (power, want) in cases {
            assert_eq!(best(&candidates(power)), want, "{power:?}");
        }
    }
}
