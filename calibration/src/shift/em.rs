use super::{Condition, ShiftError, check_length, check_probabilities};
use serde::{Deserialize, Serialize};

/// What EM says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Em {
    /// What all of this is conditional on.
    pub conditional_on: Condition,
    /// Frequencies now.
    pub target_shares: Vec<f64>,
    /// Target over source frequency.
    pub weights: Vec<f64>,
    /// Rounds before the one that moved no frequency any more.
    pub iterations: u64,
    /// Whether there was such a round: else the frequencies were still moving after 10,000.
    pub converged: bool,
}

/// A round that moves no frequency by this much is the last.
const STILL: f64 = 1e-13;
/// The likelihood is concave, so that more rounds only help; this many mean that the classes can't be told apart.
const MOST_ROUNDS: u64 = 10_000;

/// The class frequencies that make `probabilities` (calibrated, `[n, K]`, row-major) most likely, where those of the
/// calibration were `source_shares`.
///
/// # Errors
/// [`ShiftError::NoRows`], [`ShiftError::ClassAbsent`], [`ShiftError::Length`] or [`ShiftError::Probability`].
pub fn em(probabilities: &[f64], source_shares: &[f64]) -> Result<Em, ShiftError> {
    let k = source_shares.len();
    check(probabilities, source_shares)?;
    let mut shares = source_shares.to_vec();
    let mut iterations = 0;
    let converged = loop {
        let next = round(probabilities, source_shares, &shares);
        let moved = next
            .iter()
            .zip(&shares)
            .fold(0.0_f64, |most, (a, b)| most.max((a - b).abs()));
        shares = next;
        if moved < STILL {
            break true;
        }
        if iterations == MOST_ROUNDS {
            break false;
        }
        iterations += 1;
    };
    Ok(Em {
        conditional_on: Condition::LabelShift,
        weights: (0..k).map(|j| shares[j] / source_shares[j]).collect(),
        target_shares: shares,
        iterations,
        converged,
    })
}

fn check(probabilities: &[f64], source_shares: &[f64]) -> Result<(), ShiftError> {
    let k = source_shares.len();
    check_probabilities("the source frequencies", source_shares)?;
    check_probabilities("the probabilities", probabilities)?;
    if let Some(class) = source_shares.iter().position(|share| *share <= 0.0) {
        return Err(ShiftError::ClassAbsent { class });
    }
    if k == 0 || probabilities.is_empty() {
        return Err(ShiftError::NoRows {
            which: "the stream",
        });
    }
    check_length(
        "the last row of probabilities",
        (probabilities.len() - 1) % k + 1,
        k,
    )
}

/// The mean of the rows' probabilities under the frequencies `shares`.
fn round(probabilities: &[f64], source_shares: &[f64], shares: &[f64]) -> Vec<f64> {
    let k = shares.len();
    let weights: Vec<f64> = shares
        .iter()
        .zip(source_shares)
        .map(|(q, p)| q / p)
        .collect();
    let mut sums = vec![0.0; k];
    for row in probabilities.chunks_exact(k) {
        let total: f64 = row.iter().zip(&weights).map(|(p, w)| p * w).sum();
        for j in 0..k {
            // A row whose classes all have frequency 0 by now says nothing about the others: it keeps its own shares.
            sums[j] += if total > 0.0 {
                row[j] * weights[j] / total
            } else {
                row[j]
            };
        }
    }
    let n = (probabilities.len() / k) as f64;
    sums.iter().map(|sum| sum / n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::uniform;

    #[test]
    fn shifted_frequencies_are_found() {
        // x | y ~ N(±1, 1) has the posterior sigmoid(2x) at equal frequencies.
        let normal = |i| {
            let (u, v) = (uniform(1, 0, i), uniform(1, 1, i));
            (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let mut probabilities = Vec::new();
        for i in 0..20_000 {
            let centre = if uniform(1, 2, i) < 0.8 { 1.0 } else { -1.0 };
            let one = 1.0 / (1.0 + (-2.0 * (centre + normal(i))).exp());
            probabilities.extend([1.0 - one, one]);
        }
        let got = em(&probabilities, &[0.5, 0.5]).unwrap();
        assert!((got.target_shares[1] - 0.8).abs() < 0.015, "{got:?}");
        assert!((got.weights[1] - 2.0 * got.target_shares[1]).abs() < 1e-12);
        assert!(got.converged && got.iterations > 3);
    }

    #[test]
    fn probabilities_without_information_change_nothing() {
        let got = em(&[0.25, 0.75].repeat(10), &[0.25, 0.75]).unwrap();
        assert_eq!(got.target_shares, [0.25, 0.75]);
        assert_eq!((got.iterations, got.converged), (0, true));
    }

    #[test]
    fn sure_rows_are_counted_and_nothing_is_nan() {
        let rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]].concat();
        let got = em(&rows, &[0.5, 0.5]).unwrap();
        assert_eq!(got.target_shares, [0.75, 0.25]);
        let got = em(&[0.0, 0.0], &[0.5, 0.5]).unwrap();
        assert!(got.target_shares.iter().all(|share| share.is_finite()));
    }

    #[test]
    fn what_says_nothing_is_an_error() {
        assert!(matches!(
            em(&[], &[0.5, 0.5]),
            Err(ShiftError::NoRows { .. })
        ));
        assert!(matches!(
            em(&[0.5, 0.5], &[1.0, 0.0]),
            Err(ShiftError::ClassAbsent { class: 1 })
        ));
        assert!(matches!(
            em(&[0.5, 0.5, 1.0], &[0.5, 0.5]),
            Err(ShiftError::Length {
                got: 1,
                want: 2,
                ..
            })
        ));
        assert!(matches!(
            em(&[f64::NAN, 0.5], &[0.5, 0.5]),
            Err(ShiftError::Probability { at: 0, .. })
        ));
    }
}
