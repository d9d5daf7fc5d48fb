//! Several sessions of a model under one promise: one threshold, certified for all of them together.

use super::curves::{A, Curve, D, outcome};
use super::{ALPHA, Cell, DELTA, Finding, mean, repeat, uniform, validity};
use stage1_calibration::certify::{Certification, certify_jointly};
use stage1_calibration::plan::{Target, plan};
use stage1_calibration::rows::{CalibRows, SelectRows};
use stage1_core::logits::LogitSet;

const ROWS: u64 = 1000;

pub(super) fn cells() -> Vec<Cell> {
    [A, D]
        .into_iter()
        .map(|curve| {
            Cell::new(format!("{}1000-joint", curve.name), move |n| {
                jointly(curve, n)
            })
        })
        .collect()
}

/// Two sessions that score alike and err at the same rates, half of the time on the same rows.
fn sessions(curve: Curve, stream: u64) -> [LogitSet; 2] {
    let mut sets = [(); 2].map(|()| LogitSet {
        classes: 3,
        ..LogitSet::default()
    });
    for i in 0..ROWS {
        let at = |index: u64| uniform(stream, i << 3 | index);
        let s = at(0);
        let error = (curve.error)(1.0 - s);
        let label = i as usize % 3;
        let same = at(1) < error;
        let wrong = [same, if at(2) < 0.5 { same } else { at(3) < error }];
        for (set, wrong) in sets.iter_mut().zip(wrong) {
            let mut logits = [0.0; 3];
            logits[if wrong { (label + 1) % 3 } else { label }] = 4.0 * s as f32;
            set.logits.extend(logits);
            set.labels.push(label as i64);
        }
    }
    sets
}

fn jointly(curve: Curve, repetitions: u64) -> Finding {
    let outcomes = repeat(repetitions, |repetition| {
        let [select, _] = sessions(curve, 2 * repetition);
        let select = SelectRows::new(&select, 0).unwrap();
        let plan = plan(&select, ROWS, &Target::new(ALPHA, DELTA), None).unwrap();
        let calib =
            sessions(curve, 2 * repetition + 1).map(|set| CalibRows::new(&set, plan.seed).unwrap());
        let threshold = match certify_jointly(&plan, &[&calib[0], &calib[1]]).unwrap() {
            Certification::Certified(certified) => Some(certified.threshold),
            Certification::NotCertified(_) => None,
        };
        outcome(curve, &plan.score, threshold)
    });
    let violations = outcomes.iter().filter(|outcome| outcome.violated).count() as u64;
    let coverage = mean(outcomes.iter().map(|outcome| outcome.coverage)).0;
    validity(violations, repetitions, None).and(true, &format!("coverage {coverage:.4}"))
}
