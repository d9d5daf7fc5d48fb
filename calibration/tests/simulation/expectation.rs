//! `guarantee: expectation`: the promise is a mean over calibrations, so that the mean of true rates is compared with α.

use super::curves::{A, Curve, D, rows, true_coverage};
use super::rivals::falling;
use super::{ALPHA, Cell, Finding, groups, mean, repeat};
use stage1_calibration::crc::answers::{AnswersFit, AnswersTarget, control_answers, plan_answers};
use stage1_calibration::rows::{CalibRows, SelectRows, shape};
use stage1_core::certificate::ExpectationPlan;
use stage1_core::config::ScoreChoice;
use stage1_core::logits::LogitSet;
use stage1_core::policy::Threshold;

/// Nothing that is answered is wrong seldom enough.
const F: Curve = Curve {
    name: "F",
    risk: |_| 0.07,
    error: |_| 0.07,
};

/// Rows of val_select.
const SELECT: u64 = 1000;
/// A normal variable is above it once in 10,000 times.
const SELDOM: f64 = 3.719;

pub(super) fn cells() -> Vec<Cell> {
    let independent = |size, curve| {
        move |stream: u64| {
            let is_select = stream.is_multiple_of(2);
            rows(if is_select { SELECT } else { size }, stream, curve)
        }
    };
    let mut cells = Vec::new();
    for (curve, size) in [(A, 200), (A, 1000), (D, 1000), (F, 200)] {
        let draw = independent(size, curve);
        cells.push(Cell::new(
            format!("expectation-{}{size}", curve.name),
            move |n| at_most(&risks(curve, draw, laxest_controlled, n)),
        ));
    }
    let clustered = |stream| groups::of_ten(A, 0.5, stream);
    cells.push(Cell::new("expectation-groups", move |n| {
        at_most(&risks(A, clustered, laxest_controlled, n))
    }));
    cells.push(Cell::new("control-expectation-as-observed", move |n| {
        above(&risks(F, independent(200, F), laxest_as_observed, n))
    }));
    cells
}

/// The smallest score that is answered and the smallest that is selected, if there is a policy.
type Method = fn(&ExpectationPlan, &LogitSet) -> Option<(f64, f64)>;

/// The true rate of wrong answers among selected images in each calibration; no policy makes no errors. Even streams are
/// val_select, odd ones val_calib.
fn risks(
    curve: Curve,
    draw: impl Fn(u64) -> LogitSet + Send + Sync,
    method: Method,
    repetitions: u64,
) -> Vec<f64> {
    let target = AnswersTarget {
        alpha: ALPHA,
        attempt: 1,
        score: ScoreChoice::Auto,
    };
    repeat(repetitions, |repetition| {
        let (select, calib) = (draw(2 * repetition), draw(2 * repetition + 1));
        let select = SelectRows::new(&select, 0).unwrap();
        let plan = plan_answers(&select, shape(&calib), &target, None).unwrap();
        method(&plan, &calib).map_or(0.0, |(at_least, selected_from)| {
            let answered = true_coverage(&plan.score, at_least);
            answered * (curve.risk)(answered) / true_coverage(&plan.score, selected_from)
        })
    })
}

fn laxest_controlled(plan: &ExpectationPlan, calib: &LogitSet) -> Option<(f64, f64)> {
    let calib = CalibRows::new(calib, plan.seed).unwrap();
    match control_answers(plan, &calib, None).unwrap() {
        AnswersFit::NotControlled(_) => None,
        AnswersFit::Controlled(got) => match got.threshold {
            Threshold::OneSided { at_least } => Some((at_least, plan.selected_from())),
            other => panic!("{other:?}"),
        },
    }
}

/// Selected and answered is what lies above the laxest threshold whose observed rate is at most α: val_calib chooses the
/// selection too, and nothing is added for the image that is to come.
fn laxest_as_observed(plan: &ExpectationPlan, calib: &LogitSet) -> Option<(f64, f64)> {
    let rows = falling(&plan.score, calib);
    let is_fine = |at_least: &f64| {
        let answered = &rows[..rows.partition_point(|row| row.0 >= *at_least)];
        let errors = answered.iter().filter(|row| row.1).count();
        errors as f64 <= ALPHA * answered.len() as f64
    };
    let mut lax_to_strict = plan.candidates.iter().rev().map(|one| one.at_least);
    let at_least = lax_to_strict.find(is_fine)?;
    Some((at_least, at_least))
}

fn at_most(risks: &[f64]) -> Finding {
    let (mean, error) = mean(risks.iter().copied());
    let share = |is: fn(f64) -> bool| {
        risks.iter().filter(|risk| is(**risk)).count() as f64 / risks.len() as f64
    };
    Finding {
        ok: mean - ALPHA <= SELDOM * error,
        detail: format!(
            "mean risk {mean:.4} ± {error:.4} (at most {ALPHA}); above it {:.2} of calibrations, without a policy {:.2}",
            share(|risk| risk > ALPHA),
            share(|risk| risk == 0.0),
        ),
    }
}

/// A control, which must be flagged.
fn above(risks: &[f64]) -> Finding {
    let found = at_most(risks);
    Finding {
        ok: !found.ok,
        detail: format!("flagged as it should be: {}", found.detail),
    }
}
