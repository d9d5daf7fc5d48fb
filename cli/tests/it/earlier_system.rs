//! The ten defects that kept the system before this one from working, one test each. CONTRIBUTING.md names the tests in other
//! crates that hold the same line closer to the code.

use crate::{cli::Cli, pipeline::Project};
use serde_json::Value;
use stage1_calibration::metrics::{Metric, Predictions, compute};
use stage1_core::{
    artifact::Digest,
    model::preset,
    policy::{Calibrator, Outcome, Policy, Score, Threshold},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files of source code below a folder, as paths relative to the workspace.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() && !name.starts_with('.') && name != "target" {
            sources(&path, found);
        } else if name.ends_with(".rs") || name.ends_with(".yaml") || name.ends_with(".toml") {
            found.push(path.strip_prefix(workspace()).unwrap().to_owned());
        }
    }
}

/// `data/` in `.gitignore` swallowed a package of that name, wherever it lay.
#[test]
fn defect_01_a_pattern_for_data_swallows_source_code() {
    let ignored = fs::read_to_string(workspace().join(".gitignore")).unwrap();
    let folders = [
        "core",
        "trainer",
        "exporter",
        "calibration",
        "runtime",
        "cli",
        "xtask",
        "configs",
    ];
    let mut files = Vec::new();
    folders
        .iter()
        .for_each(|folder| sources(&workspace().join(folder), &mut files));
    assert!(files.len() > 300, "{}", files.len());
    assert!(files.iter().any(|file| file.starts_with("core/src/data")));
    for pattern in ignored
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let swallowed = files.iter().find(|file| match pattern.strip_prefix('/') {
            Some(anchored) => file.starts_with(anchored.trim_end_matches('/')),
            None => {
                let suffix = pattern.trim_start_matches('*').trim_end_matches('/');
                file.iter()
                    .any(|part| part.to_string_lossy().ends_with(suffix))
            }
        });
        assert_eq!(swallowed, None, "`{pattern}` in .gitignore");
    }
}

/// The A/B report had its coverage and exit error written into the program.
#[test]
fn defect_02_the_numbers_of_an_ab_report_are_made_up() {
    let project = Project::new();
    let arm = ["--arm", "weak:train.learning_rate=0.0001", "--json"];
    let outcome = project.stage1("ab-test", "a", &arm);
    assert_eq!(outcome.code, 0, "{outcome}");
    let report = outcome.json();
    let risk = report["comparison"]["risk"].to_string();
    for (record, result) in report["arms"]
        .as_array()
        .unwrap()
        .iter()
        .zip(report["comparison"]["arms"].as_array().unwrap())
    {
        for (seed, training) in record["trainings"].as_array().unwrap().iter().enumerate() {
            let logits = training["predictions"].as_str().unwrap();
            let again =
                project
                    .cli
                    .run(["metrics", "--json", "--logits", logits, "--at-risk", &risk]);
            assert_eq!(again.code, 0, "{again}");
            let again = again.json();
            let coverage = format!("coverage_at_risk_{risk}");
            for (measure, name) in [("mcc", "mcc"), ("augrc", "augrc"), ("coverage", &coverage)] {
                let told = result["measures"][measure]["by_seed"][seed]
                    .as_f64()
                    .unwrap();
                let want = again[name]
                    .as_f64()
                    .unwrap_or_else(|| panic!("{name}: {again}"));
                assert!((told - want).abs() < 1e-12, "{measure}: {told} for {want}");
            }
        }
    }
}

/// Trainers read keys that no configuration had, and `--phase` was parsed and dropped.
#[test]
fn defect_03_keys_are_read_that_do_not_exist_and_the_phase_is_dropped() {
    let project = Project::new();
    let keys = [
        ("learning_rate=0.1", "unknown key `learning_rate`"),
        ("train.num_epochs=3", "did you mean `train.epochs`?"),
        ("train.patience=3", "unknown key `train.patience`"),
        ("num_classes=2", "unknown key `num_classes`"),
        ("splits_file=a.json", "unknown key `splits_file`"),
        ("phase=peft", "peft.target_modules"),
        ("phase=gate", "head.kind"),
        ("phase=3", "phase"),
    ];
    for (key, want) in keys {
        let outcome = project.stage1("train", "a", &["--set", key]);
        assert_eq!(outcome.code, 2, "{key}: {outcome}");
        assert!(outcome.stderr.contains(want), "{key}: {outcome}");
    }
}

/// "AUGRC" was an integral over falling coverage: below zero, and lower for worse models.
#[test]
fn defect_04_augrc_is_negative_and_prefers_the_worst_model() {
    let of = |p: &[f64], labels: &[usize]| {
        let table = compute(
            &Predictions::from_positive_probabilities(p, labels.to_vec()),
            None,
        );
        table["augrc"]
            .map(|metric: Metric| metric.estimate())
            .unwrap()
    };
    // domain.md §7: confidences .9 to .4, errors at the third and the fifth; by trapezoids 5/36.
    let p = [0.9, 0.8, 0.3, 0.6, 0.5, 0.4];
    for seed in 0..200u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let p: Vec<f64> = (0..40).map(|_| draw()).collect();
        let labels: Vec<_> = (0..40).map(|_| usize::from(draw() < 0.5)).collect();
        let wrong = p
            .iter()
            .zip(&labels)
            .filter(|(p, l)| (**p >= 0.5) != (**l == 1))
            .count();
        let rate = wrong as f64 / 40.0;
        let augrc = of(&p, &labels);
        // The best order there is, and the worst.
        let (least, most) = (rate * rate / 2.0, rate - rate * rate / 2.0);
        assert!(
            least - 1e-12 <= augrc && augrc <= most + 1e-12,
            "{least} {augrc} {most}"
        );
    }
    // Surer where right is better than surer where wrong.
    let labels = [1, 1, 1, 1, 0, 0];
    let good = [0.95, 0.9, 0.85, 0.8, 0.55, 0.52];
    let bad = [0.55, 0.52, 0.6, 0.58, 0.95, 0.9];
    assert!(0.0 < of(&good, &labels) && of(&good, &labels) < of(&bad, &labels));
    assert!(of(&p, &[1, 1, 1, 1, 1, 1]) > 0.0);
}

/// `p ≥ t or p ≤ 1 − t` for several classes; and a rate of nothing was 0 in one file and 1 in another.
#[test]
fn defect_05_a_dead_clause_and_a_rate_of_nothing() {
    let score = Score::MaxProbability { temperature: 1.0 };
    let threshold = Threshold::OneSided { at_least: 0.6 };
    let policy = Policy::new(3, score, threshold, Calibrator::None, Digest::of_bytes(b""));
    // The largest of three probabilities is 0.4 or less: below 1 − 0.6, and no reason to answer.
    let decision = policy.decide(&[0.1_f32, 0.0, 0.05]).unwrap();
    assert!(decision.score <= 0.4);
    assert_eq!(decision.outcome, Outcome::Defer);

    // Without a single positive, no rate of misses can be promised: not 0, and not 1 either.
    let cli = Cli::new();
    let rows: String = (0..400)
        .map(|i| format!("0,{},0\n", f64::from(i) / 100.0))
        .collect();
    cli.write("rows.csv", format!("label,logit_0,logit_1\n{rows}"));
    let constraint = "calibrate.constraints=[{kind: fnr, alpha: 0.05}]";
    let outcome = cli.run([
        "calibrate",
        "--json",
        "--logits",
        "rows.csv",
        "--set",
        constraint,
    ]);
    assert_eq!(outcome.code, 1, "{outcome}");
    let tally = &outcome.json()["best"]["tallies"][0];
    assert_eq!(
        (&tally["total"], &tally["p_value"]),
        (&0.into(), &1.0.into()),
        "{tally}"
    );
}

/// Widths 768 and 1536 were written into the program, and models named that don't exist.
#[test]
fn defect_06_widths_and_names_of_models_are_guesses() {
    let widths = [
        ("dinov3-vits16", 384),
        ("dinov3-vitb16", 768),
        ("dinov3-vitl16", 1024),
        ("dinov3-vith16plus", 1280),
        ("dinov3-vit7b16", 4096),
    ];
    for (name, width) in widths {
        assert_eq!(preset(name).unwrap().hidden(), width, "{name}");
    }
    assert_eq!(preset("dinov3-vith14"), None);
}

/// Adapters were asked for by another family's names, so that nothing was adapted.
#[test]
fn defect_07_adapter_targets_of_another_family_adapt_nothing() {
    let project = Project::new();
    let backbone = workspace().join("goldens/backbones/dinov3-vit-mlp");
    let path = format!("backbone.path={}", backbone.display());
    let train = |run_dir: &str, targets: &str| {
        let targets = format!("peft.target_modules={targets}");
        let keys = ["phase=peft", &path, &targets, "peft.use_dora=true"];
        let more: Vec<_> = keys.iter().flat_map(|key| ["--set", key]).collect();
        project.stage1("train", run_dir, &more)
    };
    let refused = train("a", "[query, value]");
    assert_eq!(refused.code, 2, "{refused}");
    for part in ["peft.target_modules", "query", "q_proj"] {
        assert!(refused.stderr.contains(part), "{refused}");
    }
    let trained = train("b", "[q_proj, v_proj]");
    assert_eq!(trained.code, 0, "{trained}");
    let adapter = project.read("b/checkpoints/best/adapter/adapter_config.json");
    let adapter: Value = serde_json::from_slice(&adapter).unwrap();
    assert_eq!(
        adapter["use_dora"], true,
        "DoRA is an option of LoRA: {adapter}"
    );
}

/// Everything after the class token was taken for patches: with four registers 200 of them instead of 196.
#[test]
fn defect_08_registers_are_taken_for_patches() {
    for (name, prefix, side) in [
        ("dinov3-vitb16", 5, 224),
        ("dinov2-with-registers-base", 5, 224),
        ("dinov2-base", 1, 224),
    ] {
        let spec = preset(name).unwrap();
        let (rows, columns) = spec.grid(side, side).unwrap();
        assert_eq!(spec.prefix_tokens(), prefix, "{name}");
        assert_eq!(
            spec.token_count(side, side).unwrap() - prefix,
            rows * columns,
            "{name}"
        );
    }
    assert_eq!(
        preset("dinov3-vitb16").unwrap().grid(224, 224).unwrap(),
        (14, 14)
    );
}

/// Features were computed without a graph, so that adapters could not learn; only the head's gradient was clipped.
#[test]
fn defect_09_adapters_do_not_learn() {
    let project = Project::new();
    let train = |run_dir: &str, more: &[&str]| {
        let keys = [
            "phase=peft",
            "peft.target_modules=[query, value]",
            "peft.learning_rate=0.01",
            "train.ema_decay=0",
        ];
        let more: Vec<_> = keys
            .iter()
            .chain(more)
            .flat_map(|key| ["--set", key])
            .collect();
        let outcome = project.stage1("train", run_dir, &more);
        assert_eq!(outcome.code, 0, "{outcome}");
        project.read(&format!(
            "{run_dir}/checkpoints/best/adapter/adapter_model.safetensors"
        ))
    };
    // B begins at zero.
    let free = largest_b(&train("a", &[]));
    assert!(free > 0.0, "B is still zero");
    // A limit on the norm of all gradients together reaches the adapters, too: Adam divides by what it has seen, and beside
    // its ε so small a gradient moves next to nothing.
    let held = largest_b(&train("b", &["train.max_grad_norm=1e-12"]));
    assert!(held < 1e-3 * free, "{held} {free}");
}

/// The largest value of an adapter's matrices B.
fn largest_b(file: &[u8]) -> f32 {
    let tensors = safetensors::SafeTensors::deserialize(file).unwrap();
    let of_b = tensors
        .tensors()
        .into_iter()
        .filter(|(name, _)| name.contains("lora_B"));
    let bytes: Vec<u8> = of_b.flat_map(|(_, view)| view.data().to_vec()).collect();
    let values = bytes.as_chunks().0.iter();
    values
        .map(|bytes| f32::from_le_bytes(*bytes))
        .fold(0.0, |most, x| most.max(x.abs()))
}

/// A model of 13 classes for binary data, with a loss of NaN, was exported.
#[test]
fn defect_10_a_broken_training_is_exported() {
    let project = Project::new();
    assert_eq!(project.stage1("train", "a", &[]).code, 0);
    let path = project.cli.path("a/checkpoints/best/checkpoint.json");
    let whole: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut thirteen = whole.clone();
    thirteen["head"]["classes"] = 13.into();
    let mut unknown = whole.clone();
    unknown["metrics"]["nll"] = Value::Null;
    for (broken, part) in [(thirteen, "13"), (unknown, "metrics")] {
        fs::write(&path, broken.to_string()).unwrap();
        let outcome = project.stage1("export", "a", &[]);
        assert_eq!(outcome.code, 2, "{outcome}");
        assert!(
            outcome.stderr.contains(part) && outcome.stderr.contains("checkpoint.json"),
            "{outcome}"
        );
        assert!(!project.cli.path("a/bundle/bundle.json").exists());
    }
    // And one that diverges leaves nothing to export.
    let outcome = project.stage1("export", "b", &["--set", "train.learning_rate=1e30"]);
    assert_eq!(outcome.code, 2, "{outcome}");
    assert!(outcome.stderr.contains("diverged"), "{outcome}");
    assert!(!project.cli.path("b/checkpoints/best").exists());
}
