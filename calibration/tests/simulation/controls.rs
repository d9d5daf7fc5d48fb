//! Procedures that aren't valid, each in a cell where that shows.

use super::curves::{A, Curve, D, outcome, planned, rows, three_classes};
use super::rivals::falling;
use super::{ALPHA, Cell, DELTA, Finding, control, repeat, uniform};
use stage1_calibration::binomial::cdf;
use stage1_core::certificate::Plan;
use stage1_core::logits::LogitSet;
use stage1_core::policy::{Score, Threshold};

pub(super) fn cells() -> Vec<Cell> {
    let empirical = |errors: u64, answered: u64| errors as f64 <= ALPHA * answered as f64;
    let pointwise = |errors, answered| cdf(errors, answered, ALPHA) <= DELTA;
    vec![
        Cell::new("control-empirical", move |n| laxest(A, 1000, empirical, n)),
        Cell::new("control-pointwise", move |n| laxest(D, 5000, pointwise, n)),
        Cell::new("control-split-wealth", |n| {
            flagged(n, DELTA, split_wealth_rejects)
        }),
        Cell::new("control-isotonic-on-certified-rows", |n| {
            flagged(n, DELTA, isotonic_certifies)
        }),
        Cell::new("control-fixed-reference", |n| {
            flagged(n, JUMPER_LEVEL, fixed_reference_alarms)
        }),
    ]
}

fn flagged(repetitions: u64, level: f64, violates: fn(u64) -> bool) -> Finding {
    let violations = repeat(repetitions, violates)
        .into_iter()
        .filter(|v| *v)
        .count();
    control(violations as u64, repetitions, level)
}

/// The laxest of the plan's thresholds that `passes`, whatever the others do.
fn laxest(
    curve: Curve,
    size: u64,
    passes: impl Fn(u64, u64) -> bool + Send + Sync,
    repetitions: u64,
) -> Finding {
    let violated = |repetition| {
        let (plan, calib) = planned(|stream| rows(size, stream, curve), repetition);
        let threshold = laxest_that(&plan, &calib, &passes);
        outcome(curve, &plan.score, threshold).violated
    };
    let violations = repeat(repetitions, violated)
        .into_iter()
        .filter(|v| *v)
        .count();
    control(violations as u64, repetitions, DELTA)
}

fn laxest_that(
    plan: &Plan,
    calib: &LogitSet,
    passes: &impl Fn(u64, u64) -> bool,
) -> Option<Threshold> {
    let rows = falling(&plan.score, calib);
    let is_fine = |threshold: &Threshold| {
        let Threshold::OneSided { at_least } = *threshold else {
            panic!("{threshold:?}")
        };
        let answered = rows.partition_point(|row| row.0 >= at_least);
        let errors = rows[..answered].iter().filter(|row| row.1).count();
        answered > 0 && passes(errors as u64, answered as u64)
    };
    let lax_to_strict = plan.candidates.iter().rev();
    lax_to_strict
        .map(|candidate| candidate.threshold)
        .find(is_fine)
}

/// MAPIE 1.6.0's bound: the bettor's path is cut in two "to prevent memory issues", and the largest log-wealths of both
/// halves are *added*, where Ville's inequality bounds one maximum of the whole path. Losses are 0/1 with mean .1, n = 200;
/// the bound is below the mean if the sum is at least ln(1/δ).
fn split_wealth_rejects(repetition: u64) -> bool {
    const N: u64 = 200;
    const MEAN: f64 = 0.1;
    let scale = 2.0 * (1.0 / DELTA).ln() / N as f64;
    let (mut count, mut sum, mut squares) = (0.0, 0.5, 0.25);
    let (mut ln_wealth, mut largest) = ([0.0; 2], [f64::NEG_INFINITY; 2]);
    for i in 0..N {
        let half = usize::from(i >= N / 2);
        let loss = f64::from(u8::from(uniform(repetition, i) < MEAN));
        let bet = (scale / (squares / (1.0 + count))).sqrt().min(1.0);
        ln_wealth[half] += (-bet * (loss - MEAN)).ln_1p();
        largest[half] = largest[half].max(ln_wealth[half]);
        count += 1.0;
        sum += loss;
        let mean = sum / (1.0 + count);
        squares += (loss - mean) * (loss - mean);
    }
    largest[0] + largest[1] >= (1.0 / DELTA).ln()
}

/// An isotonic curve is fitted on val_calib, and "answer if it says at least .96" is tested on the same rows. The true
/// rate is .0501 whatever is answered.
fn isotonic_certifies(repetition: u64) -> bool {
    let draw = |i: u64| {
        (
            uniform(repetition, 2 * i),
            uniform(repetition, 2 * i + 1) < 0.0501,
        )
    };
    let set = three_classes((0..1000).map(draw));
    let mut rising = falling(&Score::MaxProbability { temperature: 1.0 }, &set);
    rising.reverse();
    // Pool adjacent violators: (right, rows) of each block, rates rising with the score.
    let mut blocks: Vec<(u64, u64)> = Vec::new();
    for (_, wrong) in rising {
        let mut block = (u64::from(!wrong), 1);
        while let Some(last) = blocks.pop_if(|last| last.0 * block.1 >= block.0 * last.1) {
            block = (block.0 + last.0, block.1 + last.1);
        }
        blocks.push(block);
    }
    let answered = blocks
        .iter()
        .filter(|block| block.0 as f64 >= 0.96 * block.1 as f64);
    let (right, total) = answered.fold((0, 0), |sum, block| (sum.0 + block.0, sum.1 + block.1));
    total > 0 && cdf(total - right, total, ALPHA) <= DELTA
}

const JUMPER_LEVEL: f64 = 0.01;

/// A test martingale (simple jumper, J = .01) on p-values against a reference of 200 scores that never grows: the stream
/// is exchangeable with the reference, and yet the wealth passes 1/level within 20,000 steps far too often.
fn fixed_reference_alarms(repetition: u64) -> bool {
    const REFERENCE: u64 = 200;
    const STEPS: u64 = 20_000;
    const JUMP: f64 = 0.01;
    let mut reference: Vec<f64> = (0..REFERENCE).map(|i| uniform(repetition, i)).collect();
    reference.sort_unstable_by(f64::total_cmp);
    let mut capital = [1.0 / 3.0; 3];
    for step in 0..STEPS {
        let score = uniform(repetition, REFERENCE + 2 * step);
        let above = REFERENCE as usize - reference.partition_point(|other| *other <= score);
        let luck = uniform(repetition, REFERENCE + 2 * step + 1);
        let p = (above as f64 + luck) / (REFERENCE as f64 + 1.0);
        let total: f64 = capital.iter().sum();
        for (wealth, side) in capital.iter_mut().zip([-1.0, 0.0, 1.0]) {
            let jumped = (1.0 - JUMP) * *wealth + JUMP / 3.0 * total;
            *wealth = jumped * (1.0 + side * (p - 0.5));
        }
        if capital.iter().sum::<f64>() >= 1.0 / JUMPER_LEVEL {
            return true;
        }
    }
    false
}
