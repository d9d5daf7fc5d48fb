//! `phase: gate`, to a bundle: where the gate is better than the logits' scores, and where it isn't.

use crate::{cli::Outcome, pipeline::Project};
use serde_json::Value;
use std::{fs, path::Path};

const GATE: [&str; 6] = [
    "--set",
    "phase=gate",
    "--set",
    "head={kind: mlp, hidden: 32}",
    "--set",
    "export.batch=4",
];

/// A common and a rare class whose brightness overlaps. A classifier that is trained on as many of either takes many common
/// images for rare ones, and is as sure of that as where it is right: its probabilities are those of other frequencies. How
/// often it is right among images as they come is what a gate can learn.
fn write_overlapping(root: &Path) {
    let mut state = 5u32;
    for i in 0..1500u32 {
        let rare = unit(&mut state) < 0.12;
        // Nearly normal.
        let sum: f64 = (0..12).map(|_| unit(&mut state)).sum();
        let level = 110.0 + if rare { 50.0 } else { 0.0 } + 30.0 * (sum - 6.0);
        let image = image::RgbImage::from_fn(32, 32, |_, _| {
            let level = (level + 16.0 * (unit(&mut state) - 0.5)).clamp(0.0, 255.0) as u8;
            image::Rgb([level, 80, 255 - level])
        });
        let folder = root.join(if rare { "rare" } else { "common" });
        fs::create_dir_all(&folder).unwrap();
        image.save(folder.join(format!("{i:04}.png"))).unwrap();
    }
}

/// The same everywhere, in [0, 1).
fn unit(state: &mut u32) -> f64 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    f64::from(*state >> 8) / f64::from(1u32 << 24)
}

fn json(project: &Project, path: &str) -> Value {
    serde_json::from_slice(&project.read(path)).unwrap()
}

fn run(project: &Project, run_dir: &str, more: &[&str]) -> Outcome {
    project.stage1("run", run_dir, &[&GATE[..], more, &["--json"]].concat())
}

#[test]
fn a_gate_that_wins_on_val_select_decides_in_the_bundle() {
    let project = Project::new();
    fs::remove_dir_all(project.cli.path("images")).unwrap();
    write_overlapping(&project.cli.path("images"));
    let keys = [
        "train.epochs=15",
        "train.batch_size=32",
        "train.learning_rate=0.003",
        "train.sampling=balanced",
        "gate.epochs=30",
        "data.near.enabled=false",
        "split.ratios={train: 0.35, val_select: 0.25, val_calib: 0.2, val_test: 0.2}",
        "calibrate.alpha=0.1",
    ];
    let keys: Vec<_> = keys.iter().flat_map(|key| ["--set", key]).collect();
    let outcome = run(&project, "a", &keys);
    assert_eq!(outcome.code, 0, "{outcome}");
    let report = outcome.json();
    assert_eq!(report["gate"]["ships"], true, "{outcome}");
    for rival in ["max_probability", "margin", "energy"] {
        let interval = &report["gate"]["rivals"][rival]["interval"];
        assert!(interval[1].as_f64() < Some(0.0), "{rival}: {interval}");
    }
    assert_eq!(report["gate"], json(&project, "a/gate.json"));

    // Certified through the deployed session, by the gate.
    let policy = json(&project, "a/bundle/variants/fp32/policy.json");
    assert_eq!(
        (&policy["kind"], &policy["score"]["kind"]),
        (&"gate".into(), &"gate".into())
    );
    assert_eq!(report["calibration"]["outcome"], "certified", "{outcome}");
    assert_eq!(json(&project, "a/bundle/bundle.json")["gate"], "gate");
    assert_eq!(
        json(&project, "a/bundle/variants/fp32/parity.json")["passed"],
        true
    );

    // What answers is the gate: surer images are answered, whatever their logits.
    let bundle = project.cli.path("a/bundle").display().to_string();
    let images = project.cli.path("images/common").display().to_string();
    let predict = project
        .cli
        .run(["predict", "--json", "--bundle", &bundle, &images]);
    assert_eq!(predict.code, 0, "{predict}");
    let least = policy["threshold"]["at_least"].as_f64().unwrap();
    let (mut answered, mut deferred) = (0, 0);
    for line in predict.stdout.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let gate = record["gate"].as_f64().unwrap();
        assert_eq!(record["decision"] == "answer", gate >= least, "{record}");
        match gate >= least {
            true => answered += 1,
            false => deferred += 1,
        }
    }
    assert!(answered > 0 && deferred > 0, "{answered} {deferred}");

    // A log of a gate's decisions can be watched.
    project.cli.write("log.jsonl", &predict.stdout);
    let watched = project
        .cli
        .run(["monitor", "--json", "--bundle", &bundle, "log.jsonl"]);
    assert!([0, 1].contains(&watched.code), "{watched}");
    assert_eq!(
        watched.json()["rows"]["new"],
        answered + deferred,
        "{watched}"
    );

    // Another precision has its gate, too, and is certified by it.
    let half = [&keys[..], &["--set", "export.variants=[fp16]"]].concat();
    let half = [&GATE[..], &half, &["--variant", "fp16", "--json"]].concat();
    let certified = project.stage1("calibrate", "a", &half);
    assert!([0, 1].contains(&certified.code), "{certified}");
    assert_eq!(
        json(&project, "a/bundle/variants/fp16/parity.json")["passed"],
        true
    );
    if certified.code == 0 {
        let policy = json(&project, "a/bundle/variants/fp16/policy.json");
        assert_eq!(policy["score"]["kind"], "gate");
    }

    let text = project.stage1("report", "a", &[&GATE[..], &keys].concat());
    assert!(
        text.stdout.contains("deployed") && text.stdout.contains("max_probability"),
        "{text}"
    );
    let again = run(&project, "a", &keys);
    for step in ["train", "export", "calibrate", "validate"] {
        assert!(
            again.stderr.contains(&format!("{step}: up to date")),
            "{again}"
        );
    }
}

#[test]
fn a_gate_that_does_not_win_stays_out_and_the_configured_score_decides() {
    let project = Project::new();
    for (run_dir, more, score) in [
        (
            "a",
            ["--set", "calibrate.score=margin"].as_slice(),
            "margin",
        ),
        ("b", &["--set", "gate.loss=selective_net"], "binary_margin"),
    ] {
        let outcome = run(&project, run_dir, more);
        assert!([0, 1].contains(&outcome.code), "{outcome}");
        let report = outcome.json();
        // Told apart by their colour: there is nothing that a gate could know better.
        assert_eq!(report["gate"]["ships"], false, "{outcome}");
        assert_eq!(
            json(&project, &format!("{run_dir}/bundle/bundle.json"))["gate"],
            Value::Null
        );
        let plan = json(&project, &format!("{run_dir}/plan.json"));
        assert_eq!(plan["score"]["kind"], score, "{plan}");
        let policy = project
            .cli
            .path(run_dir)
            .join("bundle/variants/fp32/policy.json");
        if policy.exists() {
            let policy = json(
                &project,
                &format!("{run_dir}/bundle/variants/fp32/policy.json"),
            );
            assert_eq!(policy["kind"], "softmax", "{policy}");
        }
        let report = project.stage1("report", run_dir, &[&GATE[..], more].concat());
        assert!(report.stdout.contains("not deployed"), "{report}");
    }
}

#[test]
fn an_arm_with_a_gate_is_compared_like_any_other() {
    let project = Project::new();
    let arm = "gated:phase=gate,head={kind: mlp, hidden: 16}";
    let outcome = project.stage1("ab-test", "a", &["--arm", arm, "--json"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    assert_eq!(outcome.json()["comparison"]["arms"][1]["name"], "gated");
}
