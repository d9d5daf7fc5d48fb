//! Risk and coverage over all thresholds.
//!
//! Thresholds are on the score of the ranking: whole groups of equal scores are answered or deferred together.

use super::Ranking;
use super::ranking::{Marked, Weights};

/// Areas under risk–coverage curves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Areas {
    /// Mean over i of the risk of the i surest rows (Geifman, Uziel & El-Yaniv 2019).
    pub aurc: f64,
    /// `aurc` minus that of the best order there is, exactly.
    pub e_aurc: f64,
    /// `aurc` minus r + (1 − r)·ln(1 − r), the approximation of the paper.
    pub e_aurc_geifman: f64,
    /// Area under (coverage, wrong answers / all rows), by trapezoids from the origin (Traub et al. 2024).
    pub augrc: f64,
}

/// Areas for rows ranked by confidence; none without weight. Tied rows are averaged over all their orders.
pub fn areas(ranking: &Ranking, wrong: &[bool], weights: &[u32]) -> Option<Areas> {
    Marked::new(ranking, wrong).selective_areas(weights)
}

/// The largest coverage of a threshold whose answers are wrong with a rate of at most `risk`; 0 if there is none, and
/// nothing without rows. It is found on the rows that it describes: no guarantee for others.
pub fn coverage_at_risk(
    ranking: &Ranking,
    wrong: &[bool],
    weights: &[u32],
    risk: f64,
) -> Option<f64> {
    Marked::new(ranking, wrong).coverage_at_risk(weights, risk)
}

/// The error rate among the answers of the strictest threshold that answers at least the share `coverage` of the rows;
/// nothing without rows. It is found on the rows that it describes: no guarantee for others.
pub fn risk_at_coverage(
    ranking: &Ranking,
    wrong: &[bool],
    weights: &[u32],
    coverage: f64,
) -> Option<f64> {
    Marked::new(ranking, wrong).risk_at_coverage(weights, coverage)
}

impl Marked {
    pub(super) fn selective_areas(&self, weights: impl Weights) -> Option<Areas> {
        let (mut seen, mut errors, mut risks, mut general) = (0.0, 0.0, 0.0, 0.0);
        self.each_group(weights, |all, wrong| {
            // Σ_r (errors + wrong·r/all) / (seen + r), r = 1..all, in closed form.
            risks += wrong + (errors - wrong / all * seen) * reciprocals(seen, seen + all);
            general += all * (errors + wrong / 2.0);
            seen += all;
            errors += wrong;
        });
        if seen == 0.0 {
            return None;
        }
        let (aurc, r) = (risks / seen, errors / seen);
        let best = (errors - (seen - errors) * reciprocals(seen - errors, seen)) / seen;
        let approximate = if r < 1.0 {
            r + (1.0 - r) * libm::log1p(-r)
        } else {
            1.0
        };
        Some(Areas {
            aurc,
            e_aurc: aurc - best,
            e_aurc_geifman: aurc - approximate,
            augrc: general / (seen * seen),
        })
    }

    /// [`Areas::augrc`] alone.
    pub(crate) fn augrc(&self, weights: impl Weights) -> Option<f64> {
        let (mut seen, mut errors, mut area) = (0.0, 0.0, 0.0);
        self.each_group(weights, |all, wrong| {
            area += all * (errors + wrong / 2.0);
            seen += all;
            errors += wrong;
        });
        (seen > 0.0).then(|| area / (seen * seen))
    }

    pub(crate) fn coverage_at_risk(&self, weights: impl Weights, risk: f64) -> Option<f64> {
        let (mut seen, mut errors, mut answered) = (0.0, 0.0, 0.0);
        self.each_group(weights, |all, wrong| {
            seen += all;
            errors += wrong;
            // The quotient, not `risk · seen`: 29 of 100 must meet a risk of 0.29.
            if errors / seen <= risk {
                answered = seen;
            }
        });
        (seen > 0.0).then(|| answered / seen)
    }

    pub(super) fn risk_at_coverage(&self, weights: impl Weights, coverage: f64) -> Option<f64> {
        let n = self.weight(weights) as f64;
        let (mut seen, mut errors, mut risk) = (0.0, 0.0, None);
        self.each_group(weights, |all, wrong| {
            seen += all;
            errors += wrong;
            if risk.is_none() && seen / n >= coverage {
                risk = Some(errors / seen);
            }
        });
        risk
    }
}

/// Gaps up to this are summed, wider ones are the difference of two expansions.
const SUMMED: f64 = 16.0;

/// Σ 1/i over `from` < i ≤ `to` (whole numbers).
fn reciprocals(from: f64, to: f64) -> f64 {
    let middle = if to - from <= SUMMED {
        to
    } else {
        from.max(SUMMED)
    };
    let mut sum = 0.0;
    let mut i = from;
    while i < middle {
        i += 1.0;
        sum += 1.0 / i;
    }
    if middle < to {
        // Euler and Maclaurin: Σ 1/i up to n is ln n + γ + tail(n), to 1e-14 from 16 on.
        sum += libm::log1p((to - middle) / middle) + tail(to) - tail(middle);
    }
    sum
}

fn tail(n: f64) -> f64 {
    let x = 1.0 / (n * n);
    0.5 / n - x * (1.0 / 12.0 - x * (1.0 / 120.0 - x * (1.0 / 252.0 - x / 240.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_curves_equal_the_definition() {
        // Order: right, wrong, right, wrong. Risks 0, 1/2, 1/3, 1/2; the best order's 0, 0, 1/3, 1/2.
        let ranking = Ranking::new(&[0.9, 0.8, 0.7, 0.6]);
        let wrong = [false, true, false, true];
        let got = areas(&ranking, &wrong, &[1; 4]).unwrap();
        let alone = Marked::new(&ranking, &wrong).augrc([1; 4].as_slice());
        assert_eq!(alone, Some(got.augrc));
        assert!((got.aurc - (0.5 + 1.0 / 3.0 + 0.5) / 4.0).abs() < 1e-15);
        assert!((got.e_aurc - 0.5 / 4.0).abs() < 1e-15);
        // Trapezoids between 0, 0, 1/4, 1/4, 2/4 at widths 1/4.
        assert!((got.augrc - (0.0 + 0.125 + 0.25 + 0.375) / 4.0).abs() < 1e-15);
    }

    #[test]
    fn reciprocals_are_their_sum() {
        for (from, to) in [
            (0, 1),
            (0, 16),
            (0, 40),
            (3, 17),
            (15, 40),
            (16, 33),
            (100, 5000),
            (99_999, 1_000_000),
        ] {
            let want: f64 = (from + 1..=to).rev().map(|i| 1.0 / f64::from(i)).sum();
            let got = reciprocals(f64::from(from), f64::from(to));
            assert!(
                (got / want - 1.0).abs() < 1e-13,
                "{from} {to}: {got} {want}"
            );
        }
        assert_eq!(reciprocals(5.0, 5.0).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn thresholds_take_whole_groups_and_the_laxest_that_holds() {
        // From the surest: right, wrong, two right, then a tie of one wrong and one right.
        let ranking = Ranking::new(&[0.9, 0.8, 0.7, 0.6, 0.5, 0.5]);
        let wrong = [false, true, false, false, true, false];
        let weights = [1; 6];
        let coverage = |risk| coverage_at_risk(&ranking, &wrong, &weights, risk).unwrap() * 6.0;
        let risk = |share| risk_at_coverage(&ranking, &wrong, &weights, share).unwrap();
        for (at, want) in [
            (0.0, 1.0),
            (0.24, 1.0),
            (0.25, 4.0),
            (0.33, 4.0),
            (2.0 / 6.0, 6.0),
            (1.0, 6.0),
        ] {
            assert!(
                (coverage(at) - want).abs() < 1e-12,
                "{at}: {}",
                coverage(at)
            );
        }
        for (at, want) in [
            (0.1, 0.0),
            (1.0 / 6.0, 0.0),
            (0.2, 0.5),
            (0.5, 1.0 / 3.0),
            (0.7, 2.0 / 6.0),
            (1.0, 2.0 / 6.0),
        ] {
            assert!((risk(at) - want).abs() < 1e-12, "{at}: {}", risk(at));
        }
        let first_is_wrong =
            coverage_at_risk(&Ranking::new(&[0.9, 0.8]), &[true, false], &[1; 2], 0.4);
        assert_eq!(first_is_wrong, Some(0.0));
        assert_eq!(coverage_at_risk(&ranking, &wrong, &[0; 6], 0.5), None);
        assert_eq!(risk_at_coverage(&ranking, &wrong, &[0; 6], 0.5), None);
        let hundred: Vec<f64> = (0..100).map(f64::from).collect();
        let errors: Vec<bool> = (0..100).map(|i| i < 29).collect();
        assert_eq!(
            coverage_at_risk(&Ranking::new(&hundred), &errors, &[1; 100], 0.29),
            Some(1.0)
        );
    }

    #[test]
    fn ties_are_the_mean_over_their_orders() {
        let tied = areas(
            &Ranking::new(&[0.9, 0.5, 0.5]),
            &[false, true, false],
            &[1; 3],
        )
        .unwrap();
        let orders = [[0.9, 0.5, 0.4], [0.9, 0.4, 0.5]];
        let mean = orders
            .iter()
            .map(|s| {
                areas(&Ranking::new(s), &[false, true, false], &[1; 3])
                    .unwrap()
                    .aurc
            })
            .sum::<f64>()
            / 2.0;
        assert!((tied.aurc - mean).abs() < 1e-15);
    }

    #[test]
    fn no_rows_and_only_wrong_rows_are_finite() {
        assert_eq!(areas(&Ranking::new(&[]), &[], &[]), None);
        let all_wrong = areas(&Ranking::new(&[0.5, 0.6]), &[true, true], &[1; 2]).unwrap();
        assert!((all_wrong.aurc - 1.0).abs() < 1e-15 && all_wrong.e_aurc.abs() < 1e-15);
    }
}
