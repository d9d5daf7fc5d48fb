//! `calibrate.guarantee: expectation`: a policy of kind `scrc`.

use crate::calibrate_logits::{csv, rows};
use crate::cli::{Cli, Outcome};
use crate::pipeline::Project;
use serde_json::{Value, json};

const EXPECTATION: [&str; 2] = ["--set", "calibrate.guarantee=expectation"];

fn calibrate(cli: &Cli, more: &[&str]) -> Outcome {
    cli.run(
        [
            &["calibrate", "--logits", "mine.csv"],
            &EXPECTATION[..],
            more,
        ]
        .concat(),
    )
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

/// The certificate has nothing that only goes with a confidence.
fn is_an_expectation(certificate: &Value) {
    assert_eq!(certificate["guarantee"], "expectation");
    for absent in [
        "delta",
        "level",
        "procedure",
        "p_value",
        "upper_bound",
        "claims",
        "run",
    ] {
        assert!(certificate.get(absent).is_none(), "{absent}: {certificate}");
    }
    let expected = &certificate["expected"];
    let bound = (number(&expected["errors"]) + 1.0) / (number(&expected["selected"]) + 1.0);
    assert!((number(&expected["bound"]) - bound).abs() < 1e-12);
    assert!(bound <= number(&certificate["alpha"]), "{expected}");
    let statement = certificate["statement"].as_str().unwrap();
    for part in [
        "On average over calibrations",
        "about every second calibration exceeds it",
        "nothing is said with confidence",
    ] {
        assert!(statement.contains(part), "{part}: {statement}");
    }
}

#[test]
fn logits_get_a_policy_that_selects() {
    let cli = Cli::new();
    cli.write("mine.csv", csv(&rows(3000, 1), ""));
    let outcome = calibrate(&cli, &["--json", "--out", "policy"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    let document = outcome.json();
    is_an_expectation(&document["certificate"]);
    let policy = &document["policy"];
    assert_eq!(policy["kind"], "scrc");
    assert!(number(&policy["selected_from"]) <= number(&policy["threshold"]["at_least"]));
    assert_eq!(document["certified"], true);

    let text = calibrate(&cli, &["--out", "text"]);
    for part in [
        "the same as attempt 1",
        "certified: on average over calibrations at most 5 % of selected rows are answered wrongly",
        "about every second exceeds it",
    ] {
        let all = format!("{}{}", text.stdout, text.stderr);
        assert!(all.contains(part), "{part}\n{text}");
    }
    assert!(!text.stdout.contains("confidence 9"), "{text}");

    // It allows about what the average allows, so that it answers more than what holds with confidence does.
    let certain = cli.run([
        "calibrate",
        "--logits",
        "mine.csv",
        "--json",
        "--out",
        "pac",
    ]);
    assert_eq!(certain.code, 0, "{certain}");
    assert!(certain.stderr.contains("attempt 2"), "{certain}");
    let share = |document: &Value| number(&document["certificate"]["coverage"]);
    assert!(share(&document) > share(&certain.json()), "{outcome}");

    estimated(&cli);
    watched(&cli);
}

/// val_test gives an estimate and no verdict.
fn estimated(cli: &Cli) {
    cli.write("test.csv", csv(&rows(2000, 9), "t"));
    let validate = |more: &[&str]| {
        let fixed = ["validate", "--logits", "test.csv", "--policy", "policy"];
        cli.run([&fixed[..], more].concat())
    };
    for (more, part) in [
        (
            ["--require-held", "--json"],
            "--require-held: the certificate promises an expectation",
        ),
        (["--gamma", "0.01"], "no verdict at any level"),
    ] {
        let refused = validate(&more);
        assert_eq!(refused.code, 2, "{refused}");
        assert!(refused.stderr.contains(part), "{part}: {refused}");
    }
    let outcome = validate(&["--json"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    let estimate = outcome.json();
    assert_eq!(
        (&estimate["guarantee"], &estimate["opening"]),
        (&json!("expectation"), &json!(1)),
        "what was refused opened nothing"
    );
    assert!(estimate.get("verdict").is_none(), "{estimate}");
    let rate = number(&estimate["errors"]) / number(&estimate["selected"]);
    assert!((number(&estimate["rate"]) - rate).abs() < 1e-12);
    assert!(number(&estimate["interval"][0]) < rate && rate < number(&estimate["interval"][1]));
    // Rows that are wrong throughout refute nothing either.
    let mut wrong = rows(500, 3);
    wrong
        .iter_mut()
        .for_each(|(label, _)| *label = (*label + 1) % 3);
    cli.write("wrong.csv", csv(&wrong, "w"));
    let text = cli.run([
        "validate",
        "--logits",
        "wrong.csv",
        "--policy",
        "policy",
        "--out",
        "wrong",
    ]);
    assert_eq!(text.code, 0, "{text}");
    for part in [
        "verdict on val_test",
        "none",
        "an estimate",
        "nothing was promised of it",
    ] {
        assert!(text.stdout.contains(part), "{part}: {text}");
    }
    let again = validate(&["--json"]);
    let again = again.json();
    for key in ["opening", "rate", "interval", "selected"] {
        assert_eq!(again[key], estimate[key], "{key}: {again}");
    }
}

/// Nothing was promised of the rate among answers, which labels of answers show.
fn watched(cli: &Cli) {
    cli.write("labels.csv", "path,label\n");
    cli.write("log.jsonl", "");
    let fixed = [
        "monitor",
        "--policy",
        "policy/policy.json",
        "--reference",
        "mine.csv",
    ];
    let outcome = cli.run([&fixed[..], &["log.jsonl", "--labels", "labels.csv"]].concat());
    assert_eq!(outcome.code, 2, "{outcome}");
    assert!(outcome.stderr.contains("--alpha"), "{outcome}");
}

#[test]
fn what_does_not_apply_is_refused_by_name_before_anything_is_recorded() {
    let cli = Cli::new();
    cli.write("mine.csv", csv(&rows(600, 1), ""));
    let cases = [
        (
            "calibrate.constraints=[{kind: coverage, at_least: 0.5}]",
            "calibrate.constraints",
        ),
        ("calibrate.procedure=holm", "calibrate.procedure"),
        ("calibrate.attempts=spending", "calibrate.attempts"),
        ("calibrate.delta=0.2", "calibrate.delta"),
        ("calibrate.score=binary_margin", "calibrate.score"),
    ];
    for (setting, key) in cases {
        let outcome = calibrate(&cli, &["--set", setting]);
        assert_eq!(outcome.code, 2, "{setting}: {outcome}");
        assert!(outcome.stderr.contains(key), "{setting}: {outcome}");
        assert!(
            outcome.stderr.contains("guarantee: expectation"),
            "{setting}: {outcome}"
        );
    }
    let delta = calibrate(&cli, &["--delta", "0.2"]);
    assert!(delta.stderr.contains("calibrate.delta"), "{delta}");
    let joint = calibrate(&cli, &["--joint", "mine.csv"]);
    assert!(joint.stderr.contains("--joint certifies"), "{joint}");
    let first = calibrate(&cli, &["--json"]);
    assert_eq!(first.json()["certificate"]["attempt"], 1, "{first}");
}

#[test]
fn what_can_not_be_promised_says_what_it_would_take_and_exits_1() {
    let cli = Cli::new();
    cli.write("mine.csv", csv(&rows(30, 1), ""));
    let outcome = calibrate(&cli, &[]);
    assert_eq!(outcome.code, 1, "{outcome}");
    for part in [
        "not certified that on average over calibrations",
        "19 selected rows without an error",
        "not-certified.json",
    ] {
        assert!(outcome.stdout.contains(part), "{part}: {outcome}");
    }
    assert!(!cli.path("mine-policy/policy.json").exists());
}

#[test]
fn a_run_makes_a_bundle_that_answers_in_expectation() {
    let project = Project::new();
    let settings = [
        "--set",
        "calibrate.guarantee=expectation",
        "--set",
        "calibrate.delta=0.1",
        "--set",
        "export.variants=[fp16]",
        "--json",
    ];
    let outcome = project.stage1("run", "a", &settings);
    assert_eq!(outcome.code, 0, "{outcome}");
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["calibration"]["outcome"], "certified", "{outcome}");
    is_an_expectation(&report["calibration"]);
    assert_eq!(report["validation"]["guarantee"], "expectation");
    let policy = project.read("a/bundle/variants/fp32/policy.json");
    let policy: Value = serde_json::from_slice(&policy).unwrap();
    assert_eq!(policy["kind"], "scrc");
    let card = String::from_utf8(project.read("a/bundle/README.md")).unwrap();
    assert!(card.contains("On average over calibrations"), "{card}");

    let text = project.stage1("report", "a", &settings[..6]);
    assert!(
        text.stdout.contains("an expectation, without confidence"),
        "{text}"
    );
    assert!(text.stdout.contains("an estimate"), "{text}");
    // A variant is calibrated by its own rows, at the same threshold or not at all.
    let arguments = [&settings[..], &["--variant", "fp16"]].concat();
    let variant = project.stage1("calibrate", "a", &arguments);
    assert!([0, 1].contains(&variant.code), "{variant}");
    if variant.code == 0 {
        is_an_expectation(&variant.json());
    }
    let bundle = project.cli.path("a/bundle").display().to_string();
    let image = project.cli.path("images/red/00.png").display().to_string();
    let decision = project
        .cli
        .run(["predict", "--bundle", &bundle, &image, "--json"]);
    assert_eq!(decision.code, 0, "{decision}");
    assert!(decision.stdout.contains("\"decision\""), "{decision}");
}
