//! `stage1 metrics`.

use crate::{cli::Cli, goldens::Suite};
use serde_json::{Value, json};
use std::{fmt::Write as _, fs, path::Path};

/// Six rows of two classes; the fourth is wrong, and its margin is the smallest.
const SMALL: &str = "\
label,logit,split,group
1,3.0,val_test,a
0,-2.0,val_test,a
0,-4.0,val_test,b
1,-0.5,val_test,b
1,2.0,val_calib,c
0,-1.0,val_calib,d
";

fn metrics(cli: &Cli, more: &[&str]) -> Value {
    let outcome = cli.run([&["metrics", "--json", "--logits"], more].concat());
    assert_eq!(outcome.code, 0, "{outcome}");
    outcome.json()
}

fn close(got: &Value, want: f64, tolerance: f64) {
    let value = got.as_f64().unwrap_or_else(|| panic!("{got} for {want}"));
    assert!((value - want).abs() <= tolerance, "{value} for {want}");
}

#[test]
fn goldens() {
    let is_ours = |path: &Path| {
        path.to_string_lossy().starts_with("metrics")
            && path.extension().is_some_and(|e| e == "json")
    };
    let mut suite = Suite::discover("stage1 metrics", "calibration", is_ours, &[]);
    for path in suite.paths() {
        let file: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for (name, set) in file["sets"].as_object().unwrap() {
            if set["logits"].is_array() {
                check_set(&format!("{}: {name}", path.display()), set);
            }
        }
        suite.mark_used(&path);
    }
    suite.finish();
}

/// The golden probabilities are softmaxes rounded to six digits, with zeros clipped at 2⁻⁵²: their logarithms, as logits,
/// have that softmax again.
fn check_set(name: &str, set: &Value) {
    let rows: Vec<Vec<f64>> = serde_json::from_value(set["logits"].clone()).unwrap();
    let labels: Vec<usize> = serde_json::from_value(set["y"].clone()).unwrap();
    let header: Vec<_> = (0..rows[0].len()).map(|k| format!("logit_{k}")).collect();
    let mut csv = format!("{},label\n", header.join(","));
    for (row, label) in rows.iter().zip(&labels) {
        probabilities(row)
            .iter()
            .for_each(|p| write!(csv, "{},", p.max(f64::EPSILON).ln()).unwrap());
        writeln!(csv, "{label}").unwrap();
    }
    let cli = Cli::new();
    cli.write("digits.csv", csv);
    let got = metrics(&cli, &["digits.csv"]);
    let want = &set["expected"];
    assert_eq!(
        (&got["n"], &got["classes"]),
        (&json!(labels.len()), &json!(rows[0].len())),
        "{name}"
    );
    // Counts: exact. The others: float32 logits down to −36 are exact to 2e-6.
    for (field, key, tolerance) in [
        ("accuracy", "acc", 1e-9),
        ("f1", "f1_macro", 1e-9),
        ("mcc", "mcc", 1e-9),
        ("nll", "nll", 2e-6),
        ("brier", "brier_multi", 2e-6),
    ] {
        close(&got[field], want[key].as_f64().unwrap(), tolerance);
    }
    close(
        &got["ece"],
        want["ece_top_width15"]["ece"].as_f64().unwrap(),
        2e-6,
    );
}

fn probabilities(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<_> = logits.iter().map(|z| (z - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    let rounded: Vec<_> = exp.iter().map(|e| (e / sum * 1e6).round() / 1e6).collect();
    let sum: f64 = rounded.iter().sum();
    rounded.iter().map(|p| p / sum).collect()
}

#[test]
fn one_flat_document_by_short_names() {
    let cli = Cli::new();
    cli.write("small.csv", SMALL);
    let got = metrics(&cli, &["small.csv"]);
    let names: Vec<_> = got
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    for name in [
        "n",
        "classes",
        "accuracy",
        "balanced_accuracy",
        "mcc",
        "f1",
        "auroc",
        "average_precision",
        "nll",
        "brier",
        "ece",
        "aurc",
        "augrc",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert!(
        !names.contains(&"coverage") && !names.contains(&"selective_risk"),
        "{names:?}"
    );
    close(&got["accuracy"], 5.0 / 6.0, 1e-12);
    close(&got["f1"], 4.0 / 5.0, 1e-12);
    close(&got["auroc"], 1.0, 1e-12);
    let text = cli.run(["metrics", "--logits", "small.csv"]);
    assert_eq!(text.code, 0, "{text}");
    assert!(
        text.stdout
            .lines()
            .any(|line| line.starts_with("accuracy ") && line.ends_with(" 0.8333")),
        "{text}"
    );
}

#[test]
fn a_split_can_be_chosen() {
    let cli = Cli::new();
    cli.write("small.csv", SMALL);
    let got = metrics(&cli, &["small.csv", "--split", "val_test"]);
    assert_eq!((&got["n"], &got["split"]), (&json!(4), &json!("val_test")));
    close(&got["accuracy"], 0.75, 1e-12);
    cli.refuses(
        &["metrics", "--logits", "small.csv", "--split", "train"],
        &[
            "small.csv",
            "no such rows; the file holds val_calib (2 rows), val_test (4 rows)",
        ],
    );
}

#[test]
fn a_threshold_or_a_policy_adds_coverage_and_risk() {
    let cli = Cli::new();
    cli.write("small.csv", SMALL);
    // Softmaxes: .953, .881, .982, .622, .881, .731: the wrong row falls below .7.
    let got = metrics(&cli, &["small.csv", "--threshold", "0.7"]);
    close(&got["coverage"], 5.0 / 6.0, 1e-12);
    close(&got["selective_risk"], 0.0, 0.0);
    let digest = "0".repeat(64);
    let policy = json!({
        "schema_version": 1, "kind": "softmax", "classes": 2,
        "score": {"kind": "binary_margin"},
        "threshold": {"kind": "two_sided", "low": -0.5, "high": 2.5},
        "calibrator": {"kind": "none"},
        "plan_digest": digest, "splits_digest": null,
    });
    cli.write("policy.json", policy.to_string());
    // Rows 3, -2, -4, -0.5 and -1 are answered; the margin -0.5 lies on the threshold, and is wrong.
    let got = metrics(&cli, &["small.csv", "--policy", "policy.json"]);
    close(&got["coverage"], 5.0 / 6.0, 1e-12);
    close(&got["selective_risk"], 0.2, 1e-12);

    let refused = [
        (
            &["--threshold", "1.5"][..],
            "--threshold is 1.5, a probability from 0 to 1 is needed",
        ),
        (&["--policy", "none.json"], "none.json: cannot read"),
        (
            &["--threshold", "0.5", "--policy", "policy.json"],
            "cannot be used with",
        ),
    ];
    for (more, want) in refused {
        cli.refuses(
            &[&["metrics", "--logits", "small.csv"], more].concat(),
            &[want],
        );
    }
    cli.write("three.csv", "label,logit_0,logit_1,logit_2\n0,1,2,3\n");
    cli.refuses(
        &[
            "metrics",
            "--logits",
            "three.csv",
            "--policy",
            "policy.json",
        ],
        &["three.csv", "2 classes", "have 3"],
    );
}

#[test]
fn a_bootstrap_gives_intervals_and_goes_by_group() {
    let cli = Cli::new();
    cli.write("small.csv", SMALL);
    let args = ["small.csv", "--bootstrap", "200", "--seed", "7"];
    let got = metrics(&cli, &args);
    let accuracy = &got["accuracy"];
    close(&accuracy["estimate"], 5.0 / 6.0, 1e-12);
    assert!(
        accuracy["low"].as_f64() < accuracy["high"].as_f64(),
        "{accuracy}"
    );
    assert_eq!(metrics(&cli, &args), got);
    assert_ne!(
        metrics(&cli, &["small.csv", "--bootstrap", "200", "--seed", "8"]),
        got
    );
    let told = cli.run(["metrics", "--logits", "small.csv", "--bootstrap", "10"]);
    assert!(told.stderr.contains("resampling whole groups"), "{told}");
}

#[test]
fn a_bare_bootstrap_is_two_thousand_resamples() {
    let cli = Cli::new();
    cli.write("small.csv", SMALL);
    let bare = metrics(&cli, &["small.csv", "--bootstrap"]);
    assert_eq!(bare, metrics(&cli, &["small.csv", "--bootstrap", "2000"]));
    assert_ne!(bare, metrics(&cli, &["small.csv", "--bootstrap", "20"]));
}

#[test]
fn what_only_describes_is_marked_and_has_no_interval() {
    let cli = Cli::new();
    cli.write("small.csv", SMALL);
    let got = metrics(&cli, &["small.csv", "--bootstrap", "100"]);
    let descriptive: Vec<&str> = got["descriptive"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    for name in [
        "ece",
        "ece_equal_mass",
        "ece_classwise",
        "smooth_ece",
        "brier_reliability",
    ] {
        assert!(
            descriptive.contains(&name) && got[name].is_number(),
            "{name}: {got}"
        );
    }
    for name in ["coverage_at_risk_0.05", "risk_at_coverage_0.8"] {
        assert!(
            descriptive.contains(&name) && got[name]["low"].is_number(),
            "{name}: {got}"
        );
    }
    for name in ["accuracy", "nll", "ece_debiased", "e_aurc"] {
        assert!(
            !descriptive.contains(&name) && got[name]["low"].is_number(),
            "{name}: {got}"
        );
    }
    let text = cli.run(["metrics", "--logits", "small.csv"]).stdout;
    let (estimates, described) = text.split_once("\ndescriptive only: ").unwrap();
    assert!(
        estimates.contains("\nece_debiased ") && !estimates.contains("\nece "),
        "{text}"
    );
    assert!(
        described.contains("biased upward for few rows") && described.contains("\nece "),
        "{text}"
    );
    assert!(described.contains("\ncoverage_at_risk_0.05 "), "{text}");
}

#[test]
fn risk_and_coverage_are_read_where_asked() {
    let cli = Cli::new();
    cli.write("small.csv", SMALL);
    // By confidence: four right, then .731 right, then .622 wrong.
    let got = metrics(
        &cli,
        &[
            "small.csv",
            "--at-risk",
            "0.1",
            "--at-risk",
            "0.2",
            "--at-coverage",
            "1",
        ],
    );
    close(&got["coverage_at_risk_0.1"], 5.0 / 6.0, 1e-12);
    close(&got["coverage_at_risk_0.2"], 1.0, 1e-12);
    close(&got["risk_at_coverage_1"], 1.0 / 6.0, 1e-12);
    assert!(got.get("coverage_at_risk_0.05").is_none(), "{got}");
    cli.refuses(
        &["metrics", "--logits", "small.csv", "--at-risk", "5"],
        &["--at-risk", "expected a number from 0 to 1"],
    );
}

#[test]
fn numpy_files_are_read() {
    let cli = Cli::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/numpy.npz");
    let got = metrics(&cli, &[fixture.to_str().unwrap(), "--split", "val_calib"]);
    assert_eq!((&got["n"], &got["classes"]), (&json!(3), &json!(3)));
}

#[test]
fn bad_files_are_named() {
    let cli = Cli::new();
    cli.write("stray.csv", "label,logit,weight\n0,1,2\n");
    cli.write("range.csv", "label,logit\n0,1\n7,1\n");
    cli.refuses(
        &["metrics", "--logits", "stray.csv"],
        &["error: stray.csv: unexpected column `weight`"],
    );
    cli.refuses(
        &["metrics", "--logits", "range.csv"],
        &["error: range.csv: row 1: label 7 is outside 0..2"],
    );
    cli.refuses(
        &["metrics", "--logits", "none.csv"],
        &["error: none.csv: cannot read"],
    );
    cli.refuses(
        &["metrics", "--logits", "a.pt"],
        &["a.pt: expected a file that ends in .safetensors, .npz or .csv"],
    );
}
