//! The exchange test: does the difference survive if it is a coin's choice, unit by unit, which arm gave which answers?
//!
//! The bootstrap is too sure of itself where few rows make the difference: k of them, all on one side, give it a p-value near
//! 2 e⁻ᵏ, while as many tosses of a coin fall on one side with probability 2¹⁻ᵏ. Under the hypothesis that arm and reference answer a
//! unit's rows alike in distribution, exchanging their answers to it changes nothing in distribution, so that the share of
//! exchanges which make the difference at least as large is a valid p-value (Fisher 1935; Phipson and Smyth 2010, where they
//! are drawn). All answers of a unit, of all seeds, are exchanged together; scores by their ranks, since two arms' need not be
//! on one scale.

use super::{
    Answers, Arm, Measure, Rows, Settings,
    paired::{Prepared, units},
};
use crate::{
    counter::bits,
    metrics::{Ranking, Units},
};
use rayon::prelude::*;

/// Exchanges are drawn from other numbers than resamples.
const STREAM: u64 = 0x6578_6368;
/// Differences this close are the same sums in another order.
const ROUNDING: f64 = 1e-12;

/// The two-sided p-value of each measure, in the order of [`Measure::ALL`].
pub(super) fn p_values(rows: &Rows, arm: &Arm, reference: &Arm, settings: &Settings) -> [f64; 3] {
    let pair = Pair::new(rows, arm, reference);
    Measure::ALL.map(|measure| pair.p(measure, settings))
}

/// The answers of both arms as one table of twice the rows: the arm's, then the reference's. Who gave which is a matter of
/// weights, 1 or 0.
struct Pair {
    rows: Rows,
    n: usize,
    seeds: Vec<Answers>,
    units: Units,
}

impl Pair {
    fn new(rows: &Rows, arm: &Arm, reference: &Arm) -> Self {
        let both = arm.runs.iter().zip(&reference.runs);
        let seeds = both.map(|(ours, theirs)| Answers {
            predicted: [&ours.predicted[..], &theirs.predicted].concat(),
            score: [ranks(&ours.score), ranks(&theirs.score)].concat(),
        });
        Self {
            n: rows.labels.len(),
            seeds: seeds.collect(),
            units: units(rows, &[arm, reference]),
            rows: Rows {
                classes: rows.classes,
                labels: rows.labels.repeat(2),
                units: None,
            },
        }
    }

    fn p(&self, measure: Measure, settings: &Settings) -> f64 {
        let differing: Vec<&[u32]> = self
            .units
            .each()
            .filter(|u| self.differs(measure, u))
            .collect();
        let prepared: Vec<_> = self
            .seeds
            .iter()
            .map(|s| Prepared::new(&self.rows, s))
            .collect();
        let distance = |exchanged: &dyn Fn(usize) -> bool| {
            let mut of_arm = [vec![1; self.n], vec![0; self.n]].concat();
            for (place, unit) in differing.iter().enumerate() {
                for row in unit.iter().map(|row| *row as usize) {
                    let moved = u32::from(exchanged(place));
                    (of_arm[row], of_arm[self.n + row]) = (1 - moved, moved);
                }
            }
            let of_reference: Vec<_> = of_arm.iter().map(|weight| 1 - weight).collect();
            let value = |run: &Prepared<'_>, weights: &[u32]| {
                run.measure(measure, &self.rows, weights, settings.risk)
            };
            let by_seed = prepared
                .iter()
                .map(|run| value(run, &of_arm) - value(run, &of_reference));
            (by_seed.sum::<f64>() / prepared.len() as f64).abs()
        };
        let observed = distance(&|_| false) - ROUNDING;
        let as_far = |count: u64, exchanged: &(dyn Fn(u64, usize) -> bool + Sync)| {
            let far = (0..count).into_par_iter().filter(|draw| {
                let draw = *draw;
                distance(&|place| exchanged(draw, place)) >= observed
            });
            far.count() as f64
        };
        let drawn = settings.bootstrap.resamples as u64;
        // All of them where there are no more than would be drawn; the answers as they are, are one.
        match 1u64.checked_shl(differing.len() as u32) {
            Some(all) if all <= drawn => {
                as_far(all, &|draw, place| draw >> place & 1 == 1) / all as f64
            }
            _ => {
                let coin = |draw, place| {
                    bits(settings.bootstrap.seed ^ STREAM, draw, place as u64) & 1 == 1
                };
                (as_far(drawn, &coin) + 1.0) / (drawn + 1) as f64
            }
        }
    }

    /// Whether exchanging a unit's answers can change the measure.
    fn differs(&self, measure: Measure, unit: &[u32]) -> bool {
        let mut rows = unit.iter().map(|row| *row as usize);
        rows.any(|row| {
            let other = self.n + row;
            self.seeds.iter().any(|seed| {
                let score = measure != Measure::Mcc
                    && seed.score[row].to_bits() != seed.score[other].to_bits();
                score || seed.predicted[row] != seed.predicted[other]
            })
        })
    }
}

/// Scores as numbers that only their order decides, ties included: minus the mean place, from the surest row on.
fn ranks(score: &[f64]) -> Vec<f64> {
    let mut ranks = vec![0.0; score.len()];
    let mut before = 0.0;
    for group in Ranking::new(score).groups() {
        let size = group.len() as f64;
        for row in group {
            ranks[*row as usize] = -(before + size / 2.0);
        }
        before += size;
    }
    ranks
}
