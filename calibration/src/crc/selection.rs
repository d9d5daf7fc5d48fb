use super::CrcError;
use crate::decimal::ceil_times;
use crate::rows::SelectRows;
use serde::{Deserialize, Serialize};
use stage1_core::policy::Score;

/// Which rows are answered at all: those whose score is at least a value that val_select fixed. val_calib has no say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// The number that is compared.
    pub score: Score,
    /// The smallest score that is selected.
    pub at_least: f64,
}

impl Selection {
    /// The strictest value that selects at least the share `share` of val_select; whole tie groups go together.
    ///
    /// # Errors
    /// [`CrcError::Share`], [`CrcError::EmptySelect`], or [`CrcError::Score`] for a score that doesn't go with the
    /// number of classes.
    pub fn at_share(select: &SelectRows, score: Score, share: f64) -> Result<Self, CrcError> {
        if !(share > 0.0 && share <= 1.0) {
            return Err(CrcError::Share { share });
        }
        // A gate isn't a function of the logits, which are all that a selection is shown.
        if matches!(score, Score::BinaryMargin | Score::Gate) {
            return Err(CrcError::Score);
        }
        let rows = select.0.labelled();
        let mut values: Vec<f64> = (0..rows.n()).map(|i| score.value(rows.row(i))).collect();
        values.sort_unstable_by(|a, b| b.total_cmp(a));
        if values.is_empty() {
            return Err(CrcError::EmptySelect);
        }
        // At least one, at most all.
        let needed = ceil_times(values.len() as u64, share) as usize;
        let at_least = values[needed - 1];
        Ok(Self { score, at_least })
    }

    /// Whether a row of finite logits is selected.
    pub fn takes(&self, logits: &[f32]) -> bool {
        self.score.value(logits) >= self.at_least
    }
}
