//! The planned tests on val_calib, and what comes of them.
//!
//! # What is promised
//!
//! A threshold is *rejected* when val_calib refutes "its risk is above α": for errors among answers, k wrong ones of n are
//! so few that P(Bin(n, α) ≤ k) ≤ level (Clopper & Pearson 1934). Testing in an order that was fixed beforehand, to the
//! first failure, keeps the chance of a wrong rejection at the level without a price for the number of thresholds
//! ("Learn then Test", Angelopoulos et al. 2021, 2110.01052). Of the rejected ones the one that answers most is taken.
//!
//! - *Units.* n counts independent draws, never rows of one group: see [`rows`](crate::rows) for the two ways.
//! - *Attempts.* The level is the plan's: δ for a single attempt, δ/(j(j + 1)) for attempt j of those that are paid for.
//! - *Not promised.* Anything about a class that isn't a constraint, about deferred images, or about images drawn otherwise.
//!   The upper bound of a threshold is for that threshold alone, not for the lowest bound among several.
//!
//! ```
//! use stage1_calibration::certify::{Certification, certify};
//! use stage1_calibration::plan::{Target, plan};
//! use stage1_calibration::rows::{CalibRows, SelectRows, shape};
//! use stage1_core::certificate::UnitRule;
//! use stage1_core::logits::LogitSet;
//!
//! // 40 patients with five images each: all images of a patient are right. 200 rows, but only 40 independent draws.
//! let rows = |first: u64| LogitSet {
//!     classes: 3,
//!     logits: (0..200).flat_map(|i| [5.0 + (i % 7) as f32, 0.0, 0.0]).collect(),
//!     labels: vec![0; 200],
//!     ids: (0..200).map(|i| format!("{}.png", first + i)).collect(),
//!     units: Some((0..200).map(|i| (first + i) / 5).collect()),
//!     ..LogitSet::default()
//! };
//! let select = SelectRows::new(&rows(0), 7)?;
//! let calib = CalibRows::new(&rows(200), 7)?;
//! let plan = plan(&select, shape(&rows(200)), &Target::new(0.05, 0.1), None)?;
//! let Certification::NotCertified(not) = certify(&plan, &calib)? else { panic!("40 draws are too few") };
//! assert_ne!(not.calib.rule, UnitRule::Rows);
//! assert_eq!((not.calib.rows, not.calib.units), (200, 40));
//! // 0.95^45 ≤ 0.1: it takes 45 answers of different patients without an error.
//! assert!(not.needed_answered_if_no_error >= 45);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::binomial;
use crate::error::{Error, Result};
use crate::evidence::Evidence;
use crate::plan::HalfPlan;
use crate::procedure::{self, level_of_one};
use crate::rows::{CalibRows, CertifyHalf};
use stage1_core::artifact::{Digest, Document};
use stage1_core::certificate::{
    Claim, Constraint, ControlledRisk, NotCertified, NotCertifiedReason, Plan, SampleSize, Step,
    Tally, UnitRule,
};
use stage1_core::policy::Threshold;

pub use crate::scored::{Count, count};

/// A threshold for which the plan's constraints hold, all together, with confidence 1 − level.
#[derive(Debug, Clone, PartialEq)]
pub struct Certified {
    /// Of those that were rejected the one with the largest coverage on val_select.
    pub threshold: Threshold,
    /// Its test.
    pub step: Step,
    /// What is promised, each with its evidence.
    pub claims: Vec<Claim>,
    /// The first claim's upper bound at the plan's level, for this threshold alone.
    pub upper_bound: f64,
    /// Answered share of val_calib's units.
    pub coverage: f64,
    /// The tests in their order.
    pub run: Vec<Step>,
    /// val_calib.
    pub calib: SampleSize,
    /// The rate that is controlled.
    pub risk: ControlledRisk,
    /// Of the plan.
    pub plan_digest: Digest,
}

/// What comes of the planned tests.
#[derive(Debug, Clone, PartialEq)]
pub enum Certification {
    /// A threshold was certified.
    Certified(Certified),
    /// None was; there is no fallback.
    NotCertified(NotCertified),
}

/// Tests the plan's thresholds in the planned order and takes, of those that are rejected, the one with the largest
/// coverage on val_select. A threshold is rejected ("some constraint doesn't hold there" is) by the largest p-value among
/// its constraints, an intersection-union test: no share of δ is lost to their number.
///
/// # Errors
/// [`Error::OtherRows`], [`Error::Classes`] or [`Error::NoGate`] when the plan was made for other rows.
pub fn certify(plan: &Plan, calib: &CalibRows) -> Result<Certification> {
    certify_jointly(plan, &[calib])
}

/// As [`certify`], for a plan whose score was fitted on the other half of val_calib.
///
/// # Errors
/// As [`certify`].
pub fn certify_half(plan: &HalfPlan, calib: &CertifyHalf) -> Result<Certification> {
    certify(&plan.0, &calib.0)
}

/// One threshold for several sessions (variants, providers) of a model, each with its own logits of the same val_calib:
/// the largest p-value among them counts, so that all are certified together at δ.
///
/// # Errors
/// As [`certify`], and [`Error::Unpaired`] when there is no session.
pub fn certify_jointly(plan: &Plan, sessions: &[&CalibRows]) -> Result<Certification> {
    let tests = Tests::new(plan, sessions)?;
    let run = tests.run();
    let coverage = |step: &&Step| plan.candidates[step.candidate].coverage;
    let passed = run.iter().filter(|step| step.passed);
    // The laxest of equals.
    let best = passed
        .max_by(|a, b| coverage(a).total_cmp(&coverage(b)))
        .cloned();
    Ok(match best {
        Some(step) => Certification::Certified(tests.certified(step, run)),
        None => Certification::NotCertified(tests.not_certified(run)),
    })
}

/// As [`certify_jointly`], with the evidence of each session by itself: its own counts at the threshold that all share. The
/// tests that led there are the joint ones; where they certify nothing, each session gets that answer.
///
/// # Errors
/// As [`certify_jointly`].
pub fn certify_each(plan: &Plan, sessions: &[&CalibRows]) -> Result<Vec<Certification>> {
    let joint = match certify_jointly(plan, sessions)? {
        Certification::Certified(joint) => joint,
        refused => return Ok(vec![refused; sessions.len()]),
    };
    let own = |calib: &&CalibRows| {
        let tests = Tests::new(plan, &[calib])?;
        let step = Step {
            passed: true,
            ..tests.steps().swap_remove(joint.step.candidate)
        };
        Ok(Certification::Certified(
            tests.certified(step, joint.run.clone()),
        ))
    };
    sessions.iter().map(own).collect()
}

/// A further session's certificate for a policy that exists: the whole planned sequence on that session's logits, and a
/// certificate only if `threshold` is among its own rejections. Testing just that one threshold, which was chosen on the
/// same rows, wouldn't be valid.
///
/// # Errors
/// As [`certify`].
pub fn certify_variant(
    plan: &Plan,
    threshold: Threshold,
    calib: &CalibRows,
) -> Result<Certification> {
    let tests = Tests::new(plan, &[calib])?;
    let run = tests.run();
    let is_it =
        |step: &&Step| step.passed && plan.candidates[step.candidate].threshold == threshold;
    let passed = run.iter().find(is_it).cloned();
    if let Some(step) = passed {
        return Ok(Certification::Certified(tests.certified(step, run)));
    }
    let any = run.iter().any(|step| step.passed);
    let mut not = tests.not_certified(run);
    if any {
        not.reason = NotCertifiedReason::ThresholdNotRejected;
    }
    Ok(Certification::NotCertified(not))
}

fn check(plan: &Plan, calib: &CalibRows) -> Result<()> {
    calib.check_columns(plan.classes, &plan.score)?;
    let planned = plan.unit_rule != UnitRule::Rows;
    if planned != calib.0.shape.is_grouped() {
        return Err(Error::Groups { planned });
    }
    calib.check_units(plan.calib_units, plan.seed)
}

/// The planned tests on the rows of one session, or of several.
struct Tests<'a> {
    plan: &'a Plan,
    sessions: Vec<Evidence>,
    /// val_calib.
    calib: SampleSize,
    largest_unit: u64,
    /// The level of one test, which bets are tuned to.
    one: f64,
}

impl<'a> Tests<'a> {
    fn new(plan: &'a Plan, sessions: &[&CalibRows]) -> Result<Self> {
        sessions.iter().try_for_each(|calib| check(plan, calib))?;
        let Some(first) = sessions.first() else {
            return Err(Error::Unpaired {
                what: "val_calib",
                reason: "there is no session".to_owned(),
            });
        };
        let evidence = |calib: &&CalibRows| {
            Evidence::new(&calib.0, &plan.score, plan.unit_rule, plan.group_risk)
        };
        Ok(Self {
            plan,
            sessions: sessions.iter().map(evidence).collect(),
            calib: first.0.size(plan.unit_rule),
            largest_unit: first.0.shape.largest,
            one: level_of_one(plan.procedure, plan.order.len(), plan.level),
        })
    }

    fn run(&self) -> Vec<Step> {
        let plan = self.plan;
        let steps = self.steps();
        let p: Vec<f64> = steps.iter().map(|step| step.p_value).collect();
        let tested = procedure::test(plan.procedure, &p, &plan.order, &plan.starts, plan.level);
        let one = |one: procedure::Tested| Step {
            passed: one.rejected,
            ..steps[one.candidate].clone()
        };
        tested.into_iter().map(one).collect()
    }

    fn threshold(&self, candidate: usize) -> Threshold {
        self.plan.candidates[candidate].threshold
    }

    /// The test of each candidate, of the session that does worst on it.
    fn steps(&self) -> Vec<Step> {
        let of_sessions: Vec<Vec<Step>> = self
            .sessions
            .iter()
            .map(|evidence| self.steps_of(evidence))
            .collect();
        let worst = |j: usize| {
            let steps = of_sessions.iter().map(|steps| &steps[j]);
            steps
                .max_by(|a, b| a.p_value.total_cmp(&b.p_value))
                .expect("a session")
                .clone()
        };
        (0..self.plan.candidates.len()).map(worst).collect()
    }

    fn steps_of(&self, evidence: &Evidence) -> Vec<Step> {
        let candidates = self.plan.candidates.iter();
        let thresholds: Vec<Threshold> = candidates.map(|one| one.threshold).collect();
        let tallies =
            |constraint: &Constraint| evidence.tallies(*constraint, &thresholds, self.one);
        let tallies: Vec<Vec<Tally>> = self.plan.constraints.iter().map(tallies).collect();
        let answered = evidence.all_answered(&thresholds).into_iter().enumerate();
        answered
            .map(|(candidate, answered)| {
                let tallies: Vec<Tally> = tallies.iter().map(|of| of[candidate]).collect();
                let p_values = tallies.iter().map(|tally| tally.p_value);
                Step {
                    candidate,
                    answered: answered.total,
                    errors: answered.errors,
                    p_value: p_values.fold(0.0, f64::max),
                    tallies,
                    passed: false,
                }
            })
            .collect()
    }

    fn certified(&self, step: Step, run: Vec<Step>) -> Certified {
        let threshold = self.threshold(step.candidate);
        let claims: Vec<Claim> = (0..step.tallies.len())
            .map(|c| self.claim(c, threshold))
            .collect();
        let coverages = self
            .sessions
            .iter()
            .map(|evidence| evidence.coverage(threshold));
        Certified {
            threshold,
            upper_bound: claims[0].upper_bound,
            claims,
            coverage: coverages.fold(1.0, f64::min),
            step,
            run,
            calib: self.calib,
            risk: ControlledRisk::of(self.calib.rule, self.plan.group_risk, self.largest_unit),
            plan_digest: self.plan.digest(),
        }
    }

    /// Of the session that does worst on this constraint.
    fn claim(&self, constraint: usize, threshold: Threshold) -> Claim {
        let constraint = self.plan.constraints[constraint];
        let of_session = |evidence: &Evidence| {
            let tally = evidence.tally(constraint, threshold, self.one);
            Claim {
                constraint,
                errors: tally.errors,
                total: tally.total,
                p_value: tally.p_value,
                upper_bound: evidence.upper_bound(tally, threshold, self.plan.level),
            }
        };
        let claims = self.sessions.iter().map(of_session);
        claims
            .max_by(|a, b| a.p_value.total_cmp(&b.p_value))
            .expect("a session")
    }

    fn not_certified(&self, run: Vec<Step>) -> NotCertified {
        let plan = self.plan;
        let best = self
            .steps()
            .into_iter()
            .min_by(|x, y| x.p_value.total_cmp(&y.p_value))
            .expect("a plan has candidates");
        let needed = Needed::new(self, &best);
        NotCertified {
            schema_version: NotCertified::SCHEMA_VERSION,
            reason: reason(needed.if_no_error, self.calib.units, &run[0]),
            alpha: plan.alpha(),
            constraints: plan.constraints.clone(),
            delta: plan.delta,
            attempt: plan.attempt,
            attempts: plan.attempts,
            jointly: Vec::new(),
            level: plan.level,
            calib: self.calib,
            best_threshold: self.threshold(best.candidate),
            run,
            needed_answered_if_no_error: needed.if_no_error,
            needed_units_if_no_error: needed.units_if_no_error,
            needed_answered_at_observed_rate: needed.at_rate,
            needed_units_at_observed_rate: needed.units_at_rate,
            best,
            plan_digest: plan.digest(),
            splits_digest: plan.splits_digest,
        }
    }
}

fn reason(needed: u64, units: u64, first: &Step) -> NotCertifiedReason {
    match first {
        _ if units < needed => NotCertifiedReason::TooFewUnits,
        Step { answered: 0, .. } => NotCertifiedReason::NothingAnswered,
        _ => NotCertifiedReason::StartNotRejected,
    }
}

/// What a certificate would take, in cases of the most demanding constraint and in units of val_calib.
struct Needed {
    if_no_error: u64,
    units_if_no_error: Option<u64>,
    at_rate: Option<u64>,
    units_at_rate: Option<u64>,
}

impl Needed {
    fn new(tests: &Tests<'_>, best: &Step) -> Self {
        let plan = tests.plan;
        if tests.calib.rule == UnitRule::Betting {
            return Self::of_betting(tests, best);
        }
        let each = plan.constraints.iter().zip(&best.tallies);
        let each = each.map(|(constraint, tally)| {
            Self::of_binomial(constraint.alpha(), tests.one, *tally, tests.calib.units)
        });
        each.reduce(Self::most).expect("a plan has constraints")
    }

    fn of_binomial(alpha: f64, level: f64, tally: Tally, units: u64) -> Self {
        let Tally { errors, total, .. } = tally;
        let if_no_error = binomial::min_rows(0, alpha, level);
        let at_rate = match total {
            0 => None,
            n => binomial::rows_for_held(alpha, level, errors as f64 / n as f64),
        };
        let in_units = |cases: u64| (total > 0).then(|| scale_up(cases, units, total));
        Self {
            if_no_error,
            units_if_no_error: in_units(if_no_error),
            at_rate,
            units_at_rate: at_rate.and_then(in_units),
        }
    }

    /// Wealth grows at most by the factor 1 + α a unit; at the observed rate as fast as it did up to its largest.
    fn of_betting(tests: &Tests<'_>, best: &Step) -> Self {
        let (alpha, needed) = (tests.plan.alpha(), -tests.one.ln());
        let if_no_error = (needed / alpha.ln_1p()).ceil() as u64;
        let units = tests.calib.units as f64;
        let reached = -best.p_value.ln();
        Self {
            if_no_error,
            units_if_no_error: (best.answered > 0)
                .then(|| scale_up(if_no_error, tests.calib.rows, best.answered)),
            at_rate: None,
            units_at_rate: (reached > 0.0).then(|| (units * needed / reached).ceil() as u64),
        }
    }

    /// All constraints must hold: what isn't known of one isn't known of all.
    fn most(self, other: Self) -> Self {
        let both = |a: Option<u64>, b: Option<u64>| Some(a?.max(b?));
        Self {
            if_no_error: self.if_no_error.max(other.if_no_error),
            units_if_no_error: both(self.units_if_no_error, other.units_if_no_error),
            at_rate: both(self.at_rate, other.at_rate),
            units_at_rate: both(self.units_at_rate, other.units_at_rate),
        }
    }
}

/// ⌈answered · units / answered_of_them⌉: in integers, because a coverage in floating point may round up.
fn scale_up(answered: u64, units: u64, answered_of_them: u64) -> u64 {
    let product = u128::from(answered) * u128::from(units);
    u64::try_from(product.div_ceil(u128::from(answered_of_them))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Target, plan};
    use crate::rows::SelectRows;
    use crate::testing::{binary_set, multi_set, with_error_rate};
    use stage1_core::certificate::Procedure;

    fn run_on(
        select: &stage1_core::logits::LogitSet,
        calib: &stage1_core::logits::LogitSet,
    ) -> (Plan, Certification) {
        let calib = CalibRows::new(calib, 1).unwrap();
        let select = SelectRows::new(select, 1).unwrap();
        let plan = plan(&select, calib.size().units, &Target::new(0.05, 0.1), None).unwrap();
        let certification = certify(&plan, &calib).unwrap();
        (plan, certification)
    }

    #[test]
    fn the_laxest_threshold_before_the_first_failure_is_taken() {
        for make in [multi_set, binary_set] {
            let (plan, certification) = run_on(&make(2000, 5), &make(2000, 6));
            let Certification::Certified(got) = certification else {
                panic!("{certification:?}")
            };
            let passed: Vec<_> = got.run.iter().take_while(|step| step.passed).collect();
            assert_eq!(passed.first().unwrap().candidate, plan.starts[0]);
            assert_eq!(**passed.last().unwrap(), got.step);
            assert_eq!(
                got.run.iter().filter(|step| !step.passed).count(),
                got.run.len() - passed.len()
            );
            assert!(got.run.len() <= passed.len() + 1);
            assert!(got.upper_bound <= 0.05 && got.step.p_value <= 0.1);
        }
    }

    #[test]
    fn no_certificate_tells_what_it_would_take() {
        let (_, certification) = run_on(&multi_set(300, 1), &multi_set(30, 2));
        let Certification::NotCertified(got) = certification else {
            panic!("{certification:?}")
        };
        assert_eq!(got.reason, NotCertifiedReason::TooFewUnits);
        assert_eq!(got.needed_answered_if_no_error, 45);
        got.validate().unwrap();

        let (_, certification) = run_on(
            &with_error_rate(1000, 1, 0.3),
            &with_error_rate(1000, 2, 0.3),
        );
        let Certification::NotCertified(got) = certification else {
            panic!("{certification:?}")
        };
        assert_eq!(got.reason, NotCertifiedReason::StartNotRejected);
        assert_eq!(
            got.needed_answered_at_observed_rate, None,
            "the observed rate is above the target"
        );
        assert!(got.needed_units_if_no_error.unwrap() >= 45);
    }

    #[test]
    fn an_empty_val_calib_certifies_nothing() {
        let (_, certification) = run_on(&multi_set(300, 1), &multi_set(0, 2));
        let Certification::NotCertified(got) = certification else {
            panic!("{certification:?}")
        };
        assert_eq!(
            (got.best.p_value.to_bits(), got.needed_units_if_no_error),
            (1.0_f64.to_bits(), None)
        );
    }

    #[test]
    fn other_rows_than_planned_are_refused() {
        let select = SelectRows::new(&multi_set(300, 1), 1).unwrap();
        let plan = plan(&select, 200, &Target::new(0.05, 0.1), None).unwrap();
        let of = |n, seed| CalibRows::new(&multi_set(n, 2), seed).unwrap();
        assert!(certify(&plan, &of(200, 1)).is_ok());
        assert!(matches!(
            certify(&plan, &of(199, 1)),
            Err(Error::OtherRows {
                want: 200,
                got: 199,
                ..
            })
        ));
        assert!(matches!(
            certify(&plan, &of(200, 2)),
            Err(Error::OtherRows { .. })
        ));
        let binary = CalibRows::new(&binary_set(200, 1), 1).unwrap();
        assert!(matches!(
            certify(&plan, &binary),
            Err(Error::Classes {
                got: 2,
                want: 3,
                ..
            })
        ));
    }

    /// Rows of another session: the same images, with logits moved a little.
    fn session(n: usize, noise: f32) -> stage1_core::logits::LogitSet {
        let mut set = multi_set(n, 6);
        for (i, z) in set.logits.iter_mut().enumerate() {
            *z += noise * (i as f32 * 0.7).sin();
        }
        set
    }

    fn planned(n: u64) -> Plan {
        let select = SelectRows::new(&multi_set(2000, 5), 1).unwrap();
        plan(&select, n, &Target::new(0.05, 0.1), None).unwrap()
    }

    #[test]
    fn a_variant_is_certified_only_by_its_own_run() {
        let plan = planned(2000);
        let rows = |noise| CalibRows::new(&session(2000, noise), 1).unwrap();
        let Certification::Certified(first) = certify(&plan, &rows(0.0)).unwrap() else {
            panic!("the reference is certified")
        };
        let same = certify_variant(&plan, first.threshold, &rows(0.001)).unwrap();
        let Certification::Certified(variant) = same else {
            panic!("{same:?}")
        };
        assert_eq!(variant.threshold, first.threshold);
        assert!(variant.run.contains(&variant.step) && variant.step.passed);
        // One step laxer than what any session rejects.
        let laxer = plan.candidates.last().unwrap().threshold;
        let refused = certify_variant(&plan, laxer, &rows(0.001)).unwrap();
        let Certification::NotCertified(refused) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(refused.reason, NotCertifiedReason::ThresholdNotRejected);
    }

    #[test]
    fn sessions_are_certified_together_by_the_worst() {
        let plan = planned(2000);
        let sets = [0.0, 0.5, 2.0].map(|noise| CalibRows::new(&session(2000, noise), 1).unwrap());
        let rejected = |certification: &Certification| match certification {
            Certification::Certified(certified) => certified.run.clone(),
            Certification::NotCertified(not) => not.run.clone(),
        };
        let joint = rejected(&certify_jointly(&plan, &sets.each_ref()[..]).unwrap());
        let alone = sets
            .each_ref()
            .map(|rows| rejected(&certify(&plan, rows).unwrap()));
        for (at, step) in joint.iter().enumerate() {
            let worst = alone
                .iter()
                .map(|run| run.get(at).map_or(1.0, |step| step.p_value));
            let worst = worst.fold(0.0, f64::max);
            assert!(!step.passed || step.p_value.to_bits() == worst.to_bits());
        }
        assert!(certify_jointly(&plan, &[]).is_err());
    }

    #[test]
    fn sessions_certified_together_share_a_threshold_and_have_counts_of_their_own() {
        let plan = planned(2000);
        let sets = [0.0, 0.5].map(|noise| CalibRows::new(&session(2000, noise), 1).unwrap());
        let sets = sets.each_ref();
        let certified = |certification: Certification| match certification {
            Certification::Certified(certified) => certified,
            Certification::NotCertified(not) => panic!("{not:?}"),
        };
        let joint = certified(certify_jointly(&plan, &sets[..]).unwrap());
        let each = certify_each(&plan, &sets[..]).unwrap().into_iter();
        let each: Vec<Certified> = each.map(certified).collect();
        for (own, rows) in each.iter().zip(sets) {
            assert_eq!((own.threshold, &own.run), (joint.threshold, &joint.run));
            // Rejected by its own numbers, too, which are those of the session alone.
            let alone = Tests::new(&plan, &[rows]).unwrap();
            let step = &alone.steps()[joint.step.candidate];
            assert_eq!(
                (own.step.answered, own.step.errors, own.step.p_value),
                (step.answered, step.errors, step.p_value)
            );
            assert!(own.step.p_value <= joint.step.p_value && own.coverage >= joint.coverage);
        }
        assert_ne!(each[0].step.answered, each[1].step.answered);
        // What certifies nothing together certifies nothing for any.
        let wrong = CalibRows::new(&with_error_rate(2000, 3, 0.6), 1).unwrap();
        let refused = certify_each(&plan, &[sets[0], &wrong]).unwrap();
        assert_eq!(refused.len(), 2);
        assert!(
            refused
                .iter()
                .all(|one| matches!(one, Certification::NotCertified(_)))
        );
    }

    #[test]
    fn a_score_fitted_on_one_half_is_certified_on_the_other() {
        let set = multi_set(3000, 6);
        let (fit, rows) = crate::rows::halves(&set, 1).unwrap();
        let select = SelectRows::new(&multi_set(500, 5), 1).unwrap();
        let target = Target::new(0.05, 0.1);
        let plan = crate::plan::plan_fitted(&select, &fit, rows.shape(), &target, None).unwrap();
        let Certification::Certified(got) = certify_half(&plan, &rows).unwrap() else {
            panic!("half of val_calib is enough")
        };
        assert_eq!(got.calib.units, 1500);
    }

    #[test]
    fn other_procedures_certify_what_they_reject() {
        let select = SelectRows::new(&multi_set(2000, 5), 1).unwrap();
        let calib = CalibRows::new(&multi_set(2000, 6), 1).unwrap();
        let coverage = |procedure| {
            let target = Target {
                procedure,
                ..Target::new(0.05, 0.1)
            };
            let plan = plan(&select, 2000, &target, None).unwrap();
            match certify(&plan, &calib).unwrap() {
                Certification::Certified(certified) => {
                    assert!(certified.run.contains(&certified.step));
                    certified.coverage
                }
                Certification::NotCertified(not) => panic!("{not:?}"),
            }
        };
        let fixed = coverage(Procedure::FixedSequence);
        for other in [
            Procedure::MultiStart { starts: 5 },
            Procedure::Bonferroni,
            Procedure::Holm,
        ] {
            assert!(coverage(other) <= fixed, "{other:?}");
        }
        assert!(coverage(Procedure::Holm) >= coverage(Procedure::Bonferroni));
    }

    #[test]
    fn groups_that_the_plan_does_not_know_of_are_refused() {
        let plan = planned(400);
        let mut set = multi_set(2000, 6);
        set.units = Some((0..2000).map(|i| i / 5).collect());
        let got = certify(&plan, &CalibRows::new(&set, 1).unwrap());
        assert!(
            matches!(got, Err(Error::Groups { planned: false })),
            "{got:?}"
        );
    }
}
