//! Which of several trainings is better, from their answers to the same images.
//!
//! Arms are compared with one of them, the reference, on the *same rows*, each arm trained with several seeds. Every measure is
//! averaged over an arm's seeds, and the difference of the averages has a paired bootstrap interval: whole units of rows are
//! drawn with replacement, the same draws for all arms and seeds. The p-value is the larger one of two: the bootstrap's, and that
//! of exchanging the answers of arm and reference unit by unit, which stays valid where few rows make the difference. The p-values
//! of the arms are adjusted by Holm (1979), measure by measure. So an interval is about *other images* for these seeds; how much seeds matter is in [`Spread`], and pooling rows
//! over seeds, which would count each image several times, happens nowhere: McNemar's test is one per seed.
//!
//! | measure | better | what |
//! |---|---|---|
//! | [`Measure::Mcc`] | higher | Matthews' correlation of all answers |
//! | [`Measure::Augrc`] | lower | area under wrong answers over coverage (Traub et al. 2024), by the arm's own score |
//! | [`Measure::Coverage`] | higher | the largest coverage with an error rate of at most the target risk; *descriptive*, see [`caveat`](crate::metrics::caveat) |
//!
//! ```
//! use stage1_calibration::comparison::{Answers, Arm, Measure, Rows, Settings, Verdict, compare};
//!
//! // 400 rows; the reference errs in every fifth, the other arm in every twentieth of them, by chance of the seed elsewhere.
//! let rows = Rows { classes: 2, labels: (0..400).map(|i| i % 2).collect(), units: None };
//! let arm = |name: &str, every: usize| Arm {
//!     name: name.to_owned(),
//!     runs: (0..3).map(|seed| Answers {
//!         predicted: (0..400).map(|i| (i % 2) ^ usize::from((i / 2 + seed) % every == 0)).collect(),
//!         score: (0..400).map(|i| 1.0 / (1.0 + i as f64)).collect(),
//!     }).collect(),
//! };
//! let settings = Settings::new(Measure::Mcc, 0.05, 7);
//! let found = compare(&rows, &[1, 2, 3], &[arm("plain", 5), arm("better", 20)], 0, &settings)?;
//! assert_eq!(found.arms[1].verdict, Some(Verdict::Better));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod exchange;
mod gate;
mod mcnemar;
mod paired;

pub use gate::judge_gate;
pub use mcnemar::{McNemar, McNemarTest, mcnemar};

use crate::{
    error::{Error, Result},
    metrics::Bootstrap,
};
use paired::{Draws, Prepared};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The level at which arms are told apart.
pub const LEVEL: f64 = 0.05;

/// What arms are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Matthews' correlation coefficient; higher is better.
    Mcc,
    /// Area under the generalised risk over coverage; lower is better.
    Augrc,
    /// The largest coverage at the target risk; higher is better.
    Coverage,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mcc, Self::Augrc, Self::Coverage];

    /// Its short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mcc => "mcc",
            Self::Augrc => "augrc",
            Self::Coverage => "coverage",
        }
    }

    /// 1 where higher is better, −1 where lower is.
    pub fn sign(self) -> f64 {
        match self {
            Self::Mcc | Self::Coverage => 1.0,
            Self::Augrc => -1.0,
        }
    }
}

/// The rows that all arms answered, in one order.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// Number of classes.
    pub classes: usize,
    /// True classes `[n]`.
    pub labels: Vec<usize>,
    /// Rows with the same number are one unit `[n]`; none: every row is its own.
    pub units: Option<Vec<u64>>,
}

/// What one training answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// Predicted classes `[n]`.
    pub predicted: Vec<usize>,
    /// How sure it is `[n]`: larger is surer.
    pub score: Vec<f64>,
}

/// One way to train, with one training per seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Arm {
    /// Its name.
    pub name: String,
    /// In the order of the seeds.
    pub runs: Vec<Answers>,
}

/// How arms are compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What the verdict is by; the other measures are told beside it.
    pub primary: Measure,
    /// The risk of [`Measure::Coverage`].
    pub risk: f64,
    /// How rows are drawn.
    pub bootstrap: Bootstrap,
}

impl Settings {
    /// With the usual number of resamples.
    pub fn new(primary: Measure, risk: f64, seed: u64) -> Self {
        Self {
            primary,
            risk,
            bootstrap: Bootstrap {
                resamples: Bootstrap::RESAMPLES,
                seed,
            },
        }
    }
}

/// How arms differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Rows that all arms answered.
    pub rows: u64,
    /// Independent units of them: what the bootstrap draws.
    pub units: u64,
    /// The seeds, in the order of the values by seed.
    pub seeds: Vec<u64>,
    /// The arm that others are compared with.
    pub reference: String,
    /// What the verdicts are by.
    pub primary: Measure,
    /// The target risk of `coverage`.
    pub risk: f64,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// The level of intervals and verdicts.
    pub level: f64,
    /// In the order given.
    pub arms: Vec<ArmResult>,
}

/// What is said of an arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmResult {
    /// Its name.
    pub name: String,
    /// Each measure, by seed.
    pub measures: BTreeMap<Measure, Spread>,
    /// How each measure differs from the reference's; none of the reference itself.
    pub differences: BTreeMap<Measure, Difference>,
    /// McNemar's test against the reference, by seed; none of the reference itself.
    pub mcnemar: Vec<McNemar>,
    /// By the primary measure; none of the reference itself.
    pub verdict: Option<Verdict>,
}

/// A measure over the seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// One value per seed.
    pub by_seed: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation (n − 1); 0 of one.
    pub deviation: f64,
}

/// A difference, arm minus reference, of the means over seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// On the rows themselves.
    pub estimate: f64,
    /// 2.5th percentile of the resamples.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
    /// Two-sided, from the share of resamples beyond 0.
    pub p_bootstrap: f64,
    /// Two-sided, from the share of exchanges of answers, unit by unit, that make a difference as large.
    pub p_exchange: f64,
    /// The larger of both.
    pub p: f64,
    /// Adjusted for the number of arms (Holm).
    pub p_holm: f64,
    /// Seeds whose own difference has the sign of the estimate.
    pub seeds_agree: usize,
    /// What that amounts to.
    pub verdict: Verdict,
}

/// Whether an arm is better than the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Holm's p is at most 0.05, and the difference is for the better.
    Better,
    /// As much for the worse.
    Worse,
    /// The rows don't tell them apart, which doesn't say that they are equal.
    Undecided,
}

/// Compares arms with the one at `reference`.
///
/// # Errors
/// [`Error::Arms`] when answers and rows don't go together, [`Error::Level`] for a risk that is none.
pub fn compare(
    rows: &Rows,
    seeds: &[u64],
    arms: &[Arm],
    reference: usize,
    settings: &Settings,
) -> Result<Comparison> {
    check(rows, seeds, arms, reference, settings)?;
    let prepared: Vec<Vec<_>> = arms
        .iter()
        .map(|arm| {
            arm.runs
                .iter()
                .map(|run| Prepared::new(rows, run))
                .collect()
        })
        .collect();
    let draws = Draws::new(rows, arms, &prepared, settings);
    let estimates: Vec<_> = prepared
        .iter()
        .map(|runs| spreads(rows, runs, settings))
        .collect();
    let mut results: Vec<_> = arms
        .iter()
        .zip(estimates.iter().cloned())
        .map(|(arm, measures)| ArmResult {
            name: arm.name.clone(),
            measures,
            differences: BTreeMap::new(),
            mcnemar: Vec::new(),
            verdict: None,
        })
        .collect();
    let others: Vec<_> = (0..arms.len()).filter(|arm| *arm != reference).collect();
    let exchanges: Vec<_> = others
        .iter()
        .map(|arm| exchange::p_values(rows, &arms[*arm], &arms[reference], settings))
        .collect();
    for (place, measure) in Measure::ALL.into_iter().enumerate() {
        let found: Vec<_> = others
            .iter()
            .zip(&exchanges)
            .map(|(arm, exchanges)| {
                let (interval, p_bootstrap) = draws.difference(*arm, reference, place);
                (interval, Chance::new(p_bootstrap, exchanges[place]))
            })
            .collect();
        let p: Vec<_> = found.iter().map(|(_, chance)| chance.p).collect();
        for ((arm, (interval, chance)), p_holm) in others.iter().zip(found).zip(holm(&p)) {
            let (ours, theirs) = (&estimates[*arm][&measure], &estimates[reference][&measure]);
            let difference = difference(measure, ours, theirs, interval, (chance, p_holm));
            if measure == settings.primary {
                results[*arm].verdict = Some(difference.verdict);
            }
            results[*arm].differences.insert(measure, difference);
        }
    }
    for arm in others {
        let pairs = arms[arm].runs.iter().zip(&arms[reference].runs);
        let tests =
            pairs.map(|(ours, theirs)| mcnemar(&rows.labels, &ours.predicted, &theirs.predicted));
        results[arm].mcnemar = tests.collect();
    }
    Ok(Comparison {
        rows: rows.labels.len() as u64,
        units: draws.units(),
        seeds: seeds.to_vec(),
        reference: arms[reference].name.clone(),
        primary: settings.primary,
        risk: settings.risk,
        resamples: settings.bootstrap.resamples,
        level: LEVEL,
        arms: results,
    })
}

fn check(
    rows: &Rows,
    seeds: &[u64],
    arms: &[Arm],
    reference: usize,
    settings: &Settings,
) -> Result<()> {
    let fail = |reason: String| Err(Error::Arms { reason });
    let n = rows.labels.len();
    if n == 0 || seeds.is_empty() || settings.bootstrap.resamples == 0 {
        return fail("there are no rows, no seeds or no resamples".to_owned());
    }
    if !(settings.risk > 0.0 && settings.risk < 1.0) {
        return Err(Error::Level {
            name: "risk",
            value: settings.risk,
        });
    }
    if reference >= arms.len() {
        return fail(format!("arm {reference} of {} is no reference", arms.len()));
    }
    if rows.units.as_ref().is_some_and(|units| units.len() != n) {
        return fail(format!("units aren't those of {n} rows"));
    }
    for arm in arms {
        if arm.runs.len() != seeds.len() {
            let (got, want) = (arm.runs.len(), seeds.len());
            return fail(format!("{} has {got} trainings for {want} seeds", arm.name));
        }
        for run in &arm.runs {
            if run.predicted.len() != n || run.score.len() != n {
                return fail(format!("{} didn't answer all of the {n} rows", arm.name));
            }
            if run.score.iter().any(|score| !score.is_finite()) {
                return fail(format!("{} has a score that is no finite number", arm.name));
            }
        }
    }
    Ok(())
}

fn spreads(rows: &Rows, runs: &[Prepared], settings: &Settings) -> BTreeMap<Measure, Spread> {
    let once = vec![1; rows.labels.len()];
    let values: Vec<_> = runs
        .iter()
        .map(|run| run.measures(rows, &once, settings.risk))
        .collect();
    Measure::ALL
        .into_iter()
        .enumerate()
        .map(|(place, measure)| {
            let by_seed: Vec<_> = values.iter().map(|value| value[place]).collect();
            (measure, Spread::of(by_seed))
        })
        .collect()
}

impl Spread {
    fn of(by_seed: Vec<f64>) -> Self {
        let n = by_seed.len() as f64;
        let mean = by_seed.iter().sum::<f64>() / n;
        let squares: f64 = by_seed.iter().map(|x| (x - mean).powi(2)).sum();
        Self {
            deviation: (squares / (n - 1.0).max(1.0)).sqrt(),
            mean,
            by_seed,
        }
    }
}

/// How likely such a difference is by chance.
#[derive(Clone, Copy)]
struct Chance {
    bootstrap: f64,
    exchange: f64,
    p: f64,
}

impl Chance {
    fn new(bootstrap: f64, exchange: f64) -> Self {
        Self {
            bootstrap,
            exchange,
            p: bootstrap.max(exchange),
        }
    }
}

fn difference(
    measure: Measure,
    ours: &Spread,
    theirs: &Spread,
    (low, high): (f64, f64),
    (chance, p_holm): (Chance, f64),
) -> Difference {
    let estimate = ours.mean - theirs.mean;
    let by_seed = ours.by_seed.iter().zip(&theirs.by_seed);
    let verdict = match (p_holm <= LEVEL, estimate * measure.sign() > 0.0) {
        (true, true) => Verdict::Better,
        (true, false) => Verdict::Worse,
        (false, _) => Verdict::Undecided,
    };
    Difference {
        estimate,
        low,
        high,
        p_bootstrap: chance.bootstrap,
        p_exchange: chance.exchange,
        p: chance.p,
        p_holm,
        seeds_agree: by_seed
            .filter(|(ours, theirs)| (*ours - *theirs) * estimate > 0.0)
            .count(),
        verdict,
    }
}

/// Holm's adjusted p-values, in the order given.
fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<_> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let (mut adjusted, mut least) = (vec![0.0; p.len()], 0.0_f64);
    for (rank, &arm) in order.iter().enumerate() {
        least = least.max(p[arm] * (p.len() - rank) as f64).min(1.0);
        adjusted[arm] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests;
