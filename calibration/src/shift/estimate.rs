use super::{Bbse, Condition, Confusion, Em, ShiftError, bbse, check_length, em};
use crate::rows::CalibRows;
use serde::Serialize;
use stage1_core::policy::{Calibrator, argmax};

/// Both estimates for one stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelShift {
    /// What all of this is conditional on.
    pub conditional_on: Condition,
    /// Rows of val_calib, one per unit.
    pub source_rows: u64,
    /// Rows of the stream.
    pub target_rows: u64,
    /// Frequencies of the classes in val_calib.
    pub source_shares: Vec<f64>,
    /// By maximum likelihood on the calibrated probabilities.
    pub em: Em,
    /// By the confusion matrix; none if it can't be inverted.
    pub bbse: Option<Bbse>,
    /// Why there is no `bbse`.
    pub bbse_failure: Option<String>,
}

/// Estimates how often the classes come in a stream of raw logits (`[n, K]`, row-major, finite): predictions are raw
/// arg-maxes, probabilities are `calibrator`'s.
///
/// # Errors
/// [`ShiftError::NoRows`], [`ShiftError::ClassAbsent`] or [`ShiftError::Length`]. That BBSE has no solution isn't an
/// error: it is said in the result.
pub fn estimate(
    source: &CalibRows,
    stream: &[f32],
    calibrator: &Calibrator,
) -> Result<LabelShift, ShiftError> {
    let rows = source.0.labelled();
    let k = rows.classes;
    let pairs = (0..rows.n()).map(|i| (argmax(rows.row(i)), rows.labels[i]));
    let confusion = Confusion::count(k, pairs)?;
    if stream.is_empty() {
        return Err(ShiftError::NoRows {
            which: "the stream",
        });
    }
    check_length("the last row of the stream", (stream.len() - 1) % k + 1, k)?;
    let (mut predicted, mut probabilities) = (vec![0_u64; k], Vec::new());
    for row in stream.chunks_exact(k) {
        predicted[argmax(row)] += 1;
        probabilities.extend(calibrator.probabilities(row));
    }
    let n = (stream.len() / k) as u64;
    let shares: Vec<f64> = predicted
        .iter()
        .map(|count| *count as f64 / n as f64)
        .collect();
    let source_shares = confusion.label_shares();
    let em = em(&probabilities, &source_shares)?;
    let bbse = bbse(&confusion, &shares);
    Ok(LabelShift {
        conditional_on: Condition::LabelShift,
        source_rows: rows.n() as u64,
        target_rows: n,
        source_shares,
        em,
        bbse_failure: bbse.as_ref().err().map(ToString::to_string),
        bbse: bbse.ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{binary_set, multi_set};
    use stage1_core::logits::LogitSet;

    /// Keeps every row of class 0 and every fourth of the others.
    fn shifted(set: &LogitSet) -> LogitSet {
        let kept: Vec<usize> = (0..set.n())
            .filter(|i| set.labels[*i] == 0 || i % 4 == 0)
            .collect();
        set.subset(&kept)
    }

    #[test]
    fn both_estimates_find_the_shift_that_there_is() {
        let source = CalibRows::new(&multi_set(6000, 1), 1).unwrap();
        let target = shifted(&multi_set(6000, 2));
        let got = estimate(&source, &target.logits, &Calibrator::None).unwrap();
        let truth =
            target.labels.iter().filter(|label| **label == 0).count() as f64 / target.n() as f64;
        assert!(truth > 0.6);
        let bbse = got.bbse.as_ref().unwrap();
        assert!(
            (bbse.target_shares[0] - truth).abs() < 0.03,
            "{truth} {got:?}"
        );
        assert!(
            (got.em.target_shares[0] - truth).abs() < 0.1,
            "{truth} {got:?}"
        );
        let json = serde_json::to_value(&got).unwrap();
        assert_eq!(json["conditional_on"], "label_shift");
    }

    #[test]
    fn bbse_may_fail_alone() {
        let mut set = binary_set(500, 1);
        // Every row is predicted to be class 0.
        set.logits.chunks_mut(2).for_each(|row| row[0] = 99.0);
        let source = CalibRows::new(&set, 1).unwrap();
        let got = estimate(&source, &set.logits, &Calibrator::None).unwrap();
        assert_eq!(got.bbse, None);
        assert!(got.bbse_failure.unwrap().contains("can't be inverted"));
        assert!(matches!(
            estimate(&source, &[], &Calibrator::None),
            Err(ShiftError::NoRows { .. })
        ));
    }
}
