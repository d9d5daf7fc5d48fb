//! Prediction sets against a NumPy reference, MAPIE and crepes.

use crate::golden::{Node, all_close, check_files, close, is_json_named};
use stage1_calibration::conformal::{Quantile, SetScore, p_value};

/// Rows of probabilities, labels, and the draws that break ties.
struct Rows {
    probabilities: Vec<Vec<f64>>,
    labels: Vec<usize>,
    draws: Vec<f64>,
}

/// Scores of all labels, by row.
type Scores = Vec<Vec<f64>>;

#[test]
fn sets_are_those_of_the_references() {
    check_files(
        "conformal sets",
        |path| is_json_named(path, "conformal_sets"),
        &[],
        check,
    );
}

fn check(file: &Node<'_>) {
    assert_eq!(file.get("tolerance").str("sizes"), "exact");
    let inputs = file.get("inputs");
    let (calib, test) = (rows(&inputs, "calib"), rows(&inputs, "test"));
    for (key, expected) in file.get("expected").members() {
        if key == "p_values_unsmoothed_first10" {
            p_values(
                &calib,
                &test,
                &file.get("expected"),
                file.get("tolerance").f64("p_abs"),
            );
        } else {
            let alpha = key.parse().unwrap();
            let qhat_abs = file.get("tolerance").f64("qhat_abs");
            at_level(alpha, qhat_abs, &expected, &calib, &test);
        }
    }
}

fn rows(inputs: &Node<'_>, split: &str) -> Rows {
    let (logits, classes) = inputs.matrix(&format!("logits_{split}"));
    Rows {
        probabilities: logits.chunks(classes).map(rounded_softmax).collect(),
        labels: inputs.counts(&format!("y_{split}")),
        draws: inputs.floats(&format!("u_{split}")),
    }
}

/// The golden probabilities: a softmax rounded to six digits, then scaled to add up to one.
fn rounded_softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = row.iter().map(|z| (z - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    let rounded: Vec<f64> = exp
        .iter()
        .map(|e| (e / sum * 1e6).round_ties_even() / 1e6)
        .collect();
    let sum: f64 = rounded.iter().sum();
    rounded.iter().map(|p| p / sum).collect()
}

fn at_level(alpha: f64, qhat_abs: f64, expected: &Node<'_>, calib: &Rows, test: &Rows) {
    let mut ours = std::collections::BTreeMap::new();
    for (name, want) in expected.members() {
        let Some((score, randomised)) = method(name) else {
            continue;
        };
        let (calib_scores, test_scores) = (
            scores(score, randomised, calib),
            scores(score, randomised, test),
        );
        let sets = if name.starts_with("mondrian") {
            let quantiles = of_classes(&calib_scores, calib, alpha);
            let infinite = |q: &Quantile| q.value.unwrap_or(f64::INFINITY);
            let values: Vec<f64> = quantiles.iter().map(infinite).collect();
            all_close(&values, &want.floats("qhat"), qhat_abs, name);
            let n: Vec<usize> = quantiles.iter().map(|q| q.n as usize).collect();
            assert_eq!(n, want.counts("n_per_class"), "{name}");
            sets(&test_scores, |label| quantiles[label])
        } else {
            let quantile = Quantile::of(&of_labels(&calib_scores, calib), alpha).unwrap();
            close(
                quantile.value.unwrap_or(f64::INFINITY),
                want.f64("qhat"),
                0.0,
                qhat_abs,
                name,
            );
            sets(&test_scores, |_| quantile)
        };
        let sizes: Vec<usize> = sets.iter().map(Vec::len).collect();
        assert_eq!(sizes, want.counts("sizes"), "{name} at {alpha}");
        described(name, &want, &sets, test);
        ours.insert(name, sets);
    }
    for (other, name) in [
        ("mapie_lac", "lac"),
        ("crepes_lac", "lac"),
        ("mapie_aps", "aps_nonrand"),
    ] {
        if let Some(theirs) = expected.find(other) {
            agreement(&theirs, &ours[name], test, other);
        }
    }
}

/// `lac`, `aps_rand`, `raps_nonrand_lam.05_k2`, … ; none for another package's sets.
fn method(name: &str) -> Option<(SetScore, bool)> {
    let mut words = name.split('_');
    let first = words.next()?;
    let randomised = name.contains("_rand");
    match first {
        "lac" | "mondrian" => Some((SetScore::Lac, false)),
        "aps" => Some((SetScore::Aps, randomised)),
        "raps" => {
            let number = |prefix| {
                words
                    .clone()
                    .find_map(|word| word.strip_prefix(prefix))
                    .unwrap()
            };
            let lambda = format!("0{}", number("lam").trim_start_matches('0'));
            let score = SetScore::Raps {
                lambda: lambda.parse().unwrap(),
                free_ranks: number("k").parse().unwrap(),
            };
            Some((score, randomised))
        }
        "mapie" | "crepes" => None,
        _ => panic!("unknown sets {name}"),
    }
}

/// The reference takes U·p off the sum that includes p: ours adds (1 − U)·p to the sum before.
fn scores(score: SetScore, randomised: bool, rows: &Rows) -> Scores {
    let of_row = |(p, u): (&Vec<f64>, &f64)| {
        let mut out = Vec::new();
        score.scores(p, if randomised { 1.0 - u } else { 1.0 }, &mut out);
        out
    };
    rows.probabilities
        .iter()
        .zip(&rows.draws)
        .map(of_row)
        .collect()
}

fn of_labels(scores: &Scores, rows: &Rows) -> Vec<f64> {
    scores
        .iter()
        .zip(&rows.labels)
        .map(|(row, label)| row[*label])
        .collect()
}

fn of_classes(scores: &Scores, rows: &Rows, alpha: f64) -> Vec<Quantile> {
    let of_class = |class: usize| -> Vec<f64> {
        let own = scores
            .iter()
            .zip(&rows.labels)
            .filter(|(_, label)| **label == class);
        own.map(|(row, _)| row[class]).collect()
    };
    (0..scores[0].len())
        .map(|class| Quantile::of(&of_class(class), alpha).unwrap())
        .collect()
}

fn sets(scores: &Scores, quantile: impl Fn(usize) -> Quantile) -> Vec<Vec<usize>> {
    let set = |row: &Vec<f64>| {
        (0..row.len())
            .filter(|k| quantile(*k).admits(row[*k]))
            .collect()
    };
    scores.iter().map(set).collect()
}

fn described(name: &str, want: &Node<'_>, sets: &[Vec<usize>], test: &Rows) {
    let n = sets.len() as f64;
    close(coverage(sets, test), want.f64("coverage"), 0.0, 1e-12, name);
    if want.find("mean_size").is_some() {
        let mean = sets.iter().map(Vec::len).sum::<usize>() as f64 / n;
        close(mean, want.f64("mean_size"), 0.0, 1e-12, name);
    }
    if want.find("empty").is_some() {
        let empty = sets.iter().filter(|set| set.is_empty()).count();
        assert_eq!(empty as u64, want.u64("empty"), "{name}");
    }
}

/// The share of rows whose set is as large as that of another package: what the reference found, too. Such sets are the
/// same, because all take the most probable labels; so that coverages differ by no more than the other rows.
fn agreement(theirs: &Node<'_>, ours: &[Vec<usize>], test: &Rows, name: &str) {
    let sizes = theirs.counts("sizes");
    assert_eq!(sizes.len(), ours.len(), "{name}");
    let equal = ours
        .iter()
        .zip(&sizes)
        .filter(|(set, size)| set.len() == **size)
        .count();
    let share = equal as f64 / ours.len() as f64;
    close(share, theirs.f64("agree_with_ref"), 0.0, 1e-12, name);
    if theirs.find("coverage").is_some() {
        close(
            coverage(ours, test),
            theirs.f64("coverage"),
            0.0,
            1.0 - share + 1e-12,
            name,
        );
    }
}

fn coverage(sets: &[Vec<usize>], test: &Rows) -> f64 {
    let covered = sets
        .iter()
        .zip(&test.labels)
        .filter(|(set, label)| set.contains(label));
    covered.count() as f64 / sets.len() as f64
}

/// Of the first ten test rows, for all labels.
fn p_values(calib: &Rows, test: &Rows, expected: &Node<'_>, abs: f64) {
    let mut ascending = of_labels(&scores(SetScore::Lac, false, calib), calib);
    ascending.sort_unstable_by(f64::total_cmp);
    let (want, classes) = expected.matrix("p_values_unsmoothed_first10");
    let scores = scores(SetScore::Lac, false, test);
    let got: Vec<f64> = scores[..want.len() / classes].concat();
    let got: Vec<f64> = got
        .iter()
        .map(|score| p_value(&ascending, *score, 1.0))
        .collect();
    all_close(&got, &want, abs, "p-values");
}
