//! Selective conformal risk control of answers: a policy whose promise is an expectation.

use super::{CrcError, GridLosses, crc, scrc::needed};
use crate::error::{Error, Result, level};
use crate::plan::{one_sided, scores};
use crate::rows::{CalibRows, SelectRows, Shape};
use crate::scored::{Count, ERRORS_AMONG_ANSWERS, Scored};
use stage1_core::artifact::{Digest, Document};
use stage1_core::certificate::{
    ControlledRisk, ExpectationCandidate, ExpectationPlan, ExpectedRisk, GroupRisk, Guarantee,
    NotCertifiedReason, NotControlled, SampleSize, UnitRule,
};
use stage1_core::config::ScoreChoice;
use stage1_core::policy::{Score, Threshold};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswersTarget {
    /// The most wrong answers among selected images, on average.
    pub alpha: f64,
    /// The number of this attempt, from 1.
    pub attempt: u64,
    /// The score that selects and answers; it has one side.
    pub score: ScoreChoice,
}

/// A threshold whose wrong answers among selected images are at most α, on average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Controlled {
    /// The laxest that is controlled; for a variant that of the policy.
    pub threshold: Threshold,
    /// What val_calib says of it.
    pub expected: ExpectedRisk,
    /// Units answered.
    pub answered: u64,
    /// Answered share of val_calib's units.
    pub coverage: f64,
    /// val_calib.
    pub calib: SampleSize,
    /// The rate that is controlled.
    pub risk: ControlledRisk,
    /// Of the plan.
    pub plan_digest: Digest,
}

/// What comes of [`control_answers`].
#[derive(Debug, Clone, PartialEq)]
pub enum AnswersFit {
    /// A threshold is controlled.
    Controlled(Controlled),
    /// None is; there is no fallback.
    NotControlled(NotControlled),
}

/// Fixes score, selection and thresholds on val_select, for a val_calib of this [`shape`](crate::rows::shape()).
///
/// Selected is what the laxest threshold answers at which val_calib is expected to show (errors + 1) ≤ α·(answers + 1), so
/// that selected images that end up deferred are few, and the rate among selected images is nearly that among answers.
///
/// # Errors
/// [`Error::EmptySelect`], [`Error::Level`], [`Error::AttemptZero`], [`Error::NoGate`], or [`CrcError::Score`].
pub fn plan_answers(
    select: &SelectRows,
    calib: impl Into<Shape>,
    target: &AnswersTarget,
    splits_digest: Option<Digest>,
) -> Result<ExpectationPlan> {
    level("alpha", target.alpha)?;
    if target.attempt == 0 {
        return Err(Error::AttemptZero);
    }
    if select.size().units == 0 {
        return Err(Error::EmptySelect);
    }
    let units = calib.into().units;
    let plans = one_sided_scores(select, target.score)?
        .into_iter()
        .map(|score| plan_with(select, units, target, score, splits_digest));
    // The first of equals: the list starts with the default.
    let best = plans.reduce(|best, plan| {
        if plan.expected_coverage > best.expected_coverage {
            plan
        } else {
            best
        }
    });
    Ok(best.expect("every choice stands for a score"))
}

fn one_sided_scores(select: &SelectRows, choice: ScoreChoice) -> Result<Vec<Score>> {
    let choice = match choice {
        ScoreChoice::BinaryMargin => return Err(CrcError::Score.into()),
        ScoreChoice::Auto => ScoreChoice::MaxProbability,
        other => other,
    };
    let mut all = scores(select, choice)?;
    all.retain(|score| *score != Score::BinaryMargin);
    Ok(all)
}

fn plan_with(
    select: &SelectRows,
    calib_units: u64,
    target: &AnswersTarget,
    score: Score,
    splits_digest: Option<Digest>,
) -> ExpectationPlan {
    let rows = Scored::new(&select.0.kept, &score);
    let thresholds = one_sided(&rows.values);
    let n = rows.values.len() as f64;
    let counts = rows.counts(ERRORS_AMONG_ANSWERS, &thresholds);
    let mut candidates: Vec<ExpectationCandidate> = thresholds
        .iter()
        .zip(counts)
        .map(
            |(threshold, Count { errors, total })| ExpectationCandidate {
                at_least: at_least(*threshold),
                coverage: total as f64 / n,
                errors,
                answered: total,
            },
        )
        .collect();
    // (errors + 1) / (answers + 1) to be expected on val_calib, at val_select's smoothed rate.
    let expected_bound = |of: &ExpectationCandidate| {
        let rate = (of.errors as f64 + 0.5) / (of.answered as f64 + 1.0);
        let answers = (of.coverage * calib_units as f64).round();
        (rate * answers + 1.0) / (answers + 1.0)
    };
    let bounds: Vec<f64> = candidates.iter().map(expected_bound).collect();
    let laxest = bounds.iter().rposition(|bound| *bound <= target.alpha);
    let lowest = (0..bounds.len()).min_by(|a, b| bounds[*a].total_cmp(&bounds[*b]));
    let last = laxest.or(lowest).expect("val_select has rows");
    candidates.truncate(last + 1);
    ExpectationPlan {
        schema_version: ExpectationPlan::SCHEMA_VERSION,
        guarantee: Guarantee::Expectation,
        alpha: target.alpha,
        attempt: target.attempt,
        classes: select.classes(),
        seed: select.0.seed,
        score,
        select: select.size(),
        calib_units,
        expected_coverage: laxest.map_or(0.0, |at| candidates[at].coverage),
        candidates,
        splits_digest,
    }
}

fn at_least(threshold: Threshold) -> f64 {
    match threshold {
        Threshold::OneSided { at_least } => at_least,
        other => unreachable!("{other:?} among thresholds with one side"),
    }
}

/// Takes the laxest planned threshold with (wrong answers + 1) ≤ α·(selected + 1) on val_calib. Of a variant the policy's
/// `threshold` is given, which must be among those that its own rows control: a stricter one loses no more than the laxest,
/// and a variant that is withheld loses nothing, so that the expectation holds for it too.
///
/// # Errors
/// [`Error::OtherRows`], [`Error::Classes`] or [`Error::NoGate`] when the plan was made for other rows.
pub fn control_answers(
    plan: &ExpectationPlan,
    calib: &CalibRows,
    threshold: Option<Threshold>,
) -> Result<AnswersFit> {
    check(plan, calib)?;
    let rows = Scored::new(&calib.0.kept, &plan.score);
    let thresholds: Vec<Threshold> = plan
        .candidates
        .iter()
        .map(|of| Threshold::OneSided {
            at_least: of.at_least,
        })
        .collect();
    let counts = rows.counts(ERRORS_AMONG_ANSWERS, &thresholds);
    let selected = counts.last().map_or(0, |count| count.total);
    let sums = counts.iter().map(|count| count.errors as f64).collect();
    let laxest = crc(&GridLosses::new(sums, selected, 1.0)?, plan.alpha)?;
    let wanted = match threshold {
        None => laxest,
        Some(of) => thresholds.iter().position(|one| *one == of),
    };
    match (wanted, laxest) {
        (Some(at), Some(laxest)) if at <= laxest => {
            let Count { errors, total } = counts[at];
            Ok(AnswersFit::Controlled(Controlled {
                threshold: thresholds[at],
                expected: ExpectedRisk {
                    selected_from: plan.selected_from(),
                    selected,
                    errors,
                    bound: (errors + 1) as f64 / (selected + 1) as f64,
                },
                answered: total,
                coverage: total as f64 / rows.values.len() as f64,
                calib: calib.size(),
                risk: ControlledRisk::of(calib.size().rule, GroupRisk::Unit, calib.0.shape.largest),
                plan_digest: Digest::of_bytes(&stage1_core::artifact::json::to_bytes(plan)),
            }))
        }
        (_, laxest) => Ok(AnswersFit::NotControlled(refusal(
            plan,
            calib,
            selected,
            counts[0],
            laxest.is_some(),
        ))),
    }
}

fn refusal(
    plan: &ExpectationPlan,
    calib: &CalibRows,
    selected: u64,
    strictest: Count,
    others_are_controlled: bool,
) -> NotControlled {
    let needed = needed(plan.alpha, 1.0);
    NotControlled {
        schema_version: NotControlled::SCHEMA_VERSION,
        guarantee: Guarantee::Expectation,
        reason: match others_are_controlled {
            true => NotCertifiedReason::ThresholdNotRejected,
            false if selected < needed => NotCertifiedReason::TooFewUnits,
            false => NotCertifiedReason::StrictestTooWrong,
        },
        alpha: plan.alpha,
        attempt: plan.attempt,
        calib: calib.size(),
        selected,
        answered: strictest.total,
        errors: strictest.errors,
        needed_selected_if_no_error: needed,
        plan_digest: Digest::of_bytes(&stage1_core::artifact::json::to_bytes(plan)),
        splits_digest: plan.splits_digest,
    }
}

fn check(plan: &ExpectationPlan, calib: &CalibRows) -> Result<()> {
    calib.check_columns(plan.classes, &plan.score)?;
    calib.check_units(plan.calib_units, plan.seed)
}

/// What was promised, in words.
pub(crate) fn statement(plan: &ExpectationPlan, variants: u64) -> String {
    let attempt = match plan.attempt {
        1 => String::new(),
        j => format!(
            " This is attempt {j} on this val_calib; the expectation holds for one attempt."
        ),
    };
    let several = match variants {
        0 | 1 => String::new(),
        v => format!(
            " It holds for each of {v} variants certified on this val_calib, and for one chosen by its speed; not for one \
             chosen by its certified coverage."
        ),
    };
    format!(
        "On average over calibrations (one that ends without a policy counts as free of errors) and over selected images, \
         which are drawn like those of val_calib and have a score of at least {}, at most {} are answered wrongly. This is \
         an expectation: about every second calibration exceeds it, and nothing is said with confidence 1 − δ.{attempt}\
         {several} Selected images that are deferred count as not wrong, so that the rate among answers may be larger. \
         Nothing is said about single images, single classes, images that aren't selected, or images drawn otherwise.",
        plan.selected_from(),
        stage1_core::certificate::percent(plan.alpha),
    )
}

/// What val_calib's units are.
pub(crate) fn units(controlled: &Controlled) -> String {
    let SampleSize { rule, rows, units } = controlled.calib;
    match rule {
        UnitRule::Rows => format!("val_calib's {rows} rows are exchangeable with one another"),
        _ => format!(
            "val_calib's {rows} rows are {units} exchangeable units; one row of each, kept by seeded hash, was counted: {}",
            controlled.risk.statement()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{binary_set, multi_set, with_error_rate};
    use stage1_core::logits::LogitSet;

    const TARGET: AnswersTarget = AnswersTarget {
        alpha: 0.05,
        attempt: 1,
        score: ScoreChoice::Auto,
    };

    fn planned(select: &LogitSet, units: u64, score: ScoreChoice) -> Result<ExpectationPlan> {
        let target = AnswersTarget { score, ..TARGET };
        plan_answers(&SelectRows::new(select, 1)?, units, &target, None)
    }

    fn controlled(plan: &ExpectationPlan, calib: &LogitSet) -> Controlled {
        let rows = CalibRows::new(calib, 1).unwrap();
        match control_answers(plan, &rows, None).unwrap() {
            AnswersFit::Controlled(got) => got,
            AnswersFit::NotControlled(not) => panic!("{not:?}"),
        }
    }

    #[test]
    fn answers_are_selected_and_the_bound_is_met() {
        for make in [multi_set, binary_set] {
            let set = make(2000, 2);
            let plan = planned(&make(2000, 1), 2000, ScoreChoice::Auto).unwrap();
            plan.validate().unwrap();
            assert!(matches!(plan.score, Score::MaxProbability { .. }));
            let got = controlled(&plan, &set);
            let count = |from: f64| {
                let score = |i: &usize| plan.score.value(set.row(*i)) >= from;
                let rows: Vec<usize> = (0..set.n()).filter(score).collect();
                let wrong = |i: &&usize| {
                    stage1_core::policy::argmax(set.row(**i)) as i64 != set.labels[**i]
                };
                (rows.len() as u64, rows.iter().filter(wrong).count() as u64)
            };
            assert_eq!(count(plan.selected_from()).0, got.expected.selected);
            assert_eq!(
                count(at_least(got.threshold)),
                (got.answered, got.expected.errors)
            );
            assert!(got.expected.bound <= 0.05 && got.answered <= got.expected.selected);
        }
    }

    #[test]
    fn a_variant_must_control_the_threshold_itself() {
        let plan = planned(&multi_set(2000, 1), 2000, ScoreChoice::Margin).unwrap();
        let first = controlled(&plan, &multi_set(2000, 2));
        let rows = |set: &LogitSet| CalibRows::new(set, 1).unwrap();
        let same = control_answers(&plan, &rows(&multi_set(2000, 2)), Some(first.threshold));
        assert_eq!(same.unwrap(), AnswersFit::Controlled(first));
        // Of the same thresholds, rows that are wrong more often control stricter ones only.
        let mut worse = multi_set(2000, 2);
        for label in worse.labels.iter_mut().step_by(12) {
            *label = (*label + 1) % 3;
        }
        let got = control_answers(&plan, &rows(&worse), Some(first.threshold)).unwrap();
        assert!(matches!(got, AnswersFit::NotControlled(_)), "{got:?}");
        let unplanned = Threshold::OneSided { at_least: 1e9 };
        let got = control_answers(&plan, &rows(&multi_set(2000, 2)), Some(unplanned)).unwrap();
        let AnswersFit::NotControlled(not) = got else {
            panic!("{got:?}")
        };
        assert_eq!(not.reason, NotCertifiedReason::ThresholdNotRejected);
    }

    #[test]
    fn there_is_no_fallback_threshold() {
        let cases = [
            (
                with_error_rate(500, 1, 0.4),
                with_error_rate(500, 2, 0.4),
                NotCertifiedReason::StrictestTooWrong,
            ),
            (
                multi_set(500, 1),
                multi_set(10, 2),
                NotCertifiedReason::TooFewUnits,
            ),
            (
                multi_set(500, 1),
                multi_set(0, 2),
                NotCertifiedReason::TooFewUnits,
            ),
        ];
        for (select, calib, want) in cases {
            let plan = planned(&select, calib.n() as u64, ScoreChoice::Auto).unwrap();
            let rows = CalibRows::new(&calib, 1).unwrap();
            let AnswersFit::NotControlled(not) = control_answers(&plan, &rows, None).unwrap()
            else {
                panic!("{want:?}")
            };
            not.validate().unwrap();
            assert_eq!((not.reason, not.needed_selected_if_no_error), (want, 19));
        }
    }

    #[test]
    fn what_does_not_apply_is_refused() {
        let binary = planned(&binary_set(100, 1), 100, ScoreChoice::BinaryMargin);
        assert!(
            matches!(binary, Err(Error::Crc(CrcError::Score))),
            "{binary:?}"
        );
        let best = planned(&binary_set(400, 1), 400, ScoreChoice::BestOnSelect).unwrap();
        assert_ne!(best.score, Score::BinaryMargin);
        let other = CalibRows::new(&binary_set(399, 1), 1).unwrap();
        assert!(matches!(
            control_answers(&best, &other, None),
            Err(Error::OtherRows { .. })
        ));
    }

    /// Over calibrations the rate of wrong answers among selected images is at most α, with its use made of; and it isn't
    /// kept in nine of ten calibrations, which is why it isn't called certain.
    #[test]
    fn the_rate_is_kept_on_average_and_not_in_every_calibration() {
        let plan = planned(&multi_set(2000, 1), 300, ScoreChoice::Auto).unwrap();
        let truth = multi_set(100_000, 9);
        let rows = SelectRows::new(&truth, 1).unwrap();
        let scored = Scored::new(&rows.0.kept, &plan.score);
        let from = |at_least| scored.selective(Threshold::OneSided { at_least });
        let selected = from(plan.selected_from()).total as f64;
        let rates: Vec<f64> = (0..400)
            .map(|r| {
                let calib = CalibRows::new(&multi_set(300, 100 + r), 1).unwrap();
                match control_answers(&plan, &calib, None).unwrap() {
                    AnswersFit::Controlled(got) => {
                        from(at_least(got.threshold)).errors as f64 / selected
                    }
                    AnswersFit::NotControlled(_) => 0.0,
                }
            })
            .collect();
        let n = rates.len() as f64;
        let mean = rates.iter().sum::<f64>() / n;
        let variance = rates.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        assert!(mean <= 0.05 + 3.0 * (variance / n).sqrt(), "{mean}");
        assert!(mean > 0.03, "{mean}: that is no use of the risk allowed");
    }
}
