//! Independent rows: the five risk curves, ties, strata, two-sided thresholds, and the false-positive rate.

use super::rivals::{holm, sgr};
use super::{ALPHA, Cell, DELTA, Finding, Outcome, mean, repeat, uniform, validity};
use stage1_calibration::certify::{Certification, certify};
use stage1_calibration::monotone::{Threshold as Closed, false_positive_threshold};
use stage1_calibration::plan::{Target, plan};
use stage1_calibration::rows::{CalibRows, SelectRows};
use stage1_core::certificate::{Constraint, Plan};
use stage1_core::logits::LogitSet;
use stage1_core::policy::{Score, Threshold};

/// A population whose risk is R(c) when the surest share c is answered.
#[derive(Clone, Copy)]
pub(super) struct Curve {
    pub(super) name: &'static str,
    pub(super) risk: fn(f64) -> f64,
    /// d/du u·R(u): the error rate of the row at rank u.
    pub(super) error: fn(f64) -> f64,
}

pub(super) const A: Curve = Curve {
    name: "A",
    risk: |c| 0.125 * c.powi(3),
    error: |u| 0.5 * u.powi(3),
};
const B: Curve = Curve {
    name: "B",
    risk: |c| 0.02 + 0.1 * c * c,
    error: |u| 0.02 + 0.3 * u * u,
};
const C: Curve = Curve {
    name: "C",
    risk: |c| 0.055 + 0.05 * c,
    error: |u| 0.055 + 0.1 * u,
};
pub(super) const D: Curve = Curve {
    name: "D",
    risk: |_| 0.0501,
    error: |_| 0.0501,
};
const E: Curve = Curve {
    name: "E",
    risk: |c| 0.01 + 0.02 * c,
    error: |u| 0.01 + 0.04 * u,
};

/// The binding page's table: size, mean coverage with the standard error of 2,000 calibrations (none where coverage isn't
/// asserted), violation rate of 20,000.
type Reference = (u64, Option<(f64, f64)>, f64);

const TABLE: [(Curve, [Reference; 3]); 5] = [
    (
        A,
        [
            (200, Some((0.3687, 0.0064)), 0.046),
            (1000, Some((0.6648, 0.0011)), 0.072),
            (5000, Some((0.7022, 0.0004)), 0.065),
        ],
    ),
    (
        B,
        [
            (200, Some((0.0561, 0.0034)), 0.027),
            (1000, Some((0.2515, 0.0049)), 0.052),
            (5000, Some((0.4777, 0.0012)), 0.052),
        ],
    ),
    (
        E,
        [
            (200, Some((0.4677, 0.0106)), 0.0),
            (1000, Some((0.9810, 0.0028)), 0.0),
            // 1.000 to three digits: the laxest threshold is the lowest score of val_select, not of all images.
            (5000, Some((0.9995, 0.0)), 0.0),
        ],
    ),
    (
        C,
        [(200, None, 0.011), (1000, None, 0.018), (5000, None, 0.022)],
    ),
    (
        D,
        [(200, None, 0.067), (1000, None, 0.077), (5000, None, 0.089)],
    ),
];

pub(super) fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (curve, references) in TABLE {
        for reference in references {
            let name = format!("{}{}", curve.name, reference.0);
            cells.push(Cell::new(name, move |n| one_sided(curve, reference, n)));
        }
    }
    for curve in [A, D] {
        cells.push(Cell::new(format!("{}1000-ties", curve.name), move |n| {
            ties(curve, n)
        }));
        for size in [200, 1000] {
            let name = format!("{}{size}-two-sided", curve.name);
            cells.push(Cell::new(name, move |n| two_sided(curve, size, n)));
        }
    }
    cells.push(Cell::new("strata1000", strata));
    cells.push(Cell::new("constraints1000", several_constraints));
    for (size, exact) in [(200, 0.0623), (1000, 0.0806), (5000, 0.0904)] {
        cells.push(Cell::new(format!("fpr{size}"), move |n| {
            false_positives(size, exact, n)
        }));
    }
    cells
}

fn one_sided(curve: Curve, (size, table, violation): Reference, repetitions: u64) -> Finding {
    let outcomes = repeat(repetitions, |repetition| {
        let (plan, calib) = planned(|stream| rows(size, stream, curve), repetition);
        let of = |threshold| outcome(curve, &plan.score, threshold);
        [
            of(certified(&plan, &calib)),
            of(holm(&plan, &calib)),
            of(sgr(&plan.score, &calib)),
            if grows_with_levels(&plan, &calib) {
                Outcome::default()
            } else {
                BROKEN
            },
        ]
    });
    let violations = outcomes.iter().filter(|of| of[0].violated).count() as u64;
    let shrank = outcomes.iter().filter(|of| of[3].violated).count();
    let finding = validity(violations, repetitions, Some(violation)).and(
        shrank == 0,
        &format!("rejections shrank with larger levels {shrank} times"),
    );
    match table {
        Some(table) => efficiency(
            finding,
            &outcomes,
            size,
            table,
            curve.name != "E" || size != 5000,
        ),
        None => finding,
    }
}

const BROKEN: Outcome = Outcome {
    coverage: 0.0,
    violated: true,
};

/// At least the table's coverage, and more than the rivals on the same draws.
fn efficiency(
    finding: Finding,
    outcomes: &[[Outcome; 4]],
    size: u64,
    table: (f64, f64),
    strictly: bool,
) -> Finding {
    let coverage = |method: usize| mean(outcomes.iter().map(move |of| of[method].coverage));
    let (ours, error) = coverage(0);
    let (want, table_error) = table;
    let least = want - 3.0 * (error * error + table_error * table_error / 10.0).sqrt();
    let finding = finding.and(
        ours >= least,
        &format!("coverage {ours:.4} ± {error:.4} (table {want:.4}, least {least:.4}; uses {size} extra labelled val_select rows)"),
    );
    [("Holm", 1), ("SGR", 2)]
        .into_iter()
        .fold(finding, |finding, (name, method)| {
            let (gain, error) = mean(
                outcomes
                    .iter()
                    .map(|of| of[0].coverage - of[method].coverage),
            );
            let ok = if strictly {
                gain > 3.0 * error
            } else {
                gain >= -3.0 * error
            };
            finding.and(ok, &format!("{name} {:.4}", coverage(method).0))
        })
}

/// A plan from one draw and the rows that certify from another.
pub(super) fn planned(draw: impl Fn(u64) -> LogitSet, repetition: u64) -> (Plan, LogitSet) {
    let (select, calib) = (draw(2 * repetition), draw(2 * repetition + 1));
    let select = SelectRows::new(&select, 0).unwrap();
    let shape = stage1_calibration::rows::shape(&calib);
    let plan = plan(&select, shape, &Target::new(ALPHA, DELTA), None).unwrap();
    (plan, calib)
}

pub(super) fn certified(plan: &Plan, calib: &LogitSet) -> Option<Threshold> {
    match certify(plan, &CalibRows::new(calib, plan.seed).unwrap()).unwrap() {
        Certification::Certified(certified) => Some(certified.threshold),
        Certification::NotCertified(_) => None,
    }
}

pub(super) fn outcome(curve: Curve, score: &Score, threshold: Option<Threshold>) -> Outcome {
    let Some(Threshold::OneSided { at_least }) = threshold else {
        return Outcome::default();
    };
    let coverage = true_coverage(score, at_least);
    Outcome {
        coverage,
        violated: coverage > 0.0 && (curve.risk)(coverage) > ALPHA,
    }
}

/// For a frozen plan, what is rejected at (α, δ) is rejected at larger ones.
fn grows_with_levels(plan: &Plan, calib: &LogitSet) -> bool {
    let calib = CalibRows::new(calib, plan.seed).unwrap();
    let rejected = |alpha: f64, delta: f64| {
        let plan = Plan {
            constraints: vec![Constraint::SelectiveError { alpha }],
            delta,
            level: delta,
            ..plan.clone()
        };
        match certify(&plan, &calib).unwrap() {
            Certification::Certified(certified) => {
                certified.run.iter().filter(|step| step.passed).count()
            }
            Certification::NotCertified(_) => 0,
        }
    };
    let now = rejected(ALPHA, DELTA);
    now <= rejected(ALPHA + 0.005, DELTA) && now <= rejected(ALPHA, DELTA + 0.02)
}

/// Three classes with logits (4·s, 0, 0) for s uniform in [0, 1]: rank u = 1 − s, label 0 if right.
pub(super) fn rows(size: u64, stream: u64, curve: Curve) -> LogitSet {
    let row = |i: u64| {
        let s = uniform(stream, 2 * i);
        (s, uniform(stream, 2 * i + 1) < (curve.error)(1.0 - s))
    };
    three_classes((0..size).map(row))
}

/// Of (score in [0, 1], wrong).
pub(super) fn three_classes(rows: impl Iterator<Item = (f64, bool)>) -> LogitSet {
    let mut set = LogitSet {
        classes: 3,
        ..LogitSet::default()
    };
    for (s, wrong) in rows {
        set.logits.extend([4.0 * s as f32, 0.0, 0.0]);
        set.labels.push(i64::from(wrong));
    }
    set
}

/// P(score ≥ `at_least`): inverts 1 / (1 + 2·exp(−4s/T)).
pub(super) fn true_coverage(score: &Score, at_least: f64) -> f64 {
    let &Score::MaxProbability { temperature } = score else {
        panic!("{score:?}")
    };
    let s = temperature * (2.0 * at_least / (1.0 - at_least)).ln() / 4.0;
    (1.0 - s).clamp(0.0, 1.0)
}

/// Ten levels of the score: whole tie groups are answered.
fn ties(curve: Curve, repetitions: u64) -> Finding {
    // The rate of the level between the ranks u and u + .1.
    let rate = move |level: f64| {
        let sum = |c: f64| c * (curve.risk)(c);
        10.0 * (sum((10.0 - level) / 10.0) - sum((9.0 - level) / 10.0))
    };
    let draw = |stream: u64| {
        let row = |i: u64| {
            let level = (10.0 * uniform(stream, 2 * i)).floor();
            (
                (level + 0.5) / 10.0,
                uniform(stream, 2 * i + 1) < rate(level),
            )
        };
        three_classes((0..1000).map(row))
    };
    let violated = |repetition| {
        let (plan, calib) = planned(draw, repetition);
        certified(&plan, &calib).is_some_and(|threshold| {
            let Threshold::OneSided { at_least } = threshold else {
                panic!("{threshold:?}")
            };
            // A threshold lies on a level, half a level above its border.
            let answered = (10.0 * true_coverage(&plan.score, at_least) + 0.5).round() / 10.0;
            (curve.risk)(answered) > ALPHA
        })
    };
    count(violated, repetitions)
}

fn count(violated: impl Fn(u64) -> bool + Send + Sync, repetitions: u64) -> Finding {
    let violations = repeat(repetitions, violated)
        .into_iter()
        .filter(|v| *v)
        .count();
    validity(violations as u64, repetitions, None)
}

/// Splits are stratified by label: the numbers of rows of two strata are fixed at 90 and 10 %, and their rates differ.
fn strata(repetitions: u64) -> Finding {
    let draw = |stream: u64| {
        let row = |i: u64| {
            let rate = if i.is_multiple_of(10) { 0.321 } else { 0.02 };
            (uniform(stream, 2 * i), uniform(stream, 2 * i + 1) < rate)
        };
        three_classes((0..1000).map(row))
    };
    let violated = |repetition| {
        let (plan, calib) = planned(draw, repetition);
        // .9·.02 + .1·.321 = .0501 at every threshold.
        certified(&plan, &calib).is_some()
    };
    count(violated, repetitions)
}

fn two_sided(curve: Curve, size: u64, repetitions: u64) -> Finding {
    let violated = |repetition| {
        let (plan, calib) = planned(|stream| binary_rows(curve, size, stream), repetition);
        certified(&plan, &calib).is_some_and(|threshold| {
            let truth = True::of(curve, threshold);
            truth.answered > 0.0 && truth.errors > ALPHA * truth.answered
        })
    };
    count(violated, repetitions)
}

/// Errors among answers, misses among the positives, and coverage, together: one violation is one certificate.
fn several_constraints(repetitions: u64) -> Finding {
    let constraints = vec![
        Constraint::SelectiveError { alpha: ALPHA },
        Constraint::Fnr {
            alpha: 0.03,
            defer_as_error: false,
        },
        Constraint::Coverage { at_least: 0.4 },
    ];
    let violated = |repetition: u64| {
        let draw = |stream| binary_rows(A, 1000, stream);
        let select = SelectRows::new(&draw(2 * repetition), 0).unwrap();
        let target = Target {
            constraints: constraints.clone(),
            ..Target::new(ALPHA, DELTA)
        };
        let plan = plan(&select, 1000, &target, None).unwrap();
        certified(&plan, &draw(2 * repetition + 1)).is_some_and(|threshold| {
            let truth = True::of(A, threshold);
            truth.errors > ALPHA * truth.answered
                || truth.misses > 0.03 * 0.5
                || truth.answered < 0.4
        })
    };
    count(violated, repetitions)
}

/// Two classes with margins ±4·s, either sign equally likely; the sign is the right class unless the row is wrong.
fn binary_rows(curve: Curve, size: u64, stream: u64) -> LogitSet {
    let mut set = LogitSet {
        classes: 2,
        ..LogitSet::default()
    };
    for i in 0..size {
        let s = uniform(stream, 3 * i);
        let wrong = uniform(stream, 3 * i + 1) < (curve.error)(1.0 - s);
        let one = uniform(stream, 3 * i + 2) < 0.5;
        let margin = if one { 4.0 } else { -4.0 } * s as f32;
        set.logits.extend([0.0, margin]);
        set.labels.push(i64::from(one ^ wrong));
    }
    set
}

/// True shares of all images of [`binary_rows`], by the midpoint rule over margins.
struct True {
    answered: f64,
    errors: f64,
    /// Of class 1, answered 0.
    misses: f64,
}

impl True {
    fn of(curve: Curve, threshold: Threshold) -> Self {
        const STEPS: u32 = 2000;
        let mut truth = Self {
            answered: 0.0,
            errors: 0.0,
            misses: 0.0,
        };
        for step in 0..2 * STEPS {
            let margin = 4.0 * ((f64::from(step) + 0.5) / f64::from(STEPS) - 1.0);
            let wrong = (curve.error)(1.0 - margin.abs() / 4.0);
            let positive = if margin > 0.0 { 1.0 - wrong } else { wrong };
            let weight = 0.5 / f64::from(STEPS);
            match threshold.answer(margin, usize::from(margin > 0.0)) {
                None => continue,
                Some(1) => truth.errors += weight * (1.0 - positive),
                Some(_) => {
                    truth.errors += weight * positive;
                    truth.misses += weight * positive;
                }
            }
            truth.answered += weight;
        }
        truth
    }
}

/// The closed form against its exact violation rate: uniform scores, so that the true rate at t is 1 − t.
fn false_positives(size: u64, exact: f64, repetitions: u64) -> Finding {
    let violated = |repetition: &u64| {
        let scores: Vec<f64> = (0..size).map(|i| uniform(*repetition, i)).collect();
        let Closed::Found { at_least, .. } =
            false_positive_threshold(&scores, ALPHA, DELTA).unwrap()
        else {
            panic!("{size} negatives are enough")
        };
        1.0 - at_least > ALPHA
    };
    let violations = repeat(repetitions, |repetition| violated(&repetition))
        .into_iter()
        .filter(|v| *v)
        .count();
    let rate = violations as f64 / repetitions as f64;
    let error = (exact * (1.0 - exact) / repetitions as f64).sqrt();
    Finding {
        ok: (rate - exact).abs() <= 4.0 * error,
        detail: format!(
            "violations {violations}/{repetitions} = {rate:.4} (exact {exact}, four standard errors {:.4})",
            4.0 * error
        ),
    }
}
