//! Units of several rows: one row of each, or betting on all? 200 resamples of val_select's units, as many as val_calib
//! has, are certified both ways from every start; the larger mean certified share wins.

use crate::binomial;
use crate::bounds::wsr_p_down_to_level;
use crate::counter::below;
use crate::evidence::{ScoredUnits, loss};
use crate::procedure::{self, level_of_one};
use crate::rows::SelectRows;
use rayon::prelude::*;
use stage1_core::certificate::{Constraint, GroupRisk, Plan, Procedure, UnitRule};
use std::ops::Range;

/// Resamples of val_select.
const RESAMPLES: u64 = 200;
/// Units of val_select that are drawn from, and units that are drawn, at most: with more, every method and every start is
/// judged alike, and the time would grow without end. Where val_calib has more units, the start comes out a little
/// stricter than it could be, which costs coverage only if the laxer tests then fail. Any cap is sound, though the choice
/// of method may depend on it: the choice sees val_select alone, and is digested before the labels of val_calib are read;
/// whatever is chosen, its error is at most δ.
const MOST_UNITS: usize = 5_000;
const MOST_DRAWN: u64 = 20_000;
/// Streams of random numbers: which unit, and which row of it.
const UNIT: u64 = 0x756e_6974 << 32;
const ROW: u64 = 0x726f_7773 << 32;

/// Sets the rule for val_calib's units, the starts, and the coverage to be expected.
pub(super) fn choose(plan: &mut Plan, select: &SelectRows, alpha: f64) {
    super::start::choose(plan);
    let rules: &[UnitRule] = match plan.group_risk {
        GroupRisk::Unit => &[UnitRule::OnePerUnit, UnitRule::Betting],
        // One row of each unit says nothing of the risk of a random row.
        GroupRisk::Row { .. } => &[UnitRule::Betting],
    };
    let resampler = Resampler::new(plan, select, alpha);
    let chosen = rules.iter().map(|rule| (*rule, resampler.best(*rule)));
    // The first of equals.
    let (rule, (starts, share)) = chosen
        .reduce(|best, next| if next.1.1 > best.1.1 { next } else { best })
        .expect("a rule");
    plan.unit_rule = rule;
    plan.starts = starts;
    plan.expected_coverage = share;
}

struct Resampler<'a> {
    plan: &'a Plan,
    alpha: f64,
    /// Rows of each of val_select's units.
    units: Vec<Range<usize>>,
    /// `[rows, candidates]`: nothing for a deferred row, else whether the answer is wrong.
    rows: Vec<Option<bool>>,
    /// `[candidates, units]`: what betting loses.
    losses: Vec<f64>,
}

impl<'a> Resampler<'a> {
    fn new(plan: &'a Plan, select: &SelectRows, alpha: f64) -> Self {
        let (score, risk) = (&plan.score, plan.group_risk);
        let scored = match &select.0.grouped {
            Some(grouped) => ScoredUnits::new(grouped, score, risk),
            None => ScoredUnits::of_rows(&select.0.kept, score, risk),
        };
        // The first in the order of a hash.
        let units = &scored.units()[..scored.units().len().min(MOST_UNITS)];
        let thresholds = || plan.candidates.iter().map(|candidate| candidate.threshold);
        let case = |(answer, label)| Constraint::SelectiveError { alpha }.case(answer, label);
        let rows = 0..units.last().map_or(0, |unit| unit.end);
        let losses = thresholds().flat_map(|threshold| {
            let loss =
                |unit: &Range<usize>| loss(risk, unit.len(), scored.unit(unit, threshold), alpha);
            units.iter().map(loss).collect::<Vec<_>>()
        });
        Self {
            plan,
            alpha,
            rows: rows
                .flat_map(|i| thresholds().map(move |threshold| (i, threshold)))
                .map(|(i, threshold)| case(scored.answer(i, threshold)))
                .collect(),
            losses: losses.collect(),
            units: units.to_vec(),
        }
    }

    /// The starts with the largest mean certified share under `rule`, and that share.
    fn best(&self, rule: UnitRule) -> (Vec<usize>, f64) {
        let options: Vec<Vec<usize>> = match self.plan.procedure {
            Procedure::FixedSequence => (0..self.plan.order.len()).map(|j| vec![j]).collect(),
            _ => vec![self.plan.starts.clone()],
        };
        let shares: Vec<Vec<f64>> = (0..RESAMPLES)
            .into_par_iter()
            .map(|resample| {
                let p = self.p_values(rule, resample);
                options
                    .iter()
                    .map(|starts| self.share(&p, starts))
                    .collect()
            })
            .collect();
        let mean = |at: usize| shares.iter().map(|of| of[at]).sum::<f64>() / RESAMPLES as f64;
        let mut best = (0, mean(0));
        for at in 1..options.len() {
            if mean(at) > best.1 {
                best = (at, mean(at));
            }
        }
        (options[best.0].clone(), best.1)
    }

    /// The largest coverage among the thresholds that these p-values certify.
    fn share(&self, p: &[f64], starts: &[usize]) -> f64 {
        let plan = self.plan;
        let tested = procedure::test(plan.procedure, p, &plan.order, starts, plan.level);
        let certified = tested.iter().filter(|one| one.rejected);
        certified
            .map(|one| plan.candidates[one.candidate].coverage)
            .fold(0.0, f64::max)
    }

    fn p_values(&self, rule: UnitRule, resample: u64) -> Vec<f64> {
        let drawn = (0..self.plan.calib_units.min(MOST_DRAWN))
            .map(|i| below(self.units.len() as u64, self.plan.seed, UNIT + resample, i) as usize);
        match rule {
            UnitRule::Betting => self.betting(&drawn.collect::<Vec<_>>()),
            _ => self.one_per_unit(drawn, resample),
        }
    }

    fn betting(&self, drawn: &[usize]) -> Vec<f64> {
        let m = self.plan.candidates.len();
        let level = level_of_one(self.plan.procedure, m, self.plan.level);
        // One candidate's losses lie together: they are read in a random order, and must stay in the cache.
        let p = |j: usize| {
            let of_candidate = &self.losses[j * self.units.len()..][..self.units.len()];
            let losses = drawn.iter().map(|g| of_candidate[*g]);
            wsr_p_down_to_level(losses, self.alpha, level)
        };
        (0..m).map(p).collect()
    }

    fn one_per_unit(&self, drawn: impl Iterator<Item = usize>, resample: u64) -> Vec<f64> {
        let m = self.plan.candidates.len();
        let mut counts = vec![(0, 0); m];
        for (i, g) in drawn.enumerate() {
            let unit = &self.units[g];
            let row = below(unit.len() as u64, self.plan.seed, ROW + resample, i as u64) as usize;
            let cases = &self.rows[(unit.start + row) * m..][..m];
            for (count, case) in counts.iter_mut().zip(cases) {
                count.0 += u64::from(*case == Some(true));
                count.1 += u64::from(case.is_some());
            }
        }
        let p = |(errors, total): (u64, u64)| binomial::cdf(errors, total, self.alpha);
        counts.into_iter().map(p).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Target, plan};
    use crate::rows::shape;
    use crate::testing::multi_set;
    use stage1_core::logits::LogitSet;

    /// Copies of a row hold no news, rows of one unit that are drawn apart do.
    fn units(copies: bool) -> LogitSet {
        let mut set = multi_set(1500, 3);
        set.units = Some((0..1500).map(|i| i / 10).collect());
        if copies {
            let firsts: Vec<usize> = (0..1500).map(|i| i / 10 * 10).collect();
            let ids = std::mem::take(&mut set.ids);
            set = set.subset(&firsts);
            set.ids = ids;
        }
        set
    }

    #[test]
    fn the_rule_that_certifies_more_is_chosen() {
        for (copies, want) in [(true, UnitRule::OnePerUnit), (false, UnitRule::Betting)] {
            let set = units(copies);
            let select = SelectRows::new(&set, 1).unwrap();
            let target = Target::new(0.1, 0.1);
            let plan = plan(&select, shape(&set), &target, None).unwrap();
            assert_eq!(plan.unit_rule, want, "copies: {copies}");
            assert!(plan.expected_coverage > 0.0);
        }
    }

    #[test]
    fn the_risk_of_a_random_row_takes_betting() {
        let set = units(true);
        let select = SelectRows::new(&set, 1).unwrap();
        let mut target = Target::new(0.1, 0.1);
        target.group_risk = GroupRisk::Row { max_group_size: 10 };
        let plan = plan(&select, shape(&set), &target, None).unwrap();
        assert_eq!(plan.unit_rule, UnitRule::Betting);
    }
}
