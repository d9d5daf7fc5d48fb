//! `stage1 ab-test` on tiny data.

use crate::pipeline::Project;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

/// An arm that learns next to nothing, and one like the configuration itself.
const WEAK: &str = "weak:train.learning_rate=0.000001";
const WIDE: &str = "wide:head.kind=mlp,head.hidden=16";

fn ab(project: &Project, run_dir: &str, more: &[&str]) -> crate::cli::Outcome {
    project.stage1("ab-test", run_dir, more)
}

/// The images of some splits, which are then gone or damaged.
fn poison(project: &Project, run_dir: &str, splits: &[&str]) {
    let manifest: Value =
        serde_json::from_slice(&project.read(&format!("{run_dir}/splits.json"))).unwrap();
    let samples = manifest["samples"].as_array().unwrap();
    let wanted = samples
        .iter()
        .filter(|sample| splits.contains(&sample["split"].as_str().unwrap()));
    for (n, sample) in wanted.enumerate() {
        let path = project
            .cli
            .path("images")
            .join(sample["path"].as_str().unwrap());
        match n % 2 {
            0 => fs::remove_file(path).unwrap(),
            _ => fs::write(path, "not an image").unwrap(),
        }
    }
}

fn document(project: &Project, run_dir: &str) -> Value {
    serde_json::from_slice(&project.read(&format!("{run_dir}/ab-test/ab-test.json"))).unwrap()
}

fn arm<'a>(document: &'a Value, name: &str) -> &'a Value {
    let arms = document["comparison"]["arms"].as_array().unwrap();
    arms.iter().find(|arm| arm["name"] == name).unwrap()
}

#[test]
fn arms_are_compared_on_val_select_and_no_other_image_is_opened() {
    let project = Project::new();
    assert_eq!(project.stage1("split", "a", &[]).code, 0);
    poison(&project, "a", &["val_calib", "val_test"]);
    let outcome = ab(
        &project,
        "a",
        &["--arm", WEAK, "--arm", WIDE, "--seeds", "1,2,3", "--json"],
    );
    assert_eq!(outcome.code, 0, "{outcome}");
    let found = outcome.json();
    assert_eq!(found, document(&project, "a"));
    let comparison = &found["comparison"];
    assert_eq!(found["on"], "val_select");
    assert_eq!(comparison["seeds"], serde_json::json!([1, 2, 3]));
    assert_eq!(comparison["reference"], "base");

    // Two classes told apart by their colour: what learns nothing is worse, and found to be.
    let weak = arm(&found, "weak");
    assert_eq!(weak["verdict"], "worse", "{weak}");
    assert_eq!(arm(&found, "base")["verdict"], Value::Null);
    for measure in ["mcc", "augrc", "coverage"] {
        let difference = &weak["differences"][measure];
        assert!(
            difference["low"].as_f64() <= difference["high"].as_f64(),
            "{difference}"
        );
        assert!(
            difference["p_holm"].as_f64() >= difference["p"].as_f64(),
            "{difference}"
        );
        assert_eq!(
            weak["measures"][measure]["by_seed"]
                .as_array()
                .unwrap()
                .len(),
            3
        );
    }
    for one in comparison["arms"].as_array().unwrap() {
        assert!(one["measures"]["augrc"]["mean"].as_f64() >= Some(0.0));
        let tests = one["mcnemar"].as_array().unwrap();
        // One test per seed, on the rows of val_select once: never pooled.
        assert_eq!(tests.len(), if one["name"] == "base" { 0 } else { 3 });
        for test in tests {
            let discordant = test["gained"].as_u64().unwrap() + test["lost"].as_u64().unwrap();
            assert!(discordant <= comparison["rows"].as_u64().unwrap());
        }
    }

    // Each image's logits are kept, with its name.
    for record in found["arms"].as_array().unwrap() {
        for training in record["trainings"].as_array().unwrap() {
            let path = PathBuf::from(training["predictions"].as_str().unwrap());
            let set = stage1_core::logits::LogitSet::load(&path).unwrap();
            assert_eq!(Some(set.n() as u64), comparison["rows"].as_u64());
            assert_eq!(set.ids.len(), set.n());
        }
    }
    let report = String::from_utf8(project.read("a/ab-test/ab-test.md")).unwrap();
    for part in [
        "weak is worse than base",
        "McNemar's test, seed by seed",
        "differences.svg",
        "risk-over-coverage.svg",
        "val_calib and val_test were not opened",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
    for plot in ["differences.svg", "risk-over-coverage.svg"] {
        let svg = String::from_utf8(project.read(&format!("a/ab-test/{plot}"))).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("wide"), "{svg}");
    }
}

#[test]
fn a_fold_of_train_leaves_val_select_unopened() {
    let project = Project::new();
    assert_eq!(project.stage1("split", "a", &[]).code, 0);
    poison(&project, "a", &["val_select", "val_calib", "val_test"]);
    let outcome = ab(
        &project,
        "a",
        &["--arm", WIDE, "--on", "train-fold", "--json"],
    );
    assert_eq!(outcome.code, 0, "{outcome}");
    assert_eq!(outcome.json()["on"], "a fold of train");
    assert_eq!(
        outcome.json()["comparison"]["seeds"],
        serde_json::json!([42, 43, 44])
    );
}

#[test]
fn a_killed_test_goes_on_with_the_arms_that_are_missing_to_the_same_result() {
    let project = Project::new();
    let keys = ["--arm", WEAK, "--arm", WIDE, "--seeds", "1,2,3"];
    let whole = ab(&project, "whole", &keys);
    assert_eq!(whole.code, 0, "{whole}");

    let mut child = project
        .cli
        .command(project.arguments("ab-test", "killed", &keys))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let first = project
        .cli
        .path("killed/ab-test/base/seed-3/predictions.safetensors");
    while !first.exists() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended without a training"
        );
        thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!project.cli.path("killed/ab-test/ab-test.json").exists());
    let written = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let checkpoint = project
        .cli
        .path("killed/ab-test/base/seed-1/checkpoints/best/checkpoint.json");
    let (before, predicted) = (written(&checkpoint), written(&first));

    let rest = ab(&project, "killed", &keys);
    assert_eq!(rest.code, 0, "{rest}");
    assert_eq!((written(&checkpoint), written(&first)), (before, predicted));
    let comparison = |run_dir: &str| document(&project, run_dir)["comparison"].clone();
    assert_eq!(comparison("killed"), comparison("whole"));

    // A third time nothing is trained; another recipe under an arm's name is not mistaken for it.
    let again = ab(&project, "killed", &keys);
    assert_eq!(
        again.stderr.matches("train: up to date").count(),
        9,
        "{again}"
    );
    let other = [
        "--arm",
        "wide:head.kind=mlp,head.hidden=8",
        "--seeds",
        "1,2,3",
    ];
    let refused = ab(&project, "killed", &other);
    assert_eq!(refused.code, 2, "{refused}");
    for part in ["arm wide, seed 1", "--overwrite"] {
        assert!(refused.stderr.contains(part), "{refused}");
    }
    let replaced = ab(&project, "killed", &[&other[..], &["--overwrite"]].concat());
    assert_eq!(replaced.code, 0, "{replaced}");
}

#[test]
fn the_exit_code_says_no_only_when_asked() {
    let project = Project::new();
    let keys = ["--arm", WEAK];
    assert_eq!(ab(&project, "a", &keys).code, 0);
    let asked = ab(&project, "a", &[&keys[..], &["--require-better"]].concat());
    assert_eq!(asked.code, 1, "{asked}");
    assert!(asked.stdout.contains("go on with: base"), "{asked}");
    // Seen from the other side, the configuration is the better one.
    let turned = [&keys[..], &["--require-better", "--reference", "weak"]].concat();
    let turned = ab(&project, "a", &turned);
    assert_eq!(turned.code, 0, "{turned}");
    assert!(
        turned.stdout.contains("base is better than weak"),
        "{turned}"
    );
}

#[test]
fn what_can_not_be_compared_is_refused_before_anything_is_trained() {
    let project = Project::new();
    let cases: [(&[&str], &[&str]); 14] = [
        (&[], &["nothing to compare", "--arm"]),
        (
            &["--arm", WIDE, "--seeds", "1,2"],
            &["at least 3", "--allow-few-seeds"],
        ),
        (&["--arm", WIDE, "--seeds", "1,2,2"], &["twice"]),
        (&["--arm", "a:split.seed=7"], &["arm a", "`split`"]),
        (&["--arm", "a:data.on_bad_image=skip"], &["arm a", "`data`"]),
        (&["--arm", "a:calibrate.alpha=0.2"], &["`calibrate.alpha`"]),
        (&["--arm", "a:seed=7"], &["`seed`", "--seeds"]),
        (
            &["--arm", "a:train.epochs=1"],
            &["arm a is the same as arm base"],
        ),
        (
            &["--arm", "a:train.epocs=1"],
            &["train.epocs", "train.epochs"],
        ),
        (
            &["--arm", WIDE, "--arm", WIDE],
            &["two arms are called wide"],
        ),
        (&["--arm", WIDE, "--reference", "narrow"], &["base, wide"]),
        (
            &["--arm", "a:export.variants=[fp16],validate.gamma=0.1"],
            &[
                "arm a",
                "arm base",
                "`export`, `validate`",
                "calibrate.score",
            ],
        ),
        (
            &["--arm", "a:calibrate.score=max_probability"],
            &["arm a", "`calibrate`", "neither what is trained"],
        ),
        (
            &["--arm", "a:calibrate.score=best_on_select"],
            &["arm a", "fitted on val_select", "margin and energy"],
        ),
    ];
    for (more, parts) in cases {
        let refused = ab(&project, "a", more);
        assert_eq!(
            (refused.code, &*refused.stdout),
            (2, ""),
            "{more:?}\n{refused}"
        );
        for part in parts {
            assert!(refused.stderr.contains(part), "{more:?}: {part}\n{refused}");
        }
    }
    assert!(!project.cli.path("a/ab-test").exists());
}

#[test]
fn an_arm_is_judged_by_its_own_score() {
    let project = Project::new();
    // A classifier that is often wrong, so that rankings differ.
    let keys = [
        "--set",
        "train.learning_rate=0.000001",
        "--arm",
        "energy:calibrate.score=energy",
        "--json",
    ];
    let outcome = ab(&project, "a", &keys);
    assert_eq!(outcome.code, 0, "{outcome}");
    let found = outcome.json();
    // The same trainings: classes and MCC are those of base, the ranking isn't.
    let (base, energy) = (arm(&found, "base"), arm(&found, "energy"));
    assert_eq!(base["measures"]["mcc"], energy["measures"]["mcc"]);
    assert_ne!(base["measures"]["augrc"], energy["measures"]["augrc"]);
    assert_eq!(energy["differences"]["mcc"]["p_exchange"], 1.0);
    for (n, want) in ["max_probability", "energy"].into_iter().enumerate() {
        for training in found["arms"][n]["trainings"].as_array().unwrap() {
            assert_eq!(training["score"], want);
        }
    }
    let report = String::from_utf8(project.read("a/ab-test/ab-test.md")).unwrap();
    assert!(
        report.contains("| `calibrate.score=energy` | energy |"),
        "{report}"
    );
}

#[test]
fn what_the_trainer_refuses_of_any_arm_it_refuses_before_one_is_trained() {
    let project = Project::new();
    let start = project.stage1("train", "b", &[]);
    assert_eq!(start.code, 0, "{start}");
    let start = project.cli.path("b/checkpoints/best");
    let from = format!("started:train.init_from={}", start.display());
    let names = "adapted:phase=peft,peft.target_modules=[quarry]";
    let cases: [(&str, &[&str], &[&str]); 2] = [
        (
            names,
            &[],
            &["arm adapted", "`quarry` names no linear layer"],
        ),
        // The checkpoint has seen the images of the fold that judges here.
        (
            &from,
            &["--on", "train-fold"],
            &["arm started", "trained on images of other splits"],
        ),
    ];
    for (last, more, parts) in cases {
        let refused = ab(
            &project,
            "a",
            &[&["--arm", WIDE, "--arm", last], more].concat(),
        );
        assert_eq!(refused.code, 2, "{refused}");
        for part in parts {
            assert!(refused.stderr.contains(part), "{part}: {refused}");
        }
        assert!(
            !project
                .cli
                .path("a/ab-test/base/seed-42/checkpoints")
                .exists()
        );
        fs::remove_dir_all(project.cli.path("a")).unwrap();
    }
    // On val_select, which it hasn't seen, it may take part.
    fs::create_dir_all(project.cli.path("a")).unwrap();
    fs::copy(
        project.cli.path("b/splits.json"),
        project.cli.path("a/splits.json"),
    )
    .unwrap();
    let fine = ab(&project, "a", &["--arm", &from]);
    assert_eq!(fine.code, 0, "{fine}");
}
