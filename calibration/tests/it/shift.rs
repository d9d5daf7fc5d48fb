//! Label shift against a NumPy reference.

use crate::golden::{Node, all_close, check_files, is_json_named};
use stage1_calibration::shift::{Confusion, bbse, em};
use stage1_core::policy::{argmax, softmax_into};

#[test]
fn frequencies_are_those_of_the_reference() {
    check_files(
        "label shift",
        |path| is_json_named(path, "label_shift"),
        &[],
        check,
    );
}

fn check(file: &Node<'_>) {
    let (inputs, expected, tolerance) = (
        file.get("inputs"),
        file.get("expected"),
        file.get("tolerance"),
    );
    let labels = inputs.counts("y_source");
    let (source, classes) = inputs.matrix("logits_source");
    let (target, _) = inputs.matrix("logits_target");

    let predicted =
        |logits: &[f64]| -> Vec<usize> { narrow(logits).chunks(classes).map(argmax).collect() };
    let pairs = predicted(&source).into_iter().zip(labels);
    let confusion = Confusion::count(classes, pairs).unwrap();
    all_close(
        &confusion.label_shares(),
        &expected.floats("source_prior"),
        1e-12,
        "source",
    );

    let now = predicted(&target);
    let share =
        |class| now.iter().filter(|label| **label == class).count() as f64 / now.len() as f64;
    let shares: Vec<f64> = (0..classes).map(share).collect();
    let got = bbse(&confusion, &shares).unwrap();
    all_close(
        &got.weights,
        &expected.floats("bbse_weights"),
        tolerance.f64("bbse_abs"),
        "BBSE",
    );

    let probabilities = softmax(&target, classes, inputs.f64("T"));
    let prior = confusion.label_shares();
    let got = em(&probabilities, &prior).unwrap();
    all_close(
        &got.target_shares,
        &expected.floats("em_target_prior"),
        tolerance.f64("em_abs"),
        "EM",
    );
    assert!(got.converged);
    // Where rounds shrink slowly, the last bits decide which of them is the last.
    let rounds = got.iterations.abs_diff(expected.u64("em_iterations"));
    assert!(rounds <= expected.u64("em_iterations") / 100, "{rounds}");

    // EM's frequencies are the most likely ones: no others, the true ones among them, are more likely.
    let likelihood = |shares: &[f64]| ln_likelihood(&probabilities, &prior, shares);
    let best = likelihood(&got.target_shares);
    for other in [expected.floats("true_target_prior"), prior.clone()] {
        assert!(likelihood(&other) <= best + 1e-9, "{other:?}");
    }
}

fn narrow(logits: &[f64]) -> Vec<f32> {
    logits.iter().map(|z| *z as f32).collect()
}

fn softmax(logits: &[f64], classes: usize, temperature: f64) -> Vec<f64> {
    let mut row = Vec::new();
    let of_row = |logits: &[f32]| {
        softmax_into(logits, temperature, &mut row);
        row.clone()
    };
    narrow(logits).chunks(classes).flat_map(of_row).collect()
}

/// Σ ln Σ_k p_k · share_k / prior_k.
fn ln_likelihood(probabilities: &[f64], prior: &[f64], shares: &[f64]) -> f64 {
    let of_row = |row: &[f64]| -> f64 {
        row.iter()
            .zip(prior)
            .zip(shares)
            .map(|((p, prior), share)| p * share / prior)
            .sum()
    };
    probabilities
        .chunks(prior.len())
        .map(|row| of_row(row).ln())
        .sum()
}
