//! Where sequences start.

use stage1_core::certificate::{Candidate, Plan, Procedure};

/// Sets the starts for thresholds from strict to lax, and the coverage to be expected of them.
pub(super) fn choose(plan: &mut Plan) {
    match plan.procedure {
        Procedure::FixedSequence => {
            let (start, expected) = best(&plan.candidates);
            plan.starts = vec![start];
            plan.expected_coverage = expected;
        }
        _ => first(plan),
    }
}

/// Sets the starts for an order that begins with the likeliest, and the coverage to be expected of them.
pub(super) fn first(plan: &mut Plan) {
    let tests = plan.order.len();
    plan.starts = match plan.procedure {
        Procedure::FixedSequence => vec![0],
        Procedure::MultiStart { starts } => spread(starts, tests),
        _ => Vec::new(),
    };
    plan.expected_coverage = expected(plan);
}

/// `starts` positions, equally spaced over `tests`.
fn spread(starts: usize, tests: usize) -> Vec<usize> {
    let starts = starts.clamp(1, tests);
    (0..starts).map(|i| i * tests / starts).collect()
}

/// About what the procedure certifies: a threshold that is reached by a sequence passes if all before it do; one that is
/// tested on its own if it does.
fn expected(plan: &Plan) -> f64 {
    let along = |start: usize| {
        let from: Vec<&Candidate> = plan.order[start..]
            .iter()
            .map(|j| &plan.candidates[*j])
            .collect();
        expected_coverage(&from)
    };
    if plan.starts.is_empty() {
        return expected_alone(plan);
    }
    plan.starts
        .iter()
        .map(|start| along(*start))
        .fold(0.0, f64::max)
}

/// Σ (ĉ_m − ĉ_{m−1})·max_{l≥m} pw_l over rising coverage.
fn expected_alone(plan: &Plan) -> f64 {
    let mut rising: Vec<&Candidate> = plan.order.iter().map(|j| &plan.candidates[*j]).collect();
    rising.sort_by(|a, b| a.coverage.total_cmp(&b.coverage));
    let (mut sum, mut likeliest) = (0.0, 0.0_f64);
    for (m, candidate) in rising.iter().enumerate().rev() {
        likeliest = likeliest.max(power(candidate));
        let below = if m == 0 { 0.0 } else { rising[m - 1].coverage };
        sum += (candidate.coverage - below) * likeliest;
    }
    sum
}

fn power(candidate: &Candidate) -> f64 {
    let all = candidate.measures.iter().map(|measure| measure.power);
    all.fold(1.0, f64::min)
}

/// The start j that maximises ĉ_j·pw_j + Σ_{m>j} (ĉ_m − ĉ_{m−1})·min_{j≤l≤m} pw_l, the coverage to be expected: the
/// sequence reaches m only if it passes all before. The smallest on ties.
fn best(candidates: &[Candidate]) -> (usize, f64) {
    let all: Vec<&Candidate> = candidates.iter().collect();
    let mut best = (0, f64::NEG_INFINITY);
    for j in 0..all.len() {
        let expected = expected_coverage(&all[j..]);
        if expected > best.1 {
            best = (j, expected);
        }
    }
    best
}

fn expected_coverage(from: &[&Candidate]) -> f64 {
    let mut weakest = power(from[0]);
    let mut sum = from[0].coverage * weakest;
    for pair in from.windows(2) {
        weakest = weakest.min(power(pair[1]));
        sum += (pair[1].coverage - pair[0].coverage) * weakest;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage1_core::certificate::Measure;
    use stage1_core::policy::Threshold;

    fn candidates(power: &[f64]) -> Vec<Candidate> {
        let one = |(j, power): (usize, &f64)| Candidate {
            threshold: Threshold::OneSided { at_least: 0.0 },
            coverage: (j + 1) as f64 / 4.0,
            measures: vec![Measure {
                errors: 0,
                total: 0,
                rate: 0.5,
                calib_total: 0,
                max_errors: None,
                power: *power,
                expected_p: 1.0,
            }],
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
            assert_eq!(best(&candidates(power)).0, want, "{power:?}");
        }
    }

    #[test]
    fn several_starts_are_spread() {
        assert_eq!(spread(5, 50), [0, 10, 20, 30, 40]);
        assert_eq!(spread(9, 3), [0, 1, 2]);
    }
}
