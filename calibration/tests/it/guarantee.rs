//! The guarantee by simulation, reduced: plan on one sample, certify on another, and compare the certified threshold's
//! *true* risk with the target. A cell fails when its violations are as many as chance gives once in 10,000 times.

use rayon::prelude::*;
use stage1_calibration::binomial::survival;
use stage1_calibration::certify::{Certification, certify};
use stage1_calibration::plan::{Target, plan};
use stage1_calibration::rows::{CalibRows, SelectRows};
use stage1_core::certificate::Plan;
use stage1_core::logits::LogitSet;
use stage1_core::policy::{Score, Threshold};

const ALPHA: f64 = 0.05;
const DELTA: f64 = 0.1;
const REPETITIONS: u64 = 400;
const CHANCE: f64 = 1e-4;

/// A population: the risk R(c) when the surest share c is answered.
struct Cell {
    name: &'static str,
    risk: fn(f64) -> f64,
    /// d/du u·R(u): the error rate of the row at rank u.
    error: fn(f64) -> f64,
    /// Mean true certified coverage that the binding page gives for n = 200 and n = 1000, with the standard deviation
    /// of one calibration; only where coverage is worth having.
    coverage: [Option<(f64, f64)>; 2],
}

/// The page's standard errors are those of 2,000 calibrations.
const fn table(mean: f64, standard_error: f64) -> Option<(f64, f64)> {
    Some((mean, standard_error * 44.721))
}

const CELLS: [Cell; 4] = [
    Cell {
        name: "A",
        risk: |c| 0.125 * c.powi(3),
        error: |u| 0.5 * u.powi(3),
        coverage: [table(0.3687, 0.0064), table(0.6648, 0.0011)],
    },
    Cell {
        name: "B",
        risk: |c| 0.02 + 0.1 * c * c,
        error: |u| 0.02 + 0.3 * u * u,
        coverage: [table(0.0561, 0.0034), table(0.2515, 0.0049)],
    },
    Cell {
        name: "D",
        risk: |_| 0.0501,
        error: |_| 0.0501,
        coverage: [None, None],
    },
    Cell {
        name: "E",
        risk: |c| 0.01 + 0.02 * c,
        error: |u| 0.01 + 0.04 * u,
        coverage: [table(0.4677, 0.0106), table(0.9810, 0.0028)],
    },
];

/// True coverage of a certified threshold (0 if none), and whether its true risk is above the target.
type Outcome = (f64, bool);

#[test]
fn certified_thresholds_keep_the_risk_as_often_as_they_say() {
    for (size, n) in [200, 1000].into_iter().enumerate() {
        for cell in &CELLS {
            let outcomes = repeat(|repetition| one_sided(cell, n, repetition, certified));
            let violations = outcomes.iter().filter(|(_, violated)| *violated).count() as u64;
            assert!(
                !flagged(violations),
                "cell {} n {n}: {violations} violations of {REPETITIONS}",
                cell.name
            );
            let Some((mean, deviation)) = cell.coverage[size] else {
                continue;
            };
            let got =
                outcomes.iter().map(|(coverage, _)| coverage).sum::<f64>() / REPETITIONS as f64;
            // The table's own error is that of 20,000 repetitions.
            let error = deviation * (1.0 / REPETITIONS as f64 + 1.0 / 20_000.0).sqrt();
            assert!(
                got >= mean - 3.0 * error,
                "cell {} n {n}: mean coverage {got}, the page says {mean}",
                cell.name
            );
        }
    }
}

#[test]
fn two_sided_thresholds_keep_it_too() {
    for n in [200, 1000] {
        for cell in &CELLS {
            let violations = repeat(|repetition| two_sided(cell, n, repetition))
                .into_iter()
                .filter(|violated| *violated);
            let violations = violations.count() as u64;
            assert!(
                !flagged(violations),
                "cell {} n {n}: {violations} violations of {REPETITIONS}",
                cell.name
            );
        }
    }
}

/// The harness sees what it is there to see: the laxest threshold whose *observed* rate is at most α violates.
#[test]
fn choosing_by_the_observed_rate_is_flagged() {
    let outcomes = repeat(|repetition| one_sided(&CELLS[0], 1000, repetition, by_observed_rate));
    let violations = outcomes.iter().filter(|(_, violated)| *violated).count() as u64;
    assert!(
        flagged(violations),
        "{violations} violations of {REPETITIONS}"
    );
}

fn flagged(violations: u64) -> bool {
    survival(violations, REPETITIONS, DELTA) <= CHANCE
}

fn repeat<T: Send>(run: impl Fn(u64) -> T + Send + Sync) -> Vec<T> {
    (0..REPETITIONS).into_par_iter().map(run).collect()
}

fn one_sided(
    cell: &Cell,
    n: u64,
    repetition: u64,
    choose: fn(&Plan, &LogitSet) -> Option<Threshold>,
) -> Outcome {
    let select = SelectRows::new(&one_sided_rows(cell, n, 2 * repetition), 0).unwrap();
    let calib = one_sided_rows(cell, n, 2 * repetition + 1);
    let plan = plan(&select, n, &Target::new(ALPHA, DELTA), None).unwrap();
    let Some(Threshold::OneSided { at_least }) = choose(&plan, &calib) else {
        return (0.0, false);
    };
    let coverage = true_coverage(plan.score, at_least);
    (coverage, coverage > 0.0 && (cell.risk)(coverage) > ALPHA)
}

fn certified(plan: &Plan, calib: &LogitSet) -> Option<Threshold> {
    match certify(plan, &CalibRows::new(calib, plan.seed).unwrap()).unwrap() {
        Certification::Certified(certified) => Some(certified.threshold),
        Certification::NotCertified(_) => None,
    }
}

fn by_observed_rate(plan: &Plan, calib: &LogitSet) -> Option<Threshold> {
    let below = |threshold: &Threshold| {
        let Threshold::OneSided { at_least } = *threshold else {
            panic!("{threshold:?}")
        };
        let answered = (0..calib.n()).filter(|i| plan.score.value(calib.row(*i)) >= at_least);
        let (n, k) = answered.fold((0, 0), |(n, k), i| (n + 1, k + calib.labels[i]));
        k as f64 <= ALPHA * f64::from(n)
    };
    plan.candidates
        .iter()
        .rev()
        .map(|candidate| candidate.threshold)
        .find(below)
}

/// Three classes with logits (4·s, 0, 0) for s uniform in [0, 1]: rank u = 1 − s, label 0 if right.
fn one_sided_rows(cell: &Cell, n: u64, stream: u64) -> LogitSet {
    let mut set = LogitSet {
        classes: 3,
        ..LogitSet::default()
    };
    for i in 0..n {
        let s = uniform(stream, 2 * i);
        let wrong = uniform(stream, 2 * i + 1) < (cell.error)(1.0 - s);
        set.logits.extend([4.0 * s as f32, 0.0, 0.0]);
        set.labels.push(i64::from(wrong));
        set.ids.push(i.to_string());
    }
    set
}

/// P(score ≥ `at_least`): inverts 1 / (1 + 2·exp(−4s/T)).
fn true_coverage(score: Score, at_least: f64) -> f64 {
    let Score::MaxProbability { temperature } = score else {
        panic!("{score:?}")
    };
    let s = temperature * (2.0 * at_least / (1.0 - at_least)).ln() / 4.0;
    (1.0 - s).clamp(0.0, 1.0)
}

fn two_sided(cell: &Cell, n: u64, repetition: u64) -> bool {
    let select = SelectRows::new(&two_sided_rows(cell, n, 2 * repetition), 0).unwrap();
    let calib = two_sided_rows(cell, n, 2 * repetition + 1);
    let plan = plan(&select, n, &Target::new(ALPHA, DELTA), None).unwrap();
    match certified(&plan, &calib) {
        Some(Threshold::TwoSided { low, high }) => {
            true_two_sided_risk(cell, low, high).is_some_and(|risk| risk > ALPHA)
        }
        Some(other) => panic!("{other:?}"),
        None => false,
    }
}

/// Two classes with margins ±4·s, either sign equally likely; the sign is the right class unless the row is wrong.
fn two_sided_rows(cell: &Cell, n: u64, stream: u64) -> LogitSet {
    let mut set = LogitSet {
        classes: 2,
        ..LogitSet::default()
    };
    for i in 0..n {
        let s = uniform(stream, 3 * i);
        let wrong = uniform(stream, 3 * i + 1) < (cell.error)(1.0 - s);
        let one = uniform(stream, 3 * i + 2) < 0.5;
        set.logits
            .extend([0.0, if one { 4.0 } else { -4.0 } * s as f32]);
        set.labels.push(i64::from(one ^ wrong));
        set.ids.push(i.to_string());
    }
    set
}

/// By the midpoint rule over margins; a side that lies beyond 0 answers against the sign there. None if nothing is
/// answered.
fn true_two_sided_risk(cell: &Cell, low: f64, high: f64) -> Option<f64> {
    const STEPS: u32 = 2000;
    let (mut answered, mut errors) = (0.0, 0.0);
    for step in 0..2 * STEPS {
        let margin = 4.0 * ((f64::from(step) + 0.5) / f64::from(STEPS) - 1.0);
        let error = (cell.error)(1.0 - margin.abs() / 4.0);
        let answer = if margin >= high {
            1.0
        } else if margin <= low {
            -1.0
        } else {
            continue;
        };
        answered += 1.0;
        errors += if answer * margin > 0.0 {
            error
        } else {
            1.0 - error
        };
    }
    (answered > 0.0).then(|| errors / answered)
}

/// Counter-based: SplitMix64's finaliser over (stream, index).
fn uniform(stream: u64, index: u64) -> f64 {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let bits = mix(mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15))
        ^ mix(index.wrapping_add(0xd1b5_4a32_d192_ed03)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
