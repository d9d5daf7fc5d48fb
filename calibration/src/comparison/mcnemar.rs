//! McNemar's test: do two classifiers err on the same rows equally often (McNemar 1947)?

use crate::binomial;
use serde::{Deserialize, Serialize};

/// Fewer rows than this that only one of them gets right: the exact test.
const FEW: u64 = 25;

/// The test of one pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Rows that only the arm gets right.
    pub gained: u64,
    /// Rows that only the reference gets right.
    pub lost: u64,
    /// How `p` was computed.
    pub test: McNemarTest,
    /// Two-sided; for rows that are independent of each other.
    pub p: f64,
}

/// How a p-value was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum McNemarTest {
    /// Binomial, for fewer than 25 rows that only one of them gets right.
    Exact,
    /// (|b − c| − 1)² / (b + c) against χ² with one degree of freedom (Edwards 1948).
    ChiSquared,
}

/// Compares the answers of an arm with those of the reference.
pub fn mcnemar(labels: &[usize], arm: &[usize], reference: &[usize]) -> McNemar {
    let (mut gained, mut lost) = (0, 0);
    for ((label, arm), reference) in labels.iter().zip(arm).zip(reference) {
        match (arm == label, reference == label) {
            (true, false) => gained += 1,
            (false, true) => lost += 1,
            _ => {}
        }
    }
    let (test, p) = p_value(gained, lost);
    McNemar {
        gained,
        lost,
        test,
        p,
    }
}

fn p_value(gained: u64, lost: u64) -> (McNemarTest, f64) {
    let n = gained + lost;
    if n < FEW {
        let tail = binomial::cdf(gained.min(lost), n, 0.5);
        return (McNemarTest::Exact, (2.0 * tail).min(1.0));
    }
    let distance = gained.abs_diff(lost).saturating_sub(1) as f64;
    let statistic = distance * distance / n as f64;
    (
        McNemarTest::ChiSquared,
        libm::erfc((statistic / 2.0).sqrt()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_values_are_those_of_the_binomial_and_of_chi_squared() {
        let cases = [
            // 2 · (1 + 12 + 66) / 4096.
            ("few", 10, 2, McNemarTest::Exact, 158.0 / 4096.0),
            ("the other way", 2, 10, McNemarTest::Exact, 158.0 / 4096.0),
            ("none", 0, 0, McNemarTest::Exact, 1.0),
            ("as many", 7, 7, McNemarTest::Exact, 1.0),
            ("24 of 24", 24, 0, McNemarTest::Exact, 2.0_f64.powi(-23)),
            // scipy.stats.chi2.sf(14² / 45, 1).
            (
                "many",
                30,
                15,
                McNemarTest::ChiSquared,
                0.036_888_425_707_049_85,
            ),
            ("as many of many", 20, 20, McNemarTest::ChiSquared, 1.0),
        ];
        for (name, gained, lost, test, want) in cases {
            let (found, p) = p_value(gained, lost);
            assert_eq!(found, test, "{name}");
            assert!((p - want).abs() < 1e-12, "{name}: {p} for {want}");
        }
    }

    #[test]
    fn only_rows_that_one_of_them_gets_right_count() {
        let found = mcnemar(&[0, 1, 2, 0, 1], &[0, 1, 0, 1, 1], &[1, 1, 1, 0, 0]);
        assert_eq!((found.gained, found.lost), (2, 1));
    }
}
