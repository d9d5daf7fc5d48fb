//! What val_calib, or val_test, says of a threshold: exact binomial tests on independent rows, or betting tests on one
//! loss per unit.
//!
//! **Betting.** Unit g has n_g rows of which a_g are answered and e_g of these wrong. For the risk of a random image of a
//! random unit, E[e_g/n_g] / E[a_g/n_g], the loss L_g = α + (e_g − α·a_g)/n_g lies in [0, 1], and the risk is at most α
//! exactly if E[L_g] is. For the risk of a random image, with units of at most B rows, the weight 1/n_g becomes
//! min(1, B/n_g)/B = 1/max(B, n_g). The losses go to the bettor of Waudby-Smith & Ramdas (2010.09686) in the order of a
//! hash of the unit's number; a bet uses earlier units only.
//!
//! What a p-value says: were the rate α or more, evidence as good as this would come with at most that probability, over
//! draws of *units*. It says nothing about one unit, and is void if units were ordered by anything that is in them (their
//! size, their errors). Exact binomial tests: Clopper & Pearson 1934. The other tests are [`bounds`](crate::bounds)'s.
//!
//! ```
//! use stage1_calibration::bounds::wsr_p;
//!
//! // 120 patients with four answered images each; one image of every tenth patient is answered wrongly: a rate of 2.5 %.
//! let alpha = 0.1;
//! let loss = |errors: f64| alpha + (errors - alpha * 4.0) / 4.0;
//! let losses: Vec<f64> = (0..120).map(|g| loss(if g % 10 == 9 { 1.0 } else { 0.0 })).collect();
//! assert!(losses.iter().all(|loss| (0.0..=1.0).contains(loss)));
//! // "The rate is at least 10 %" is rejected.
//! assert!(wsr_p(&losses, alpha, 0.1) < 0.1);
//! ```

use crate::binomial;
use crate::bounds::{wsr_p, wsr_refuting_p};
use crate::rows::{Block, Grouped, Sample};
use crate::scored::{Count, ERRORS_AMONG_ANSWERS, Scored, count};
use rayon::prelude::*;
use stage1_core::certificate::{Constraint, GroupRisk, Tally, UnitRule};
use stage1_core::policy::{Score, Threshold};
use std::ops::Range;

/// Rows of one session, ready to be counted at any threshold.
pub(crate) enum Evidence {
    /// Independent rows.
    Rows(Scored),
    /// Units with all their rows.
    Units(ScoredUnits),
}

impl Evidence {
    /// As `rule` wants it; a sample without groups is always counted by rows.
    pub(crate) fn new(sample: &Sample, score: &Score, rule: UnitRule, risk: GroupRisk) -> Self {
        match (&sample.grouped, rule) {
            (Some(grouped), UnitRule::Betting) => {
                Self::Units(ScoredUnits::new(grouped, score, risk))
            }
            _ => Self::Rows(Scored::new(&sample.kept, score)),
        }
    }

    fn scored(&self) -> &Scored {
        match self {
            Self::Rows(scored) => scored,
            Self::Units(units) => &units.scored,
        }
    }

    /// Answers and wrong ones among them: of rows where all of them are used.
    pub(crate) fn answered(&self, threshold: Threshold) -> Count {
        self.scored().selective(threshold)
    }

    /// Answered share of the units, or of a random image of a random unit.
    pub(crate) fn coverage(&self, threshold: Threshold) -> f64 {
        match self {
            Self::Rows(scored) if scored.values.is_empty() => 0.0,
            Self::Rows(scored) => {
                scored.selective(threshold).total as f64 / scored.values.len() as f64
            }
            Self::Units(units) => units.coverage(threshold),
        }
    }

    /// [`Self::answered`] at each of many thresholds.
    pub(crate) fn all_answered(&self, thresholds: &[Threshold]) -> Vec<Count> {
        self.scored().counts(ERRORS_AMONG_ANSWERS, thresholds)
    }

    /// [`Self::tally`] at each of many thresholds.
    pub(crate) fn tallies(
        &self,
        constraint: Constraint,
        thresholds: &[Threshold],
        level: f64,
    ) -> Vec<Tally> {
        let counts = self.scored().counts(constraint, thresholds);
        let counted = counts.into_par_iter().zip(thresholds);
        counted
            .map(|(count, threshold)| self.tested(count, constraint, *threshold, level))
            .collect()
    }

    /// The test of "the rate is at least α". Betting tests are for the selective error only.
    pub(crate) fn tally(&self, constraint: Constraint, threshold: Threshold, level: f64) -> Tally {
        let count = self.scored().count(constraint, threshold);
        self.tested(count, constraint, threshold, level)
    }

    fn tested(
        &self,
        Count { errors, total }: Count,
        constraint: Constraint,
        threshold: Threshold,
        level: f64,
    ) -> Tally {
        let alpha = constraint.alpha();
        let p_value = match self {
            // The p-value of no case at all is P(Bin(0, α) ≤ 0) = 1.
            Self::Rows(_) => binomial::cdf(errors, total, alpha),
            Self::Units(units) => wsr_p(&units.losses(threshold, alpha), alpha, level),
        };
        Tally {
            errors,
            total,
            p_value,
        }
    }

    /// The p-value of "the rate is at most α".
    pub(crate) fn refuting_p(
        &self,
        constraint: Constraint,
        threshold: Threshold,
        level: f64,
    ) -> f64 {
        let alpha = constraint.alpha();
        match self {
            Self::Rows(scored) => {
                let Count { errors, total } = scored.count(constraint, threshold);
                binomial::survival(errors, total, alpha)
            }
            Self::Units(units) => wsr_refuting_p(&units.losses(threshold, alpha), alpha, level),
        }
    }

    /// The upper bound of the rate with confidence 1 − `level`, for this threshold alone.
    pub(crate) fn upper_bound(&self, tally: Tally, threshold: Threshold, level: f64) -> f64 {
        match self {
            Self::Rows(_) => binomial::upper_bound(tally.errors, tally.total, level),
            Self::Units(units) => units.upper_bound(threshold, level),
        }
    }

    /// A lower and an upper bound, each with confidence 1 − `level` / 2.
    pub(crate) fn interval(&self, tally: Tally, threshold: Threshold, level: f64) -> (f64, f64) {
        match self {
            Self::Rows(_) => binomial::clopper_pearson(tally.errors, tally.total, level),
            Self::Units(units) => (
                units.lower_bound(threshold, level / 2.0),
                units.upper_bound(threshold, level / 2.0),
            ),
        }
    }
}

/// Units with all their rows.
pub(crate) struct ScoredUnits {
    scored: Scored,
    units: Vec<Range<usize>>,
    risk: GroupRisk,
}

impl ScoredUnits {
    pub(crate) fn new(grouped: &Grouped, score: &Score, risk: GroupRisk) -> Self {
        Self {
            scored: Scored::new(&grouped.rows, score),
            units: grouped.units().collect(),
            risk,
        }
    }

    /// Rows that are their own units.
    pub(crate) fn of_rows(rows: &Block, score: &Score, risk: GroupRisk) -> Self {
        Self {
            scored: Scored::new(rows, score),
            units: (0..rows.n()).map(|i| i..i + 1).collect(),
            risk,
        }
    }

    pub(crate) fn units(&self) -> &[Range<usize>] {
        &self.units
    }

    /// The answer to row `i`, nothing if it is deferred, and its label.
    pub(crate) fn answer(&self, i: usize, threshold: Threshold) -> (Option<usize>, usize) {
        self.scored.answer(i, threshold)
    }

    /// The loss of each unit at `alpha`.
    fn losses(&self, threshold: Threshold, alpha: f64) -> Vec<f64> {
        let of =
            |unit: &Range<usize>| loss(self.risk, unit.len(), self.unit(unit, threshold), alpha);
        self.units.iter().map(of).collect()
    }

    /// Answers in a unit, and wrong ones among them.
    pub(crate) fn unit(&self, unit: &Range<usize>, threshold: Threshold) -> Count {
        let answers = unit.clone().map(|i| self.scored.answer(i, threshold));
        count(ERRORS_AMONG_ANSWERS, answers)
    }

    fn coverage(&self, threshold: Threshold) -> f64 {
        let share =
            |unit: &Range<usize>| self.unit(unit, threshold).total as f64 / unit.len() as f64;
        self.units.iter().map(share).sum::<f64>() / self.units.len().max(1) as f64
    }

    fn upper_bound(&self, threshold: Threshold, level: f64) -> f64 {
        // Up from the bound the rate is rejected.
        crossing(|rate| wsr_p(&self.losses(threshold, rate), rate, level) > level)
    }

    fn lower_bound(&self, threshold: Threshold, level: f64) -> f64 {
        let is_refuted = |rate| wsr_refuting_p(&self.losses(threshold, rate), rate, level) <= level;
        if is_refuted(1e-9) {
            crossing(is_refuted)
        } else {
            0.0
        }
    }
}

/// The loss of a unit of `rows` rows.
pub(crate) fn loss(risk: GroupRisk, rows: usize, unit: Count, alpha: f64) -> f64 {
    let weight = match risk {
        GroupRisk::Unit => rows as f64,
        GroupRisk::Row { max_group_size } => (max_group_size.max(rows as u64)) as f64,
    };
    // The errors first: with integers the sum doesn't depend on the order of rows.
    alpha + (unit.errors as f64 - alpha * unit.total as f64) / weight
}

/// Where `below` turns from true to false in (0, 1): to 1e-6, because each question is a pass over all units.
fn crossing(below: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while high - low > 1e-6 {
        let middle = low + (high - low) / 2.0;
        *(if below(middle) { &mut low } else { &mut high }) = middle;
    }
    high
}
