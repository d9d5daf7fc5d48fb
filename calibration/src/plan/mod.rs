//! The plan: score, thresholds, order and start of the tests, all from val_select, fixed and digested before the labels
//! of val_calib are read. Overfitting val_select costs power, never validity.
//!
//! - One constraint on errors among answers: thresholds from strict to lax at equally spaced answered shares, tested in
//!   that order from the start with the largest certified share to be expected.
//! - Several constraints, or others: the thresholds that nothing dominates on val_select, most likely first.
//! - Units of several rows: one row per unit or betting tests, and the start, whichever certifies the larger share in
//!   resamples of val_select.
//!
//! # What a plan says, and what it doesn't
//!
//! A plan promises nothing: its shares and powers are what val_select lets one expect. It is what makes the promise of
//! [`certify`](crate::certify) possible: tests keep their level only if thresholds, order and start were fixed without a
//! look at the labels that are tested ("Learn then Test", Angelopoulos et al. 2021, 2110.01052; the order of several
//! constraints follows its Pareto testing, Laufer-Goldshtein et al. 2022, 2210.07913). Hence:
//!
//! - *Units.* A plan is made for a number of units of val_calib, and for groups or none; other rows are refused.
//! - *Attempts.* A second plan on the same val_calib is a second attempt, whatever has changed; its number is in the plan.
//! - *Shift.* If val_select isn't like val_calib, the start is a bad one, and less is certified; never something wrong.
//! - *Scores that are fitted* (`T_sel`, `vector`, `svs`, `sms`) are fitted on val_select, which costs nothing of val_calib.
//!   A bad fit costs power. Where val_select is too small for that, [`plan_fitted`] takes half of val_calib's units, and
//!   only the other half may certify.
//!
//! ```
//! use stage1_calibration::plan::{Target, plan};
//! use stage1_calibration::rows::SelectRows;
//! use stage1_core::logits::LogitSet;
//!
//! // 300 rows of three classes; every eighth of the unsure ones is wrong.
//! let rows = |first: usize| LogitSet {
//!     classes: 3,
//!     logits: (first..first + 300).flat_map(|i| [(i % 100) as f32 / 10.0, 0.0, 0.0]).collect(),
//!     labels: (first..first + 300).map(|i| i64::from(i % 100 < 40 && i % 8 == 0)).collect(),
//!     ids: (first..first + 300).map(|i| format!("{i}.png")).collect(),
//!     ..LogitSet::default()
//! };
//! let plan = plan(&SelectRows::new(&rows(0), 7)?, 1000, &Target::new(0.05, 0.1), None)?;
//! // The start trades the chance to fail at once for what may be reached.
//! let start = &plan.candidates[plan.order[plan.starts[0]]];
//! assert!(start.measures[0].power > 0.8 && plan.expected_coverage >= start.coverage);
//! // 45 answers without an error are needed at least: for 20 units nothing is expected.
//! let few = stage1_calibration::plan::plan(&SelectRows::new(&rows(0), 7)?, 20, &Target::new(0.05, 0.1), None)?;
//! assert!(few.expected_coverage < 1e-9);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod grid;
mod pareto;
mod resample;
mod start;

pub(crate) use grid::one_sided;

use crate::binomial;
use crate::calibrate::{self, binary_columns, platt, temperature};
use crate::error::{Error, Result, level};
use crate::procedure::level_of_one;
use crate::rows::{FitHalf, SelectRows, Shape};
use crate::scored::{Count, ERRORS_AMONG_ANSWERS, Scored};
use rayon::prelude::*;
use stage1_core::artifact::{Digest, Document};
use stage1_core::certificate::{
    Attempts, Candidate, Constraint, GroupRisk, Measure, Plan, Procedure, UnitRule,
};
use stage1_core::config::{CalibrateConfig, CalibratorChoice, ScoreChoice};
use stage1_core::policy::{Score, Threshold};

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// What is to be promised, all of it together.
    pub constraints: Vec<Constraint>,
    /// The largest share of such certificates that may be wrong.
    pub delta: f64,
    /// How attempts on one val_calib are paid for.
    pub attempts: Attempts,
    /// The number of this attempt, from 1: the entries of val_calib's ledger + 1.
    pub attempt: u64,
    /// How several thresholds are tested.
    pub procedure: Procedure,
    /// The number that is compared with the threshold.
    pub score: ScoreChoice,
    /// The rate to be controlled where units of val_calib have several rows.
    pub group_risk: GroupRisk,
}

impl Target {
    /// Errors among answers at most `alpha`, in a first and only attempt, everything else by default.
    pub fn new(alpha: f64, delta: f64) -> Self {
        let config = CalibrateConfig {
            alpha,
            delta,
            ..CalibrateConfig::default()
        };
        Self::from_config(&config, 1)
    }

    /// What a configuration asks for in its attempt number `attempt`.
    pub fn from_config(config: &CalibrateConfig, attempt: u64) -> Self {
        Self {
            constraints: config.promised(),
            delta: config.delta,
            attempts: config.attempts,
            attempt,
            procedure: config.procedure,
            score: config.score,
            group_risk: config.controlled(),
        }
    }

    /// The level of the tests together.
    fn level(&self, classes: usize) -> Result<f64> {
        if self.constraints.is_empty() {
            return Err(Error::Constraint {
                reason: "there is none: nothing would be promised".to_owned(),
            });
        }
        for constraint in &self.constraints {
            if let Constraint::SelectiveError { alpha } = constraint {
                level("alpha", *alpha)?;
            }
            constraint
                .validate(Some(classes))
                .map_err(|reason| Error::Constraint { reason })?;
        }
        level("delta", self.delta)?;
        if self.attempt == 0 {
            return Err(Error::AttemptZero);
        }
        Ok(self.attempts.level(self.delta, self.attempt))
    }

    /// The one constraint whose thresholds go from strict to lax, and whose groups betting can use.
    fn selective_error(&self) -> Option<f64> {
        match self.constraints[..] {
            [Constraint::SelectiveError { alpha }] => Some(alpha),
            _ => None,
        }
    }
}

/// Plans the tests for a val_calib of this [`shape`](crate::rows::shape()).
///
/// By default the score of two classes is z₁ − z₀ with two-sided thresholds around the point where a Platt curve fitted on
/// val_select crosses one half (0 if there is none); of more classes it is the largest softmax probability at the
/// temperature fitted on val_select (1 if there is none).
///
/// # Errors
/// [`Error::EmptySelect`], [`Error::Level`], [`Error::AttemptZero`], [`Error::Constraint`], [`Error::Score`],
/// [`Error::FittedScore`], [`Error::NoScore`], or [`Error::NoGate`].
pub fn plan(
    select: &SelectRows,
    calib: impl Into<Shape>,
    target: &Target,
    splits_digest: Option<Digest>,
) -> Result<Plan> {
    let ask = Ask::new(select, calib.into(), target, splits_digest)?;
    let mut best: Option<Plan> = None;
    for score in scores(select, target.score)? {
        let plan = ask.plan(score);
        // The first of equals: the list starts with the default.
        if best
            .as_ref()
            .is_none_or(|best| plan.expected_coverage > best.expected_coverage)
        {
            best = Some(plan);
        }
    }
    Ok(best.expect("every choice stands for a score"))
}

/// A plan whose score was fitted on half of val_calib: the other half certifies it, and only that
/// ([`certify_half`](crate::certify::certify_half)).
#[derive(Debug, Clone, PartialEq)]
pub struct HalfPlan(pub(crate) Plan);

impl HalfPlan {
    /// The document.
    pub fn document(&self) -> &Plan {
        &self.0
    }
}

/// As [`plan`], with the largest softmax probability as score, at a temperature fitted on half of val_calib: worth it
/// where val_select is too small, or too unlike val_calib, to fit it.
///
/// # Errors
/// As [`plan`].
pub fn plan_fitted(
    select: &SelectRows,
    fit: &FitHalf,
    certify: Shape,
    target: &Target,
    splits_digest: Option<Digest>,
) -> Result<HalfPlan> {
    let ask = Ask::new(select, certify, target, splits_digest)?;
    let temperature = temperature(fit.0.labelled()).unwrap_or(1.0);
    Ok(HalfPlan(ask.plan(Score::MaxProbability { temperature })))
}

/// Everything that is given before a score is chosen.
struct Ask<'a> {
    select: &'a SelectRows,
    calib: Shape,
    target: &'a Target,
    level: f64,
    splits_digest: Option<Digest>,
}

impl<'a> Ask<'a> {
    fn new(
        select: &'a SelectRows,
        calib: Shape,
        target: &'a Target,
        splits_digest: Option<Digest>,
    ) -> Result<Self> {
        let level = target.level(select.classes())?;
        if select.size().units == 0 {
            return Err(Error::EmptySelect);
        }
        if let (GroupRisk::Row { .. }, None) = (target.group_risk, target.selective_error()) {
            return Err(Error::Constraint {
                reason: "the risk of a random image of groups (`group_risk: row`) goes with the one constraint \
                         selective_error only"
                    .to_owned(),
            });
        }
        if let GroupRisk::Row { max_group_size: 0 } = target.group_risk {
            return Err(Error::Constraint {
                reason:
                    "`group_risk: row` needs `max_group_size` of at least 1, declared beforehand"
                        .to_owned(),
            });
        }
        Ok(Self {
            select,
            calib,
            target,
            level,
            splits_digest,
        })
    }

    fn plan(&self, score: Score) -> Plan {
        let rows = Scored::new(&self.select.0.kept, &score);
        let thresholds = self.thresholds(&score, &rows);
        let one = level_of_one(self.target.procedure, thresholds.len(), self.level);
        let candidates = self.assess(&rows, &thresholds, one);
        let mut plan = Plan {
            schema_version: Plan::SCHEMA_VERSION,
            constraints: self.target.constraints.clone(),
            delta: self.target.delta,
            attempt: self.target.attempt,
            attempts: self.target.attempts,
            level: self.level,
            procedure: self.target.procedure,
            classes: self.select.classes(),
            seed: self.select.0.seed,
            score,
            select: self.select.size(),
            unit_rule: if self.calib.is_grouped() {
                UnitRule::OnePerUnit
            } else {
                UnitRule::Rows
            },
            group_risk: self.target.group_risk,
            calib_units: self.calib.units,
            order: (0..candidates.len()).collect(),
            starts: Vec::new(),
            expected_coverage: 0.0,
            candidates,
            splits_digest: self.splits_digest,
        };
        self.set_order(&mut plan);
        plan
    }

    fn set_order(&self, plan: &mut Plan) {
        match self.target.selective_error() {
            Some(alpha) if self.calib.is_grouped() => resample::choose(plan, self.select, alpha),
            Some(_) => start::choose(plan),
            None => {
                plan.order = pareto::order(&plan.candidates);
                start::first(plan);
            }
        }
    }

    fn thresholds(&self, score: &Score, rows: &Scored) -> Vec<Threshold> {
        match (score, self.target.selective_error()) {
            (Score::BinaryMargin, Some(_)) => grid::two_sided(&rows.values, centre(self.select)),
            (Score::BinaryMargin, None) => grid::pairs(&rows.values),
            _ => grid::one_sided(&rows.values),
        }
    }

    /// What val_select says of each threshold, and the power of its tests on val_calib at `level`.
    fn assess(&self, rows: &Scored, thresholds: &[Threshold], level: f64) -> Vec<Candidate> {
        let n = rows.values.len();
        let counts = |constraint: &Constraint| rows.counts(*constraint, thresholds);
        let counts: Vec<Vec<Count>> = self.target.constraints.iter().map(counts).collect();
        let answered = rows.counts(ERRORS_AMONG_ANSWERS, thresholds);
        let candidate = |(j, answered): (usize, Count)| {
            let measure = |(constraint, counts): (&Constraint, &Vec<Count>)| {
                let alpha = constraint.alpha();
                measure(counts[j], n, self.calib.units, alpha, level)
            };
            Candidate {
                threshold: thresholds[j],
                coverage: answered.total as f64 / n as f64,
                measures: self
                    .target
                    .constraints
                    .iter()
                    .zip(&counts)
                    .map(measure)
                    .collect(),
            }
        };
        answered
            .into_par_iter()
            .enumerate()
            .map(candidate)
            .collect()
    }
}

fn measure(count: Count, n: usize, calib_units: u64, alpha: f64, level: f64) -> Measure {
    let Count { errors, total } = count;
    let rate = (errors as f64 + 0.5) / (total as f64 + 1.0);
    let calib_total = (total as f64 / n as f64 * calib_units as f64).round() as u64;
    let max_errors = binomial::max_errors(calib_total, alpha, level);
    let expected_errors = (rate * calib_total as f64).round() as u64;
    Measure {
        errors,
        total,
        rate,
        calib_total,
        max_errors,
        power: max_errors.map_or(0.0, |k| binomial::cdf(k, calib_total, rate)),
        expected_p: binomial::cdf(expected_errors, calib_total, alpha),
    }
}

/// The scores that a choice stands for, the default first.
pub(crate) fn scores(select: &SelectRows, choice: ScoreChoice) -> Result<Vec<Score>> {
    let classes = select.classes();
    let has_gate = select.0.kept.has_gate();
    check_score(choice, classes)?;
    let max_probability = || Score::MaxProbability {
        temperature: temperature(select.0.labelled()).unwrap_or(1.0),
    };
    match choice {
        ScoreChoice::Auto if classes == 2 => Ok(vec![Score::BinaryMargin]),
        ScoreChoice::Auto | ScoreChoice::MaxProbability => Ok(vec![max_probability()]),
        ScoreChoice::BinaryMargin => Ok(vec![Score::BinaryMargin]),
        ScoreChoice::Vector => calibrated(select, CalibratorChoice::Vector),
        ScoreChoice::Svs => calibrated(select, CalibratorChoice::Svs),
        ScoreChoice::Sms => calibrated(select, CalibratorChoice::Sms),
        ScoreChoice::Margin => Ok(vec![Score::Margin]),
        ScoreChoice::Energy => Ok(vec![Score::Energy]),
        ScoreChoice::Gate if has_gate => Ok(vec![Score::Gate]),
        ScoreChoice::Gate => Err(Error::NoGate { what: "val_select" }),
        ScoreChoice::BestOnSelect => {
            let binary = (classes == 2).then_some(Score::BinaryMargin);
            let always = [max_probability(), Score::Margin, Score::Energy];
            let gate = has_gate.then_some(Score::Gate);
            Ok(binary.into_iter().chain(always).chain(gate).collect())
        }
    }
}

/// Whether `choice` goes with the number of classes: what can be told before there are rows.
///
/// # Errors
/// [`Error::Score`] or [`Error::FittedScore`] if it doesn't.
pub fn check_score(choice: ScoreChoice, classes: usize) -> Result<()> {
    use ScoreChoice as C;
    match choice {
        C::BinaryMargin if classes != 2 => Err(Error::Score { classes }),
        C::Vector | C::Svs | C::Sms if classes == 2 => Err(Error::FittedScore { choice }),
        _ => Ok(()),
    }
}

/// The probability of the answer by a calibrator that is fitted on val_select. A bad fit costs power and never validity
/// there; nothing of val_calib is given away for it, as [`plan_fitted`] would.
fn calibrated(select: &SelectRows, choice: CalibratorChoice) -> Result<Vec<Score>> {
    let fit = calibrate::fit(select.0.labelled(), None, select.0.seed, choice)?;
    match fit.fallback {
        None => Ok(vec![Score::Calibrated { by: fit.calibrator }]),
        Some(fallback) => Err(Error::NoScore { choice, fallback }),
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
                let measure = candidate.measures[0];
                assert_eq!(measure.calib_total, (share * 500.0).round() as u64);
            }
        }
    }

    #[test]
    fn power_counts_what_the_page_says() {
        let count = Count {
            errors: 2,
            total: 100,
        };
        let got = measure(count, 100, 200, 0.05, 0.1);
        assert_eq!((got.errors, got.total, got.calib_total), (2, 100, 200));
        assert!((got.rate - 2.5 / 101.0).abs() < 1e-15);
        let k = got.max_errors.unwrap();
        assert!(binomial::cdf(k, 200, 0.05) <= 0.1 && binomial::cdf(k + 1, 200, 0.05) > 0.1);
        assert!((got.power - binomial::cdf(k, 200, got.rate)).abs() < 1e-15);
        // 2.5/101 of 200 are 4.95 errors.
        assert!((got.expected_p - binomial::cdf(5, 200, 0.05)).abs() < 1e-15);
        let few = measure(count, 100, 44, 0.05, 0.1);
        assert_eq!(
            (few.max_errors, few.power.to_bits()),
            (None, 0.0_f64.to_bits())
        );
    }

    #[test]
    fn several_constraints_are_ordered_by_how_likely_they_pass() {
        let mut target = Target::new(0.1, 0.1);
        let fnr = Constraint::Fnr {
            alpha: 0.05,
            defer_as_error: false,
        };
        target.constraints.push(fnr);
        let select = SelectRows::new(&binary_set(2000, 3), 1).unwrap();
        let plan = plan(&select, 1000, &target, None).unwrap();
        plan.validate().unwrap();
        assert_eq!(plan.starts, [0]);
        let tested: Vec<&Candidate> = plan.order.iter().map(|j| &plan.candidates[*j]).collect();
        let worst = |candidate: &Candidate| {
            let all = candidate.measures.iter().map(|measure| measure.expected_p);
            all.fold(0.0, f64::max)
        };
        assert!(tested.len() > 3 && tested.len() < plan.candidates.len());
        for pair in tested.windows(2) {
            assert!(worst(pair[0]) <= worst(pair[1]) && pair[0].coverage < pair[1].coverage);
        }
    }

    #[test]
    fn a_score_is_taken_where_it_is_asked_for_and_fits() {
        let with = |score| Target {
            score,
            ..Target::new(0.05, 0.1)
        };
        let mut set = multi_set(500, 3);
        let select = |set: &stage1_core::logits::LogitSet| SelectRows::new(set, 1).unwrap();
        let of = |set: &stage1_core::logits::LogitSet, score| {
            plan(&select(set), 500, &with(score), None)
        };
        assert_eq!(of(&set, ScoreChoice::Margin).unwrap().score, Score::Margin);
        assert_eq!(of(&set, ScoreChoice::Energy).unwrap().score, Score::Energy);
        let auto = of(&set, ScoreChoice::Auto).unwrap();
        assert!(matches!(auto.score, Score::MaxProbability { .. }));
        assert!(matches!(
            of(&set, ScoreChoice::BinaryMargin),
            Err(Error::Score { classes: 3 })
        ));
        assert!(matches!(
            of(&set, ScoreChoice::Gate),
            Err(Error::NoGate { .. })
        ));
        // A gate that knows the truth is the best of them.
        let gates = (0..500).map(|i| {
            let right = stage1_core::policy::argmax(set.row(i)) as i64 == set.labels[i];
            f32::from(u8::from(right)) + i as f32 / 1000.0
        });
        let gates = Some(gates.collect());
        set.gate = gates;
        let best = of(&set, ScoreChoice::BestOnSelect).unwrap();
        assert_eq!(best.score, Score::Gate);
        assert!(best.expected_coverage > auto.expected_coverage);
    }

    #[test]
    fn every_procedure_plans_its_own_starts() {
        let select = SelectRows::new(&multi_set(1000, 3), 1).unwrap();
        let of = |procedure| {
            let target = Target {
                procedure,
                ..Target::new(0.05, 0.1)
            };
            plan(&select, 1000, &target, None).unwrap()
        };
        let several = of(Procedure::MultiStart { starts: 5 });
        assert_eq!(several.starts, [0, 10, 20, 30, 40]);
        let (fixed, holm) = (of(Procedure::FixedSequence), of(Procedure::Holm));
        assert!(holm.starts.is_empty());
        assert!(fixed.expected_coverage > holm.expected_coverage);
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
