//! The plan: score, thresholds, order and start of the tests, all from val_select, fixed and digested before the labels
//! of val_calib are read. Overfitting val_select costs power, never validity.

mod grid;
mod start;

use crate::binomial;
use crate::calibrate::{binary_columns, platt, temperature};
use crate::error::{Error, Result, level};
use crate::rows::SelectRows;
use crate::scored::Scored;
use stage1_core::artifact::{Digest, Document};
use stage1_core::certificate::{Attempts, Candidate, Plan};
use stage1_core::policy::{Score, Threshold};

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The largest risk allowed among answers.
    pub alpha: f64,
    /// The largest share of such certificates that may be wrong.
    pub delta: f64,
    /// How attempts on one val_calib are paid for.
    pub attempts: Attempts,
    /// The number of this attempt, from 1: the entries of val_calib's ledger + 1.
    pub attempt: u64,
}

impl Target {
    /// A first and only attempt.
    pub fn new(alpha: f64, delta: f64) -> Self {
        Self {
            alpha,
            delta,
            attempts: Attempts::Single,
            attempt: 1,
        }
    }

    /// The level of the tests.
    fn level(&self) -> Result<f64> {
        level("alpha", self.alpha)?;
        level("delta", self.delta)?;
        if self.attempt == 0 {
            return Err(Error::AttemptZero);
        }
        Ok(self.attempts.level(self.delta, self.attempt))
    }
}

/// Plans the tests for a val_calib of `calib_units` units (see [`count_units`](crate::rows::count_units)).
///
/// Two classes: the score is z₁ − z₀ and thresholds are two-sided around the point where a Platt curve fitted on
/// val_select crosses one half (0 if there is none). More classes: the score is the largest softmax probability at the
/// temperature fitted on val_select (1 if there is none).
///
/// # Errors
/// [`Error::EmptySelect`], [`Error::Level`] or [`Error::AttemptZero`].
pub fn plan(
    select: &SelectRows,
    calib_units: u64,
    target: &Target,
    splits_digest: Option<Digest>,
) -> Result<Plan> {
    let level = target.level()?;
    let size = select.size();
    if size.units == 0 {
        return Err(Error::EmptySelect);
    }
    let score = choose_score(select);
    let rows = Scored::new(select.0.labelled(), score);
    let assess = |threshold| assess(&rows, threshold, calib_units, target.alpha, level);
    let candidates: Vec<Candidate> = thresholds(select, &rows).into_iter().map(assess).collect();
    Ok(Plan {
        schema_version: Plan::SCHEMA_VERSION,
        alpha: target.alpha,
        delta: target.delta,
        attempt: target.attempt,
        attempts: target.attempts,
        level,
        classes: select.classes(),
        seed: select.0.seed,
        score,
        select: size,
        calib_units,
        start: start::best(&candidates),
        candidates,
        splits_digest,
    })
}

fn choose_score(select: &SelectRows) -> Score {
    if select.classes() == 2 {
        return Score::BinaryMargin;
    }
    let temperature = temperature(select.0.labelled()).unwrap_or(1.0);
    Score::MaxProbability { temperature }
}

fn thresholds(select: &SelectRows, rows: &Scored) -> Vec<Threshold> {
    match rows.score {
        Score::BinaryMargin => grid::two_sided(&rows.values, centre(select)),
        _ => grid::one_sided(&rows.values),
    }
}

/// Where a Platt curve on val_select crosses one half.
fn centre(select: &SelectRows) -> f64 {
    let (margins, labels) = binary_columns(select.0.labelled());
    match platt(&margins, &labels) {
        Ok((a, b)) if (b / a).is_finite() => -b / a,
        _ => 0.0,
    }
}

/// What val_select says of a threshold, and the power of its test on val_calib.
fn assess(
    rows: &Scored,
    threshold: Threshold,
    calib_units: u64,
    alpha: f64,
    level: f64,
) -> Candidate {
    let (answered, errors) = rows.count(threshold);
    let risk = (errors as f64 + 0.5) / (answered as f64 + 1.0);
    let coverage = answered as f64 / rows.values.len() as f64;
    let calib_answered = (coverage * calib_units as f64).round() as u64;
    let max_errors = binomial::max_errors(calib_answered, alpha, level);
    let power = max_errors.map_or(0.0, |k| binomial::cdf(k, calib_answered, risk));
    Candidate {
        threshold,
        answered,
        errors,
        risk,
        coverage,
        calib_answered,
        max_errors,
        power,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{binary_set, multi_set};

    #[test]
    fn candidates_go_from_strict_to_lax_and_say_what_they_answer() {
        for set in [multi_set(1000, 3), binary_set(1000, 3)] {
            let select = SelectRows::new(&set, 1).unwrap();
            let plan = plan(&select, 500, &Target::new(0.05, 0.1), None).unwrap();
            plan.validate().unwrap();
            assert_eq!(plan.candidates.len(), 50);
            for (j, candidate) in plan.candidates.iter().enumerate() {
                let share = (j + 1) as f64 / 50.0;
                assert!(
                    (candidate.coverage - share).abs() < 1e-12,
                    "{j}: {candidate:?}"
                );
                assert_eq!(candidate.calib_answered, (share * 500.0).round() as u64);
            }
        }
    }

    #[test]
    fn power_counts_what_the_page_says() {
        let rows = Scored {
            score: Score::BinaryMargin,
            values: vec![3.0; 100],
            raw: vec![1; 100],
            labels: (0..100).map(|i| usize::from(i >= 2)).collect(),
        };
        let got = assess(
            &rows,
            Threshold::TwoSided {
                low: 0.0,
                high: 3.0,
            },
            200,
            0.05,
            0.1,
        );
        assert_eq!(
            (got.answered, got.errors, got.calib_answered),
            (100, 2, 200)
        );
        assert!((got.risk - 2.5 / 101.0).abs() < 1e-15);
        let k = got.max_errors.unwrap();
        assert!(binomial::cdf(k, 200, 0.05) <= 0.1 && binomial::cdf(k + 1, 200, 0.05) > 0.1);
        assert!((got.power - binomial::cdf(k, 200, got.risk)).abs() < 1e-15);
        let few = assess(
            &rows,
            Threshold::TwoSided {
                low: 0.0,
                high: 3.0,
            },
            44,
            0.05,
            0.1,
        );
        assert_eq!(
            (few.max_errors, few.power.to_bits()),
            (None, 0.0_f64.to_bits())
        );
    }

    #[test]
    fn what_cannot_be_planned_is_refused() {
        let select = SelectRows::new(&multi_set(10, 1), 1).unwrap();
        for (alpha, delta) in [(0.0, 0.1), (1.0, 0.1), (0.05, 0.0), (f64::NAN, 0.1)] {
            assert!(matches!(
                plan(&select, 5, &Target::new(alpha, delta), None),
                Err(Error::Level { .. })
            ));
        }
        let zeroth = Target {
            attempt: 0,
            ..Target::new(0.05, 0.1)
        };
        assert!(matches!(
            plan(&select, 5, &zeroth, None),
            Err(Error::AttemptZero)
        ));
        let none = SelectRows::new(&multi_set(0, 1), 1).unwrap();
        assert!(matches!(
            plan(&none, 5, &Target::new(0.05, 0.1), None),
            Err(Error::EmptySelect)
        ));
    }

    #[test]
    fn spending_lowers_the_level_of_later_attempts() {
        let select = SelectRows::new(&multi_set(100, 1), 1).unwrap();
        let third = Target {
            attempt: 3,
            attempts: Attempts::Spending,
            ..Target::new(0.05, 0.12)
        };
        assert!((plan(&select, 50, &third, None).unwrap().level - 0.01).abs() < 1e-15);
        let single = Target {
            attempts: Attempts::Single,
            ..third
        };
        assert!((plan(&select, 50, &single, None).unwrap().level - 0.12).abs() < 1e-15);
    }
}
