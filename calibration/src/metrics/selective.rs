//! Risk and coverage over all thresholds.

use super::Ranking;

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
    let n: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    if n == 0 {
        return None;
    }
    let harmonic = harmonic(n as usize);
    let (mut seen, mut errors, mut risks, mut general) = (0usize, 0.0, 0.0, 0.0);
    for (all, wrong) in ranking
        .weighed(wrong, weights)
        .filter(|group| group.0 > 0.0)
    {
        let next = seen + all as usize;
        // Σ_r (errors + wrong·r/all) / (seen + r), r = 1..all, in closed form.
        risks += wrong + (errors - wrong / all * seen as f64) * (harmonic[next] - harmonic[seen]);
        general += all * (errors + wrong / 2.0);
        seen = next;
        errors += wrong;
    }
    let n = n as f64;
    let (aurc, r) = (risks / n, errors / n);
    let right = seen - errors as usize;
    let best = (errors - right as f64 * (harmonic[seen] - harmonic[right])) / n;
    let approximate = if r < 1.0 {
        r + (1.0 - r) * libm::log1p(-r)
    } else {
        1.0
    };
    Some(Areas {
        aurc,
        e_aurc: aurc - best,
        e_aurc_geifman: aurc - approximate,
        augrc: general / (n * n),
    })
}

/// 0, 1, 1 + ½, …
fn harmonic(n: usize) -> Vec<f64> {
    let mut sum = 0.0;
    let rest = (1..=n).map(|i| {
        sum += 1.0 / i as f64;
        sum
    });
    std::iter::once(0.0).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_curves_equal_the_definition() {
        // Order: right, wrong, right, wrong. Risks 0, 1/2, 1/3, 1/2; the best order's 0, 0, 1/3, 1/2.
        let ranking = Ranking::new(&[0.9, 0.8, 0.7, 0.6]);
        let got = areas(&ranking, &[false, true, false, true], &[1; 4]).unwrap();
        assert!((got.aurc - (0.5 + 1.0 / 3.0 + 0.5) / 4.0).abs() < 1e-15);
        assert!((got.e_aurc - 0.5 / 4.0).abs() < 1e-15);
        // Trapezoids between 0, 0, 1/4, 1/4, 2/4 at widths 1/4.
        assert!((got.augrc - (0.0 + 0.125 + 0.25 + 0.375) / 4.0).abs() < 1e-15);
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
