//! Conformal risk control and RCPS against the reference code of RCPS, and what an expectation is worth.

use crate::golden::{Node, check_files, is_json_named};
use stage1_calibration::binomial::survival;
use stage1_calibration::bounds::hoeffding_bentkus_ln_parts;
use stage1_calibration::crc::{
    GridLosses, LossFamily, PValue, ScrcFit, Selection, allowed_errors, crc, excess_probability,
    rcps, scrc,
};
use stage1_calibration::rows::{CalibRows, SelectRows};
use stage1_core::logits::LogitSet;
use stage1_core::policy::{Score, argmax};
use std::collections::BTreeMap;

#[test]
fn thresholds_are_those_of_the_references() {
    check_files(
        "conformal risk control",
        |path| is_json_named(path, "crc_rcps"),
        &[],
        |file| {
            assert_eq!(file.str("tolerance"), "grid exact");
            let grid = grid(file.str("grid"));
            let mut known: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
            for case in file.list("cases") {
                let n = case.u64("n");
                let scores = case.numbers("scores").unwrap_or_else(|| {
                    assert!(case.str("scores").starts_with("same as"));
                    known[&n].clone()
                });
                assert_eq!(scores.len() as u64, n);
                known.insert(n, scores.clone());
                check(&case, &grid, &scores);
            }
        },
    );
}

/// `round(linspace(0,1,201),4); loss=1{score<lambda}; CRC: n/(n+1)*rhat+1/(n+1)<=alpha; choose max lambda`.
fn grid(convention: &str) -> Vec<f64> {
    let (numbers, rest) = convention
        .strip_prefix("round(linspace(")
        .unwrap()
        .split_once("),")
        .unwrap();
    let (digits, rest) = rest.split_once(')').unwrap();
    assert!(
        rest.contains("loss=1{score<lambda}") && rest.contains("max lambda"),
        "{rest}"
    );
    let numbers: Vec<f64> = numbers.split(',').map(|x| x.parse().unwrap()).collect();
    let (from, to, count) = (numbers[0], numbers[1], numbers[2] as u32);
    let scale = 10_f64.powi(digits.parse().unwrap());
    let at = |i| from + (to - from) * f64::from(i) / f64::from(count - 1);
    (0..count)
        .map(|i| (at(i) * scale).round_ties_even() / scale)
        .collect()
}

fn check(case: &Node<'_>, grid: &[f64], scores: &[f64]) {
    let alpha = case.f64("alpha");
    let losses = GridLosses::below(scores, grid).unwrap();
    let name = format!("n {} alpha {alpha}", scores.len());
    let is = |got: Option<usize>, key: &str| {
        let got = got.map(|at| grid[at].to_bits());
        assert_eq!(got, case.optional(key).map(f64::to_bits), "{name}: {key}");
    };
    is(crc(&losses, alpha).unwrap(), "lambda_crc");
    for (key, _) in case.members() {
        if let Some(delta) = key.strip_prefix("lambda_rcps_cp_delta") {
            is(
                rcps(&losses, alpha, level(delta), PValue::Binomial).unwrap(),
                key,
            );
        } else if let Some(delta) = key.strip_prefix("lambda_rcps_hb_delta") {
            hoeffding_bentkus(&losses, alpha, level(delta), |got| is(got, key));
        }
    }
}

/// `0_1` is .1.
fn level(text: &str) -> f64 {
    text.replace('_', ".").parse().unwrap()
}

/// The code behind these takes Bentkus's part alone (its Hoeffding part is 1 throughout): ours, the better of both, is
/// at least as lax.
fn hoeffding_bentkus(losses: &GridLosses, alpha: f64, delta: f64, is: impl Fn(Option<usize>)) {
    let bentkus =
        |sum: &f64| hoeffding_bentkus_ln_parts(*sum, losses.n(), alpha).bentkus <= delta.ln();
    let passed = losses.sums().iter().take_while(|sum| bentkus(sum)).count();
    is(passed.checked_sub(1));
    let ours = rcps(losses, alpha, delta, PValue::HoeffdingBentkus).unwrap();
    assert!(ours >= passed.checked_sub(1), "{ours:?} {passed}");
}

const REPETITIONS: u64 = 2000;
const ALPHA: f64 = 0.05;

/// Scores are uniform, and those below the threshold are lost: the true rate is the threshold.
/// On average it is (k + 1)/(n + 1) ≤ α, exactly; but it exceeds α in nearly every second calibration, which is why the
/// guarantee is called an expectation.
#[test]
fn the_risk_is_kept_on_average_and_exceeded_in_every_second_calibration() {
    for (n, published) in [(200, 0.455), (1000, 0.480)] {
        let rates: Vec<f64> = (0..REPETITIONS).map(|r| controlled_rate(n, r)).collect();
        let mean = rates.iter().sum::<f64>() / REPETITIONS as f64;
        let k = allowed_errors(n, ALPHA).unwrap();
        let want = (k + 1) as f64 / (n + 1) as f64;
        assert!(want <= ALPHA);
        // The rate is a draw from Beta(k + 1, n − k).
        let error = (want * (1.0 - want) / (n + 2) as f64 / REPETITIONS as f64).sqrt();
        assert!((mean - want).abs() < 4.0 * error, "n {n}: {mean}, {want}");

        let exact = excess_probability(n, ALPHA);
        assert!((exact - published).abs() < 5e-4, "n {n}: {exact}");
        let exceeding =
            rates.iter().filter(|rate| **rate > ALPHA).count() as f64 / REPETITIONS as f64;
        let error = (exact * (1.0 - exact) / REPETITIONS as f64).sqrt();
        assert!(
            (exceeding - exact).abs() < 4.0 * error,
            "n {n}: {exceeding}, {exact}"
        );
        let as_pac = survival((exceeding * REPETITIONS as f64) as u64, REPETITIONS, 0.1);
        assert!(
            as_pac < 1e-4,
            "flagged as a guarantee with confidence 90 %: {as_pac}"
        );
    }
}

fn controlled_rate(n: u64, repetition: u64) -> f64 {
    let mut scores: Vec<f64> = (0..n).map(|i| uniform(repetition, i)).collect();
    scores.sort_unstable_by(f64::total_cmp);
    let losses = GridLosses::below(&scores, &scores).unwrap();
    scores[crc(&losses, ALPHA).unwrap().unwrap()]
}

/// Selective risk control: given the selection the expected loss is at most α, for calibrations of any size.
#[test]
fn selected_rows_keep_the_risk_on_average() {
    let score = Score::MaxProbability { temperature: 1.0 };
    let select = SelectRows::new(&rows(500, 1 << 40), 1).unwrap();
    let selection = Selection::at_share(&select, score, 0.6).unwrap();
    let share = |parameter: f64| (1.0 + parameter).clamp(0.0, 1.0);
    // A loss in [0, 1] that rises with the parameter wherever the model is wrong: partly, so that it is fractional.
    let loss = |logits: &[f32], label: usize, parameter: f64| {
        let wrong = f64::from(u8::from(argmax(logits) != label));
        (0.25 + 0.75 * wrong) * share(parameter)
    };
    let grid: Vec<f64> = (0..=100).map(|i| -1.0 + f64::from(i) / 100.0).collect();
    let family = LossFamily {
        grid: &grid,
        bound: 1.0,
        loss: &loss,
    };
    let truth = rows(40_000, 1 << 41);
    let mean_loss = mean_selected_loss(&truth, &selection);
    let repetitions = 400;
    let risks: Vec<f64> = (0..repetitions)
        .map(|r| {
            let calib = CalibRows::new(&rows(60, r), 1).unwrap();
            match scrc(&selection, &family, &calib, 0.2).unwrap() {
                ScrcFit::Controlled(got) => {
                    assert!(got.bound <= 0.2);
                    mean_loss * share(got.parameter)
                }
                ScrcFit::NotControlled(refusal) => panic!("{refusal:?}"),
            }
        })
        .collect();
    let mean = risks.iter().sum::<f64>() / risks.len() as f64;
    let variance = risks.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / risks.len() as f64;
    assert!(
        mean <= 0.2 + 3.0 * (variance / risks.len() as f64).sqrt(),
        "{mean}"
    );
    assert!(mean > 0.15, "{mean}: that is no use of the risk allowed");
}

/// At parameter 0.
fn mean_selected_loss(set: &LogitSet, selection: &Selection) -> f64 {
    let selected: Vec<usize> = (0..set.n())
        .filter(|i| selection.takes(set.row(*i)))
        .collect();
    let wrong = selected
        .iter()
        .filter(|i| argmax(set.row(**i)) as i64 != set.labels[**i])
        .count();
    0.25 + 0.75 * wrong as f64 / selected.len() as f64
}

/// Logits (4·s, 0, 0) for s uniform; wrong with probability (1 − s)/2.
fn rows(n: u64, stream: u64) -> LogitSet {
    let mut set = LogitSet {
        classes: 3,
        ..LogitSet::default()
    };
    for i in 0..n {
        let s = uniform(stream, 2 * i);
        set.logits.extend([4.0 * s as f32, 0.0, 0.0]);
        set.labels
            .push(i64::from(uniform(stream, 2 * i + 1) < (1.0 - s) / 2.0));
        set.ids.push(i.to_string());
    }
    set
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
