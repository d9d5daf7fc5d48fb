//! The stages from logits to certificate and metrics, on generated rows of any size.

use stage1_calibration::calibrate::{self, Candidate, Verdict};
use stage1_calibration::certify::{Certification, certify};
use stage1_calibration::metrics::{Bootstrap, Metric, Predictions, Table, compute};
use stage1_calibration::plan::{Target, plan};
use stage1_calibration::rows::{CalibRows, Labelled, SelectRows, shape};
use stage1_core::config::CalibratorChoice;
use stage1_core::logits::LogitSet;
use std::borrow::Cow;

/// Seed of everything.
const SEED: u64 = 42;
/// How much too sure the generated logits are: the temperature to be found.
const OVERCONFIDENCE: f64 = 1.6;
/// Standard deviation of the true logits: with ten classes about four rows in five are right.
const SPREAD: f64 = 4.0;
/// Risk asked for.
const ALPHA: f64 = 0.05;
/// Share of certificates that may be wrong.
const DELTA: f64 = 0.1;

/// Rows to plan on, and rows to certify and to measure.
#[derive(Debug)]
pub struct Problem {
    /// A tenth as many as `calib`.
    pub select: LogitSet,
    /// All the rows that were asked for.
    pub calib: LogitSet,
}

impl Problem {
    /// Generates `rows` rows of `classes` classes, the same for the same numbers.
    pub fn generate(rows: usize, classes: usize) -> Self {
        Self {
            select: generate(rows / 10, classes, SEED + 1),
            calib: generate(rows, classes, SEED),
        }
    }
}

/// Something that is timed.
#[derive(Debug)]
pub struct Stage {
    /// Short, the same as the peers' stage.
    pub name: &'static str,
    /// Does it, and says what came out.
    pub run: fn(&Problem) -> String,
}

/// The stages that are compared with other software, in their order.
pub const STAGES: [Stage; 3] = [
    Stage {
        name: "temperature",
        run: |problem| {
            let labels = class_indices(&problem.calib);
            format!(
                "{:?}",
                calibrate::temperature(labelled(&problem.calib, &labels))
            )
        },
    },
    Stage {
        name: "certify",
        run: |problem| certification(problem),
    },
    Stage {
        name: "metrics",
        run: |problem| shown(&metrics(&problem.calib, None)),
    },
];

/// Chooses the family of the reported probability by cross-validation, and fits it to `calib`.
pub fn auto(problem: &Problem) -> String {
    let labels = class_indices(&problem.calib);
    let rows = labelled(&problem.calib, &labels);
    let fit = calibrate::fit(rows, None, SEED, CalibratorChoice::Auto).expect("auto goes with all");
    let selection = fit.selection.expect("it tells how it chose");
    let chosen = |of: &&Candidate| of.verdict == Verdict::Chosen;
    match selection.candidates.iter().find(chosen) {
        Some(of) => format!("{:?} by {} rows", of.choice, selection.rows),
        None => format!("none: {:?}", fit.fallback),
    }
}

/// Plans for rows in groups of `size`: which group method, and which start, are tried on resamples of `select`.
pub fn plan_of_groups(problem: &Problem, size: u64) -> String {
    let grouped = |set: &LogitSet| LogitSet {
        units: Some((0..set.n() as u64).map(|i| i / size).collect()),
        ..set.clone()
    };
    let select = SelectRows::new(&grouped(&problem.select), SEED).expect("valid rows");
    let calib = shape(&grouped(&problem.calib));
    let plan = plan(&select, calib, &Target::new(ALPHA, DELTA), None).expect("rows to plan on");
    format!(
        "{:?} from {:?}, expected to answer {:.6}",
        plan.unit_rule, plan.starts, plan.expected_coverage
    )
}

/// All metrics of `calib` with intervals.
pub fn bootstrap(problem: &Problem, resamples: usize) -> String {
    shown(&metrics(
        &problem.calib,
        Some(Bootstrap {
            resamples,
            seed: SEED,
        }),
    ))
}

fn class_indices(set: &LogitSet) -> Vec<usize> {
    set.labels.iter().map(|label| *label as usize).collect()
}

fn labelled<'a>(set: &'a LogitSet, labels: &'a [usize]) -> Labelled<'a> {
    Labelled {
        logits: &set.logits,
        classes: set.classes,
        labels,
    }
}

/// Plans on `select` and certifies on `calib`, from the sets as they are read from a file.
fn certification(problem: &Problem) -> String {
    let select = SelectRows::new(&problem.select, SEED).expect("generated rows are valid");
    let calib = CalibRows::new(&problem.calib, SEED).expect("generated rows are valid");
    let target = Target::new(ALPHA, DELTA);
    let plan = plan(&select, calib.size().units, &target, None).expect("there are rows to plan on");
    match certify(&plan, &calib).expect("the plan was made for these rows") {
        Certification::Certified(got) => format!("answered {:.6}", got.coverage),
        Certification::NotCertified(not) => format!("not certified: {:?}", not.reason),
    }
}

fn metrics(set: &LogitSet, bootstrap: Option<Bootstrap>) -> Table {
    let predictions = Predictions::from_logits(set, None).expect("generated rows are valid");
    compute(&predictions, bootstrap)
}

fn shown(table: &Table) -> String {
    let line = |(name, metric): (&Cow<'_, str>, &Option<Metric>)| match metric {
        None => format!("{name} none"),
        Some(metric) => format!("{name} {:.6}", metric.estimate()),
    };
    table.iter().map(line).collect::<Vec<_>>().join(", ")
}

/// Normal true logits, a label drawn from their softmax, and logits that are too sure of it.
fn generate(rows: usize, classes: usize, seed: u64) -> LogitSet {
    let mut random = Random(seed);
    let mut set = LogitSet {
        classes,
        ..LogitSet::default()
    };
    for _ in 0..rows {
        let row: Vec<f64> = (0..classes).map(|_| SPREAD * random.normal()).collect();
        set.labels.push(random.class(&row) as i64);
        set.logits
            .extend(row.iter().map(|z| (OVERCONFIDENCE * z) as f32));
    }
    set
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((x ^ (x >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Drawn from the softmax: the largest of logits with Gumbel noise.
    fn class(&mut self, logits: &[f64]) -> usize {
        let noisy: Vec<f64> = logits
            .iter()
            .map(|z| z - (-self.uniform().ln()).ln())
            .collect();
        (0..noisy.len())
            .max_by(|a, b| noisy[*a].total_cmp(&noisy[*b]))
            .unwrap_or(0)
    }
}
