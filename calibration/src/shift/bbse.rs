use super::{Condition, ShiftError, check_length, check_probabilities};
use serde::{Deserialize, Serialize};

/// Rows by predicted and true class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// `[predicted, true]`, row-major.
    counts: Vec<u64>,
    n: u64,
}

impl Confusion {
    /// Counts (predicted, true) pairs.
    ///
    /// # Errors
    /// [`ShiftError::Class`], or [`ShiftError::NoRows`].
    pub fn count(
        classes: usize,
        pairs: impl IntoIterator<Item = (usize, usize)>,
    ) -> Result<Self, ShiftError> {
        let mut counts = vec![0; classes * classes];
        let mut n = 0;
        for (predicted, label) in pairs {
            let class = predicted.max(label);
            if class >= classes {
                return Err(ShiftError::Class { class, classes });
            }
            counts[predicted * classes + label] += 1;
            n += 1;
        }
        if n == 0 {
            return Err(ShiftError::NoRows { which: "val_calib" });
        }
        Ok(Self { classes, counts, n })
    }

    /// Frequencies of the true classes.
    pub fn label_shares(&self) -> Vec<f64> {
        let of = |label| {
            (0..self.classes)
                .map(|i| self.counts[i * self.classes + label])
                .sum::<u64>()
        };
        (0..self.classes)
            .map(|label| of(label) as f64 / self.n as f64)
            .collect()
    }

    fn joint(&self) -> Vec<f64> {
        self.counts
            .iter()
            .map(|count| *count as f64 / self.n as f64)
            .collect()
    }
}

/// What BBSE says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bbse {
    /// What all of this is conditional on.
    pub conditional_on: Condition,
    /// Target over source frequency, as solved: below zero where the equations ask for it.
    pub weights: Vec<f64>,
    /// Frequencies now: negative weights set to zero, scaled to add up to one.
    pub target_shares: Vec<f64>,
}

/// Black-box shift estimation with hard predictions; `predicted_shares` are the shares of the predicted classes now.
///
/// # Errors
/// [`ShiftError::ClassAbsent`] or [`ShiftError::Singular`] where the equations have no one solution;
/// [`ShiftError::Length`] or [`ShiftError::Probability`] for other shares.
pub fn bbse(source: &Confusion, predicted_shares: &[f64]) -> Result<Bbse, ShiftError> {
    check_length(
        "the shares of predictions",
        predicted_shares.len(),
        source.classes,
    )?;
    check_probabilities("the shares of predictions", predicted_shares)?;
    let shares = source.label_shares();
    if let Some(class) = shares.iter().position(|share| *share <= 0.0) {
        return Err(ShiftError::ClassAbsent { class });
    }
    let weights = solve(source.joint(), predicted_shares.to_vec())?;
    let positive: Vec<f64> = weights
        .iter()
        .zip(&shares)
        .map(|(w, share)| w.max(0.0) * share)
        .collect();
    let sum: f64 = positive.iter().sum();
    Ok(Bbse {
        conditional_on: Condition::LabelShift,
        weights,
        // The predicted shares add up to one and so do Σ w·share: some are positive.
        target_shares: positive.iter().map(|share| share / sum).collect(),
    })
}

/// A pivot below this share of the largest entry is rounding, not information.
const RANK_TOLERANCE: f64 = 1e-12;

/// Solves `matrix`·x = `right` by elimination with row pivots.
fn solve(mut matrix: Vec<f64>, mut right: Vec<f64>) -> Result<Vec<f64>, ShiftError> {
    let k = right.len();
    let largest = matrix
        .iter()
        .fold(0.0_f64, |largest, x| largest.max(x.abs()));
    for column in 0..k {
        let size = |row: &usize| matrix[row * k + column].abs();
        let pivot_row = (column..k)
            .max_by(|a, b| size(a).total_cmp(&size(b)))
            .expect("columns end before rows do");
        let pivot = matrix[pivot_row * k + column];
        if pivot.abs() <= RANK_TOLERANCE * largest {
            return Err(ShiftError::Singular {
                class: column,
                pivot,
            });
        }
        for j in 0..k {
            matrix.swap(column * k + j, pivot_row * k + j);
        }
        right.swap(column, pivot_row);
        for row in column + 1..k {
            let factor = matrix[row * k + column] / pivot;
            for j in column..k {
                matrix[row * k + j] -= factor * matrix[column * k + j];
            }
            right[row] -= factor * right[column];
        }
    }
    for row in (0..k).rev() {
        let known: f64 = (row + 1..k).map(|j| matrix[row * k + j] * right[j]).sum();
        right[row] = (right[row] - known) / matrix[row * k + row];
    }
    Ok(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `counts[predicted][true]`.
    fn confusion<const K: usize>(counts: [[u64; K]; K]) -> Confusion {
        let pairs =
            (0..K).flat_map(|i| (0..K).flat_map(move |k| (0..counts[i][k]).map(move |_| (i, k))));
        Confusion::count(K, pairs).unwrap()
    }

    #[test]
    fn exact_shares_are_recovered() {
        let source = confusion([[40, 5, 0], [5, 20, 2], [5, 5, 18]]);
        // Shares predicted when the classes come as 20, 30 and 50 in 100.
        let target = [0.2, 0.3, 0.5];
        let columns = [50.0, 30.0, 20.0];
        let rows = [[40.0, 5.0, 0.0], [5.0, 20.0, 2.0], [5.0, 5.0, 18.0]];
        let predicted = rows.map(|row| (0..3).map(|k| row[k] / columns[k] * target[k]).sum());
        let got = bbse(&source, &predicted).unwrap();
        let weights: Vec<f64> = target
            .iter()
            .zip(source.label_shares())
            .map(|(t, s)| t / s)
            .collect();
        let near =
            |got: &[f64], want: &[f64]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(near(&got.target_shares, &target), "{got:?}");
        assert!(near(&got.weights, &weights), "{got:?}");
        assert_eq!(got.conditional_on, Condition::LabelShift);
    }

    #[test]
    fn what_has_no_one_solution_is_an_error() {
        let never_predicted = confusion([[30, 10, 5], [0, 20, 5], [0, 0, 0]]);
        assert!(matches!(
            bbse(&never_predicted, &[0.5, 0.5, 0.0]),
            Err(ShiftError::Singular { .. })
        ));
        let alike = confusion([[10, 10], [10, 10]]);
        let error = bbse(&alike, &[0.5, 0.5]).unwrap_err();
        assert!(
            matches!(error, ShiftError::Singular { class: 1, .. }),
            "{error}"
        );
        let absent = confusion([[10, 0], [3, 0]]);
        assert!(matches!(
            bbse(&absent, &[0.5, 0.5]),
            Err(ShiftError::ClassAbsent { class: 1 })
        ));
        assert!(matches!(
            bbse(&alike, &[1.0]),
            Err(ShiftError::Length {
                got: 1,
                want: 2,
                ..
            })
        ));
        assert!(matches!(
            bbse(&alike, &[0.5, f64::NAN]),
            Err(ShiftError::Probability { at: 1, .. })
        ));
        assert!(matches!(
            Confusion::count(2, []),
            Err(ShiftError::NoRows { .. })
        ));
        assert!(matches!(
            Confusion::count(2, [(0, 2)]),
            Err(ShiftError::Class { class: 2, .. })
        ));
    }
}
