//! The family of the reported probability, chosen by cross-validation.
//!
//! Candidates, from simple to complex: two classes: none, temperature, platt, beta (from 300 units on, 30 rows of each
//! class); more classes: none, ts_mix, svs (from 10·K units on), sms (from 50·K units on, up to 20 classes). Quadratic
//! isn't among them because it isn't monotone, vector because svs is the same with a penalty, isotonic and Venn–Abers
//! because they do harm unless there are many rows (CalArena, arXiv 2605.30188).

use super::{Fit, family};
use crate::counter::bits;
use crate::rows::Labelled;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stage1_core::config::CalibratorChoice;
use stage1_core::policy::{Calibrator, Fallback};

/// Folds, unless there are fewer units.
const FOLDS: usize = 5;
/// Whole units are taken by seeded hash while they have no more rows than this together,
const MOST_ROWS: usize = 50_000;
/// and no more logits than this.
const MOST_LOGITS: usize = 1 << 24;

/// How `auto` chose: `folds`-fold cross-validation, by unit, of the mean negative log-likelihood. Of all candidates that
/// are at most one standard error *of the difference* worse than the best, the simplest is taken: the candidates are
/// judged on the same rows, so that what one of them finds hard and the others too says nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Rows that the family was chosen on; the chosen one was fitted to all rows.
    pub rows: usize,
    /// Units among them.
    pub units: usize,
    /// Folds.
    pub folds: usize,
    /// From the simplest to the most complex.
    pub candidates: Vec<Candidate>,
}

/// One family and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The family.
    pub choice: CalibratorChoice,
    /// Its likelihood on rows that it wasn't fitted to; none if it wasn't tried or couldn't be fitted.
    pub score: Option<Score>,
    /// Whether it was chosen, or why not.
    pub verdict: Verdict,
}

/// Cross-validated negative log-likelihood in nats per row, with standard errors by unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Mean.
    pub mean: f64,
    /// Standard error of the mean.
    pub standard_error: f64,
    /// Mean, less the mean of the best candidate.
    pub excess: f64,
    /// Standard error of the excess.
    pub excess_standard_error: f64,
}

/// Whether a candidate was chosen, or why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verdict {
    /// The simplest within one standard error of the best.
    Chosen,
    /// Not worse than the chosen one by more than one standard error, but more complex.
    NotSimplest,
    /// Worse than the best by more than one standard error.
    Worse,
    /// Not tried: it takes this many units, or rows of each class.
    TooFewRows {
        /// Units.
        units: usize,
        /// Rows of the rarer of two classes.
        of_each_class: usize,
    },
    /// Not tried: it takes no more classes than this.
    TooManyClasses {
        /// Classes.
        most: usize,
    },
    /// It couldn't be fitted, to all rows or to the rows of a fold.
    NotFitted {
        /// Why.
        reason: Fallback,
    },
}

/// What a candidate takes to be tried.
struct Entry {
    choice: CalibratorChoice,
    units: usize,
    of_each_class: usize,
    most_classes: usize,
}

/// From the simplest to the most complex.
fn entries(classes: usize) -> Vec<Entry> {
    use CalibratorChoice as C;
    let free = |choice| Entry {
        choice,
        units: 0,
        of_each_class: 0,
        most_classes: usize::MAX,
    };
    if classes == 2 {
        let beta = Entry {
            units: 300,
            of_each_class: 30,
            ..free(C::Beta)
        };
        return vec![free(C::None), free(C::Temperature), free(C::Platt), beta];
    }
    let svs = Entry {
        units: 10 * classes,
        ..free(C::Svs)
    };
    let sms = Entry {
        units: 50 * classes,
        most_classes: 20,
        ..free(C::Sms)
    };
    vec![free(C::None), free(C::TsMix), svs, sms]
}

impl Entry {
    fn refusal(&self, classes: usize, units: usize, of_each_class: usize) -> Option<Verdict> {
        if classes > self.most_classes {
            return Some(Verdict::TooManyClasses {
                most: self.most_classes,
            });
        }
        let enough = units >= self.units && of_each_class >= self.of_each_class;
        (!enough).then_some(Verdict::TooFewRows {
            units: self.units,
            of_each_class: self.of_each_class,
        })
    }
}

pub(super) fn fit(rows: Labelled<'_>, units: Option<&[u64]>, seed: u64) -> Fit {
    let all = Units::new(rows.n(), units, seed);
    let sample = all.sample(rows);
    let mut selection = Selection {
        rows: sample.rows.len(),
        units: sample.units,
        folds: FOLDS.min(sample.units),
        candidates: Vec::new(),
    };
    if rows.n() == 0 || selection.folds < 2 {
        let reason = if rows.n() == 0 {
            Fallback::NoRows
        } else {
            Fallback::TooFewRows
        };
        return Fit::of(Err(reason), Some(selection));
    }
    let (units, rarer) = (all.each().count(), rarer_of_two(rows.labels));
    let entries = entries(rows.classes);
    let chosen_on = Gathered::new(rows, &sample.rows);
    // Each candidate on its own and in order: what runs on several threads runs inside.
    let trials: Vec<Result<Trial, Verdict>> = entries
        .iter()
        .map(|entry| match entry.refusal(rows.classes, units, rarer) {
            Some(refusal) => Err(refusal),
            None => Trial::new(entry.choice, chosen_on.labelled(), &sample),
        })
        .collect();
    let (candidates, chosen) = judge(&entries, &trials, &sample);
    selection.candidates = candidates;
    let choice = entries[chosen].choice;
    let fitted = match &trials[chosen] {
        Ok(trial) if sample.rows.len() < rows.n() => family(rows, choice, Some(&trial.fitted)),
        Ok(trial) => Ok(trial.fitted.clone()),
        Err(_) => unreachable!("only what was tried is chosen"),
    };
    // If nothing but `none` could be tried, that is a reason and no choice.
    let reasons = selection.candidates.iter().map(|c| match c.verdict {
        Verdict::NotFitted { reason } => Some(reason),
        _ => None,
    });
    let mut tried_others = selection.candidates.iter().filter(|c| c.score.is_some());
    match reasons.flatten().next() {
        Some(reason) if tried_others.nth(1).is_none() => Fit::of(Err(reason), Some(selection)),
        _ => Fit::of(fitted, Some(selection)),
    }
}

fn rarer_of_two(labels: &[usize]) -> usize {
    let ones = labels.iter().filter(|label| **label == 1).count();
    ones.min(labels.len() - ones)
}

/// What separates this module's draws from others with the same seed.
const STREAM: u64 = 0x6361_6c69_6272_6174;

/// (unit, row) by the unit's seeded hash.
struct Units(Vec<(u64, usize)>);

impl Units {
    fn new(n: usize, units: Option<&[u64]>, seed: u64) -> Self {
        let unit = |i: usize| units.map_or(i as u64, |units| units[i]);
        let mut rows: Vec<(u64, usize)> = (0..n).map(|i| (unit(i), i)).collect();
        rows.par_sort_unstable_by_key(|(unit, row)| (bits(seed, STREAM, *unit), *unit, *row));
        Self(rows)
    }

    fn each(&self) -> impl Iterator<Item = &[(u64, usize)]> {
        self.0.chunk_by(|a, b| a.0 == b.0)
    }

    /// The first units in whole, as many as the limits allow (one at least), dealt to the folds in turn.
    fn sample(&self, of: Labelled<'_>) -> Sample {
        let most = MOST_ROWS.min(MOST_LOGITS / of.classes.max(1));
        let mut members: Vec<(usize, usize)> = Vec::new();
        let mut units = 0;
        for rows in self.each() {
            if units > 0 && members.len() + rows.len() > most {
                break;
            }
            members.extend(rows.iter().map(|(_, row)| (*row, units)));
            units += 1;
        }
        members.sort_unstable();
        Sample {
            rows: members.iter().map(|(row, _)| *row).collect(),
            unit: members.iter().map(|(_, unit)| *unit).collect(),
            units,
        }
    }
}

/// The rows that the family is chosen on.
struct Sample {
    /// Indices of rows, rising.
    rows: Vec<usize>,
    /// The unit of each of them, counted from 0 in the order of the hash.
    unit: Vec<usize>,
    units: usize,
}

impl Sample {
    fn fold(&self, i: usize) -> usize {
        self.unit[i] % FOLDS.min(self.units)
    }
}

/// Rows copied out of others.
struct Gathered {
    logits: Vec<f32>,
    classes: usize,
    labels: Vec<usize>,
}

impl Gathered {
    fn new(rows: Labelled<'_>, indices: &[usize]) -> Self {
        Self {
            logits: indices.iter().flat_map(|i| rows.row(*i)).copied().collect(),
            classes: rows.classes,
            labels: indices.iter().map(|i| rows.labels[*i]).collect(),
        }
    }

    fn labelled(&self) -> Labelled<'_> {
        Labelled {
            logits: &self.logits,
            classes: self.classes,
            labels: &self.labels,
        }
    }
}

/// A family that could be fitted to all rows of the sample and to all but each fold.
struct Trial {
    /// To all of them.
    fitted: Calibrator,
    /// −ln p of each row's label, by the fit that didn't see its fold.
    losses: Vec<f64>,
}

impl Trial {
    fn new(choice: CalibratorChoice, rows: Labelled<'_>, sample: &Sample) -> Result<Self, Verdict> {
        let not_fitted = |reason| Verdict::NotFitted { reason };
        let fitted = family(rows, choice, None).map_err(not_fitted)?;
        let folds: Vec<Result<Vec<(usize, f64)>, Fallback>> = (0..FOLDS.min(sample.units))
            .into_par_iter()
            .map(|fold| {
                let (held_out, kept): (Vec<_>, Vec<_>) =
                    (0..rows.n()).partition(|i| sample.fold(*i) == fold);
                let kept = Gathered::new(rows, &kept);
                let calibrator = family(kept.labelled(), choice, Some(&fitted))?;
                let loss = |i: usize| calibrator.log_loss(rows.row(i), rows.labels[i]);
                Ok(held_out.into_iter().map(|i| (i, loss(i))).collect())
            })
            .collect();
        let mut losses = vec![0.0; rows.n()];
        for fold in folds {
            for (i, loss) in fold.map_err(not_fitted)? {
                losses[i] = loss;
            }
        }
        Ok(Self { fitted, losses })
    }
}

/// Scores, verdicts, and the index of the chosen candidate. The first entry, `none`, always has a trial.
fn judge(
    entries: &[Entry],
    trials: &[Result<Trial, Verdict>],
    sample: &Sample,
) -> (Vec<Candidate>, usize) {
    let mean = |trial: &Trial| trial.losses.iter().sum::<f64>() / trial.losses.len() as f64;
    let tried = trials.iter().filter_map(|trial| trial.as_ref().ok());
    let best = tried
        .min_by(|a, b| mean(a).total_cmp(&mean(b)))
        .expect("`none` can always be tried");
    let scores: Vec<Option<Score>> = trials
        .iter()
        .map(|trial| {
            let trial = trial.as_ref().ok()?;
            let excess = trial.losses.iter().zip(&best.losses).map(|(a, b)| a - b);
            let (mean, standard_error) = sample.mean(trial.losses.iter().copied());
            let (excess, excess_standard_error) = sample.mean(excess);
            Some(Score {
                mean,
                standard_error,
                excess,
                excess_standard_error,
            })
        })
        .collect();
    let within = |score: &Score| score.excess <= score.excess_standard_error;
    let chosen = scores
        .iter()
        .position(|score| score.as_ref().is_some_and(within))
        .expect("the best is within any error of itself");
    let candidates = entries.iter().zip(trials).zip(scores).enumerate();
    let candidates = candidates.map(|(i, ((entry, trial), score))| Candidate {
        choice: entry.choice,
        score,
        verdict: match (trial, &score) {
            (Err(verdict), _) => *verdict,
            _ if i == chosen => Verdict::Chosen,
            (Ok(_), Some(score)) if within(score) => Verdict::NotSimplest,
            (Ok(_), _) => Verdict::Worse,
        },
    });
    (candidates.collect(), chosen)
}

impl Sample {
    /// The mean over rows, and its standard error by unit (of a ratio of sums, linearised).
    fn mean(&self, values: impl Iterator<Item = f64>) -> (f64, f64) {
        let (mut sums, mut sizes) = (vec![0.0; self.units], vec![0.0; self.units]);
        for (value, unit) in values.zip(&self.unit) {
            sums[*unit] += value;
            sizes[*unit] += 1.0;
        }
        let n = self.rows.len() as f64;
        let mean = sums.iter().sum::<f64>() / n;
        let squares = sums.iter().zip(&sizes).map(|(sum, size)| {
            let rest = sum - mean * size;
            rest * rest
        });
        let units = self.units as f64;
        let variance = squares.sum::<f64>() * units / (units - 1.0).max(1.0);
        (mean, libm::sqrt(variance) / n)
    }
}
