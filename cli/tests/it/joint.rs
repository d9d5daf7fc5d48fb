//! Several variants of a bundle under one promise.

use crate::pipeline::Project;
use serde_json::Value;

fn document(project: &Project, path: &str) -> Value {
    serde_json::from_slice(&project.read(path)).unwrap()
}

fn calibrate(project: &Project, more: &[&str]) -> crate::cli::Outcome {
    let arguments = [more, &["--json"]].concat();
    project.stage1("calibrate", "run", &arguments)
}

/// val_calib's, if anything was recorded.
fn ledger(project: &Project) -> Option<String> {
    let mut files = std::fs::read_dir(project.cli.path("run")).unwrap();
    let path = files.find_map(|entry| {
        let path = entry.unwrap().path();
        path.to_string_lossy()
            .ends_with(".calib-ledger.jsonl")
            .then_some(path)
    });
    path.map(|path| std::fs::read_to_string(path).unwrap())
}

/// One attempt, one plan and one threshold; counts and reported probability of each variant's own.
#[test]
fn variants_get_one_threshold_in_one_attempt() {
    let project = Project::new();
    let joint = calibrate(&project, &["--joint", "fp32,fp16"]);
    assert_eq!(joint.code, 0, "{joint}");
    let each = &joint.json()["jointly"];
    let policy = |variant: &str| {
        document(
            &project,
            &format!("run/bundle/variants/{variant}/policy.json"),
        )
    };
    for variant in ["fp32", "fp16"] {
        let certificate = &each[variant];
        assert_eq!(certificate["attempt"], 1, "{certificate}");
        assert_eq!(certificate["variants"], 1, "{certificate}");
        let names = serde_json::json!(["fp32", "fp16"]);
        assert_eq!(certificate["jointly"], names, "{certificate}");
        let statement = certificate["statement"].as_str().unwrap();
        assert!(
            statement.contains("fp32 and fp16 were tested together"),
            "{statement}"
        );
        let model = &document(&project, "run/bundle/bundle.json")["variants"][variant]["model"];
        assert_eq!(
            certificate["fingerprint"]["model_digest"], model["digest"],
            "{certificate}"
        );
        assert_eq!(policy(variant)["threshold"], policy("fp32")["threshold"]);
    }
    assert!(each["fp16"]["flips"].is_object() && each["fp32"]["flips"].is_null());
    assert_eq!(each["fp16"]["plan_digest"], each["fp32"]["plan_digest"]);

    // It is as good for each by itself, and nothing is tested again.
    let again = calibrate(&project, &["--joint", "fp16,fp32"]);
    assert!(again.stderr.contains("calibrate: up to date"), "{again}");
    assert_eq!(again.json(), joint.json());
    for variant in ["fp32", "fp16"] {
        let alone = calibrate(&project, &["--variant", variant]);
        assert!(alone.stderr.contains("calibrate: up to date"), "{alone}");
    }
    let ledger = ledger(&project).unwrap();
    assert_eq!(ledger.matches("fp32,fp16").count(), 1, "{ledger}");
    let run = project.stage1("run", "run", &[]);
    assert_eq!(run.code, 0, "{run}");
    assert!(run.stdout.contains("fp32 and fp16 together"), "{run}");

    // One alone is a further attempt, which has to be asked for.
    let other = ["--set", "calibrate.alpha=0.2"];
    let alone = project.stage1("calibrate", "run", &other);
    assert_eq!(alone.code, 2, "{alone}");
    assert!(alone.stderr.contains("--overwrite"), "{alone}");
    // Its certificate says nothing of company, and counts the one that the other variant still has.
    let alone = calibrate(&project, &[&other[..], &["--overwrite"]].concat());
    assert_eq!(alone.code, 0, "{alone}");
    let certificate = alone.json();
    assert_eq!(certificate["attempt"], 2, "{certificate}");
    assert_eq!(certificate["variants"], 2, "{certificate}");
    assert!(certificate["jointly"].is_null(), "{certificate}");
    assert!(!alone.stdout.contains("tested together"), "{certificate}");
}

/// That variants got nothing together says nothing of one alone: it is tested.
#[test]
fn a_joint_refusal_is_not_a_single_one() {
    let project = Project::new();
    let strict = ["--set", "calibrate.alpha=0.001"];
    let joint = calibrate(&project, &[&["--joint", "fp32,fp16"][..], &strict].concat());
    assert_eq!(joint.code, 1, "{joint}");
    let refusals = &joint.json()["jointly"];
    let names = serde_json::json!(["fp32", "fp16"]);
    assert_eq!(refusals["fp16"]["jointly"], names, "{joint}");
    assert_eq!(refusals["fp32"], refusals["fp16"], "{joint}");
    assert!(
        !project
            .cli
            .path("run/bundle/variants/fp16/policy.json")
            .exists()
    );
    let again = calibrate(&project, &[&["--joint", "fp32,fp16"][..], &strict].concat());
    assert!(again.stderr.contains("calibrate: up to date"), "{again}");
    let alone = calibrate(&project, &strict);
    assert_eq!(alone.code, 1, "{alone}");
    assert!(!alone.stderr.contains("calibrate: up to date"), "{alone}");
    let attempts = ledger(&project).unwrap();
    assert_eq!(attempts.matches("\"plan_digest\"").count(), 2, "{attempts}");
}

/// A variant that was certified alone isn't taken into company without a further attempt; nor are wrong lists.
#[test]
fn what_does_not_go_together_is_refused() {
    let project = Project::new();
    let alone = calibrate(&project, &[]);
    assert_eq!(alone.code, 0, "{alone}");
    let joint = calibrate(&project, &["--joint", "fp32,fp16"]);
    assert_eq!(joint.code, 2, "{joint}");
    assert!(
        joint
            .stderr
            .contains("not together with these variants; keep it"),
        "{joint}"
    );
    let replaced = calibrate(&project, &["--joint", "fp32,fp16", "--overwrite"]);
    assert_eq!(replaced.code, 0, "{replaced}");
    assert_eq!(
        replaced.json()["jointly"]["fp16"]["attempt"],
        2,
        "{replaced}"
    );
    for (list, message) in [
        ("fp32", "expected two or more different variants"),
        ("fp16,fp16", "expected two or more different variants"),
        ("fp32,fp64", "no variant `fp64`"),
    ] {
        let refused = calibrate(&project, &["--joint", list]);
        assert_eq!(refused.code, 2, "{refused}");
        assert!(refused.stderr.contains(message), "{refused}");
    }
    let mean = ["calibrate.guarantee=expectation", "calibrate.delta=0.1"];
    let mean = mean.map(|key| ["--set", key]).concat();
    let refused = calibrate(&project, &[&["--joint", "fp32,fp16"][..], &mean].concat());
    assert_eq!(refused.code, 2, "{refused}");
    assert!(
        refused.stderr.contains("calibrate each by itself"),
        "{refused}"
    );
}

/// A variant that may differ too often is withheld before a label of val_calib counts, and nobody gets a policy.
#[test]
fn a_variant_that_differs_too_often_ends_the_attempt_before_it_begins() {
    let project = Project::new();
    let limit = ["--set", "calibrate.max_flip_bound=0.000001"];
    let joint = calibrate(&project, &[&["--joint", "fp32,fp16"][..], &limit].concat());
    assert_eq!(joint.code, 1, "{joint}");
    assert_eq!(joint.json()["withheld"], true, "{joint}");
    assert_eq!(joint.json()["variant"], "fp16", "{joint}");
    assert_eq!(ledger(&project), None);
}

/// A session on another device gets a certificate of its own, at the threshold that the policy has; the policy and the first
/// certificate stay. That the first one was another device's is made up here.
#[test]
fn a_further_session_is_certified_at_the_policys_threshold() {
    use stage1_core::bundle::{Bundle, attach_policy};
    let project = Project::new();
    assert_eq!(project.stage1("run", "run", &[]).code, 0);
    let dir = project.cli.path("run/bundle");
    let bundle = Bundle::open(&dir).unwrap();
    let policy = bundle.policy("fp32").unwrap().unwrap();
    let mut first = bundle.certificate("fp32").unwrap().unwrap();
    let here = first.fingerprint.clone();
    first.fingerprint.as_mut().unwrap().provider = "cuda".to_owned();
    attach_policy(&dir, "fp32", &policy, &first).unwrap();
    let image = project.cli.path("images/blue/01.png").display().to_string();
    let bundle = dir.display().to_string();
    let predict = ["predict", "--json", "--bundle", &bundle, &image];
    assert_eq!(
        project.cli.run(predict).code,
        2,
        "another session's certificate"
    );

    let added = calibrate(&project, &[]);
    assert_eq!(added.code, 0, "{added}");
    assert_eq!(added.json()["attempt"], 2, "{added}");
    assert_eq!(added.json()["variants"], 2, "{added}");
    assert_eq!(added.json()["errors"], first.errors, "{added}");
    let certificates = Bundle::open(&dir).unwrap().certificates("fp32").unwrap();
    assert_eq!(certificates.len(), 2);
    assert_eq!(certificates[0], first);
    assert_eq!(certificates[1].fingerprint, here);
    assert_eq!(certificates[1].policy_digest, first.policy_digest);
    assert!(ledger(&project).unwrap().contains("fp32 on cpu"));
    let certified = project.cli.run(predict);
    assert_eq!(certified.json()["certified"], true, "{certified}");
    let again = calibrate(&project, &[]);
    assert!(again.stderr.contains("calibrate: up to date"), "{again}");
    assert_eq!(again.json(), added.json());

    // Its verdict is another one, on a val_test that was opened.
    let judged = project.stage1("validate", "run", &["--json"]);
    assert_eq!(judged.code, 0, "{judged}");
    assert_eq!(judged.json()["opening"], 2, "{judged}");
    let text = project.stage1("validate", "run", &[]);
    assert!(text.stdout.contains("verdict on val_test"), "{text}");
    let other = calibrate(&project, &["--set", "calibrate.alpha=0.2"]);
    assert_eq!(other.code, 2, "{other}");
    assert!(
        other.stderr.contains("certified under other settings"),
        "{other}"
    );
    let replaced = calibrate(&project, &["--set", "calibrate.alpha=0.2", "--overwrite"]);
    assert_eq!(replaced.code, 0, "{replaced}");
    assert_eq!(
        Bundle::open(&dir)
            .unwrap()
            .certificates("fp32")
            .unwrap()
            .len(),
        1
    );
}
