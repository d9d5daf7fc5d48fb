use super::{CrcError, GridLosses, Selection, crc};
use crate::decimal::floor_times;
use crate::rows::CalibRows;
use serde::{Deserialize, Serialize};
use stage1_core::certificate::{Guarantee, SampleSize};

/// A loss that depends on a parameter, which goes from strict (small loss) to lax.
pub struct LossFamily<'a> {
    /// Values of the parameter, from strict to lax.
    pub grid: &'a [f64],
    /// The largest possible loss.
    pub bound: f64,
    /// The loss of a row (logits, label) at a value of the parameter, in `[0, bound]`.
    pub loss: &'a dyn Fn(&[f32], usize, f64) -> f64,
}

/// A parameter whose expected loss among selected rows is at most α.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scrc {
    /// Always [`Guarantee::Expectation`].
    pub guarantee: Guarantee,
    /// Target of the mean loss.
    pub alpha: f64,
    /// Which rows are answered.
    pub selection: Selection,
    /// The laxest parameter that is controlled.
    pub parameter: f64,
    /// val_calib.
    pub calib: SampleSize,
    /// Rows of it that are selected.
    pub selected: u64,
    /// Sum of their losses at the parameter.
    pub losses: f64,
    /// (losses + B) / (selected + 1), at most α.
    pub bound: f64,
}

/// Why no parameter is controlled. There is no fallback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrcRefusal {
    /// Target of the mean loss.
    pub alpha: f64,
    /// val_calib.
    pub calib: SampleSize,
    /// Rows of it that are selected.
    pub selected: u64,
    /// Sum of their losses at the strictest parameter; none if the grid is empty.
    pub losses: Option<f64>,
    /// Selected rows that it takes if none has any loss: the least m with B ≤ α·(m + 1).
    pub needed_selected_if_no_loss: u64,
}

/// What comes of [`scrc`].
#[derive(Debug, Clone, PartialEq)]
pub enum ScrcFit {
    /// A parameter is controlled.
    Controlled(Scrc),
    /// None is.
    NotControlled(ScrcRefusal),
}

impl Scrc {
    /// The promise in words.
    pub fn statement(&self) -> String {
        format!(
            "On average over calibrations and over selected images drawn like those of val_calib, the loss is at most \
             {}. This is an expectation: about every second calibration exceeds it, and nothing is said with confidence \
             1 − δ, about images that aren't selected, or about images drawn otherwise.",
            self.alpha
        )
    }
}

/// Conformal risk control among the rows that `selection` takes.
///
/// # Errors
/// [`CrcError::Level`], or as [`GridLosses::new`] for a family that isn't monotone.
pub fn scrc(
    selection: &Selection,
    family: &LossFamily<'_>,
    calib: &CalibRows,
    alpha: f64,
) -> Result<ScrcFit, CrcError> {
    let rows = calib.0.labelled();
    let selected: Vec<usize> = (0..rows.n())
        .filter(|i| selection.takes(rows.row(*i)))
        .collect();
    let sum = |parameter: &f64| {
        let loss = |i: &usize| (family.loss)(rows.row(*i), rows.labels[*i], *parameter);
        selected.iter().map(loss).sum()
    };
    let n = selected.len() as u64;
    let losses = GridLosses::new(family.grid.iter().map(sum).collect(), n, family.bound)?;
    Ok(match crc(&losses, alpha)? {
        Some(at) => ScrcFit::Controlled(Scrc {
            guarantee: Guarantee::Expectation,
            alpha,
            selection: selection.clone(),
            parameter: family.grid[at],
            calib: calib.size(),
            selected: n,
            losses: losses.sums()[at],
            bound: (losses.sums()[at] + family.bound) / (n + 1) as f64,
        }),
        None => ScrcFit::NotControlled(ScrcRefusal {
            alpha,
            calib: calib.size(),
            selected: n,
            losses: losses.sums().first().copied(),
            needed_selected_if_no_loss: needed(alpha, family.bound),
        }),
    })
}

/// The least m with `bound` ≤ α·(m + 1).
pub(super) fn needed(alpha: f64, bound: f64) -> u64 {
    let mut m = (bound / alpha).floor().max(1.0) as u64;
    // The quotient may be one off either way; a bound of 1 is compared in decimals.
    let enough = |m: u64| {
        if bound.fract() == 0.0 {
            floor_times(m + 1, alpha) as f64 >= bound
        } else {
            alpha * (m + 1) as f64 >= bound
        }
    };
    while m > 0 && enough(m - 1) {
        m -= 1;
    }
    while !enough(m) {
        m += 1;
    }
    m
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::SelectRows;
    use crate::testing::multi_set;
    use stage1_core::policy::{Score, argmax};

    const SCORE: Score = Score::MaxProbability { temperature: 1.0 };

    /// "Answered beyond the second threshold, and wrong": lax is a small threshold.
    fn wrong_beyond(logits: &[f32], label: usize, parameter: f64) -> f64 {
        f64::from(u8::from(
            SCORE.value(logits) >= -parameter && argmax(logits) != label,
        ))
    }

    #[test]
    fn the_selection_is_kept_and_the_bound_is_met() {
        let select = SelectRows::new(&multi_set(1000, 1), 1).unwrap();
        let selection = Selection::at_share(&select, SCORE, 0.8).unwrap();
        let calib = CalibRows::new(&multi_set(1000, 2), 1).unwrap();
        let grid: Vec<f64> = (0..100).map(|i| -1.0 + f64::from(i) / 150.0).collect();
        let family = LossFamily {
            grid: &grid,
            bound: 1.0,
            loss: &wrong_beyond,
        };
        let ScrcFit::Controlled(got) = scrc(&selection, &family, &calib, 0.02).unwrap() else {
            panic!()
        };
        assert_eq!(got.guarantee, Guarantee::Expectation);
        assert!(
            (750..850).contains(&got.selected) && got.bound <= 0.02,
            "{got:?}"
        );
        assert!(got.statement().contains("an expectation"));
    }

    #[test]
    fn no_parameter_is_made_up() {
        let select = SelectRows::new(&multi_set(1000, 1), 1).unwrap();
        let selection = Selection::at_share(&select, SCORE, 0.8).unwrap();
        let calib = CalibRows::new(&multi_set(10, 2), 1).unwrap();
        let family = LossFamily {
            grid: &[-1.0],
            bound: 1.0,
            loss: &wrong_beyond,
        };
        let ScrcFit::NotControlled(got) = scrc(&selection, &family, &calib, 0.05).unwrap() else {
            panic!()
        };
        assert_eq!(got.needed_selected_if_no_loss, 19);
    }

    #[test]
    fn the_least_number_of_rows_is_that_of_the_decimal() {
        let cases = [
            (0.05, 1.0, 19),
            (0.1, 1.0, 9),
            (0.29, 1.0, 3),
            (0.3, 1.0, 3),
            (0.5, 0.25, 0),
            (0.05, 2.0, 39),
        ];
        for (alpha, bound, want) in cases {
            assert_eq!(needed(alpha, bound), want, "{alpha} {bound}");
        }
    }

    #[test]
    fn a_selection_takes_whole_tie_groups() {
        let select = SelectRows::new(&multi_set(1000, 1), 1).unwrap();
        let takes = |selection: &Selection| {
            let rows = select.0.labelled();
            (0..rows.n())
                .filter(|i| selection.takes(rows.row(*i)))
                .count()
        };
        for (share, want) in [(0.5, 500), (1.0, 1000), (0.0001, 1)] {
            let selection = Selection::at_share(&select, SCORE, share).unwrap();
            assert_eq!(takes(&selection), want);
        }
        let empty = SelectRows::new(&multi_set(0, 1), 1).unwrap();
        assert!(matches!(
            Selection::at_share(&empty, SCORE, 0.5),
            Err(CrcError::EmptySelect)
        ));
        assert!(matches!(
            Selection::at_share(&select, SCORE, 0.0),
            Err(CrcError::Share { .. })
        ));
        assert!(matches!(
            Selection::at_share(&select, Score::BinaryMargin, 0.5),
            Err(CrcError::Score)
        ));
    }
}
