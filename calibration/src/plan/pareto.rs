//! The order for several constraints (Pareto testing, Laufer-Goldshtein et al. 2022, 2210.07913): thresholds that no other
//! one beats on val_select both in the p-value to be expected and in coverage, the most likely to pass first.

use stage1_core::certificate::Candidate;

/// Indices of the candidates worth testing, in the order of the tests: by increasing largest expected p-value, ties by
/// larger coverage.
pub(super) fn order(candidates: &[Candidate]) -> Vec<usize> {
    let p: Vec<f64> = candidates.iter().map(expected_p).collect();
    let coverage = |j: usize| candidates[j].coverage;
    let mut rising: Vec<usize> = (0..candidates.len()).collect();
    rising.sort_by(|a, b| {
        let by_coverage = coverage(*b).total_cmp(&coverage(*a));
        p[*a].total_cmp(&p[*b]).then(by_coverage)
    });
    let mut reached = f64::NEG_INFINITY;
    // What comes later is no likelier to pass: it must answer more.
    rising.retain(|j| {
        let is_better = coverage(*j) > reached;
        reached = reached.max(coverage(*j));
        is_better
    });
    rising
}

fn expected_p(candidate: &Candidate) -> f64 {
    let all = candidate.measures.iter().map(|measure| measure.expected_p);
    all.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage1_core::certificate::Measure;
    use stage1_core::policy::Threshold;

    #[test]
    fn the_likely_come_first_and_what_is_dominated_is_left_out() {
        let candidate = |(coverage, p): (f64, [f64; 2])| Candidate {
            threshold: Threshold::OneSided { at_least: 0.0 },
            coverage,
            measures: p.map(measure).to_vec(),
        };
        fn measure(expected_p: f64) -> Measure {
            Measure {
                errors: 0,
                total: 0,
                rate: 0.5,
                calib_total: 0,
                max_errors: None,
                power: 0.0,
                expected_p,
            }
        }
        let candidates = [
            (0.5, [0.01, 0.03]),
            (0.4, [0.02, 0.02]),
            (0.4, [0.04, 0.01]), // dominated by the first
            (0.6, [0.9, 0.0]),
            (0.3, [0.02, 0.001]), // tied with the second, answers less
        ]
        .map(candidate);
        assert_eq!(order(&candidates), [1, 0, 3]);
    }
}
