//! The paired bootstrap: the same draws of units for all arms and seeds.

use super::{Answers, Arm, Measure, Rows, Settings};
use crate::{
    counter::bits,
    metrics::{Marked, Ranking, Units, percentiles},
};
use rayon::prelude::*;
use stage1_core::metrics::Confusion;

/// Answers, sorted once: a resample is another vector of weights on them.
pub(super) struct Prepared<'a> {
    answers: &'a Answers,
    marked: Marked,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(rows: &Rows, answers: &'a Answers) -> Self {
        let wrong: Vec<_> = rows
            .labels
            .iter()
            .zip(&answers.predicted)
            .map(|(label, predicted)| label != predicted)
            .collect();
        Self {
            marked: Marked::new(&Ranking::new(&answers.score), &wrong),
            answers,
        }
    }

    /// In the order of [`Measure::ALL`].
    pub(super) fn measures(&self, rows: &Rows, weights: &[u32], risk: f64) -> [f64; 3] {
        Measure::ALL.map(|measure| self.measure(measure, rows, weights, risk))
    }

    pub(super) fn measure(&self, measure: Measure, rows: &Rows, weights: &[u32], risk: f64) -> f64 {
        match measure {
            Measure::Mcc => {
                let mut confusion = Confusion::new(rows.classes);
                let answers = rows.labels.iter().zip(&self.answers.predicted);
                for ((label, predicted), weight) in answers.zip(weights) {
                    confusion.add_times(*label, *predicted, u64::from(*weight));
                }
                confusion.mcc()
            }
            Measure::Augrc => self.marked.augrc(weights).unwrap_or(0.0),
            Measure::Coverage => self.marked.coverage_at_risk(weights, risk).unwrap_or(0.0),
        }
    }
}

/// What the resamples gave, averaged over seeds: `[resample][arm][measure]`.
pub(super) struct Draws {
    units: u64,
    means: Vec<Vec<[f64; 3]>>,
}

impl Draws {
    pub(super) fn new(
        rows: &Rows,
        arms: &[Arm],
        prepared: &[Vec<Prepared<'_>>],
        settings: &Settings,
    ) -> Self {
        let units = units(rows, &arms.iter().collect::<Vec<_>>());
        let resample = |weights: &mut Vec<u32>, index: usize| {
            units.draw(settings.bootstrap.seed, index as u64, weights);
            let mean = |runs: &Vec<Prepared<'_>>| mean(rows, runs, weights, settings.risk);
            prepared.iter().map(mean).collect()
        };
        Self {
            means: (0..settings.bootstrap.resamples)
                .into_par_iter()
                .map_init(|| vec![0; rows.labels.len()], resample)
                .collect(),
            units: units.count(),
        }
    }

    pub(super) fn units(&self) -> u64 {
        self.units
    }

    /// The 95 % interval of arm minus reference, and the two-sided p-value of "no difference": twice the smaller share of
    /// resamples at or beyond 0, counting the rows at hand as one of them, so that it is never 0.
    pub(super) fn difference(
        &self,
        arm: usize,
        reference: usize,
        measure: usize,
    ) -> ((f64, f64), f64) {
        let differences = self
            .means
            .iter()
            .map(|arms| arms[arm][measure] - arms[reference][measure]);
        let differences: Vec<_> = differences.collect();
        let beyond = |is: fn(f64) -> bool| differences.iter().filter(|d| is(**d)).count() + 1;
        let fewer = beyond(|d| d <= 0.0).min(beyond(|d| d >= 0.0));
        let p = 2.0 * fewer as f64 / (differences.len() + 1) as f64;
        let interval = percentiles(differences).expect("at least one resample");
        (interval, p.min(1.0))
    }
}

fn mean(rows: &Rows, runs: &[Prepared<'_>], weights: &[u32], risk: f64) -> [f64; 3] {
    let mut sum = [0.0; 3];
    for run in runs {
        for (sum, value) in sum.iter_mut().zip(run.measures(rows, weights, risk)) {
            *sum += value;
        }
    }
    sum.map(|sum| sum / runs.len() as f64)
}

/// What is drawn, or exchanged, as a whole, in an order that doesn't depend on the order of the rows.
pub(super) fn units(rows: &Rows, arms: &[&Arm]) -> Units {
    let keys = (0..rows.labels.len()).map(|row| key(rows, arms, row));
    Units::of_keys(keys.collect(), rows.units.is_some())
}

/// A row's unit, or a hash of all that it brings in.
fn key(rows: &Rows, arms: &[&Arm], row: usize) -> u64 {
    if let Some(units) = &rows.units {
        return units[row];
    }
    let runs = arms.iter().flat_map(|arm| &arm.runs);
    runs.fold(rows.labels[row] as u64, |hash, run| {
        bits(hash, run.predicted[row] as u64, run.score[row].to_bits())
    })
}
