//! The whole way on tiny data: generated images, a random backbone of 32 dimensions, seconds.

use crate::cli::{Cli, Outcome};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

/// Thirty-six images of each of two classes, told apart by their colour.
fn write_images(root: &Path) {
    for (class, tint) in [("blue", [40, 60, 200]), ("red", [200, 60, 40])] {
        let folder = root.join(class);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..36u32 {
            let mut state = i.wrapping_mul(747_796_405) ^ u32::from(tint[0]);
            let image = image::RgbImage::from_fn(32, 32, |_, _| {
                image::Rgb(tint.map(|value: u8| value.saturating_add(noise(&mut state))))
            });
            image.save(folder.join(format!("{i:02}.png"))).unwrap();
        }
    }
}

/// A small linear congruential generator: the images must be the same everywhere.
fn noise(state: &mut u32) -> u8 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*state >> 24) as u8 / 5
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// `configs/minimal.yaml`, pointed at this test's images.
pub(crate) struct Project {
    pub(crate) cli: Cli,
}

impl Project {
    pub(crate) fn new() -> Self {
        let cli = Cli::new();
        write_images(&cli.path("images"));
        Self { cli }
    }

    pub(crate) fn arguments(&self, verb: &str, run_dir: &str, more: &[&str]) -> Vec<String> {
        let workspace = workspace();
        let config = workspace.join("configs/minimal.yaml");
        let backbone = workspace.join("goldens/backbones/dinov2");
        let set = |key: &str, value: String| ["--set".to_owned(), format!("{key}={value}")];
        let fixed = [
            verb.to_owned(),
            "--config".to_owned(),
            config.display().to_string(),
        ];
        let overrides = [
            set("data.source", self.cli.path("images").display().to_string()),
            set("run_dir", self.cli.path(run_dir).display().to_string()),
            set("backbone.path", backbone.display().to_string()),
            set("threads", "1".to_owned()),
        ];
        let more = more.iter().map(|&s| s.to_owned());
        fixed
            .into_iter()
            .chain(overrides.concat())
            .chain(more)
            .collect()
    }

    pub(crate) fn stage1(&self, verb: &str, run_dir: &str, more: &[&str]) -> Outcome {
        self.cli.run(self.arguments(verb, run_dir, more))
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        let path = self.cli.path(path);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

/// Other architectures, adapters and options than the rest of these tests use; parity between libtorch and the graph is a
/// gate of the run.
#[test]
fn every_kind_of_backbone_goes_the_whole_way() {
    let project = Project::new();
    let goldens = workspace().join("goldens/backbones");
    let set = |key: &str, value: &str| format!("backbone.{key}={}", goldens.join(value).display());
    let uneven = goldens.join("adapters/dora-qkvo/base");
    let uneven = project.cli.with_uneven_periods(&uneven);
    let cases = [
        ("convnext", vec![set("path", "dinov3-convnext")], "convnext"),
        (
            "blocks",
            vec![
                set("path", "dinov3-vit-swiglu"),
                "backbone.blocks=1".to_owned(),
            ],
            "\"layers\":1",
        ),
        (
            "depth",
            vec![
                set("path", "dinov3-vit-swiglu"),
                "backbone.blocks=auto".to_owned(),
                "backbone.depth.tolerance=2.0".to_owned(),
            ],
            "\"layers\":1",
        ),
        (
            "several",
            vec![
                set("path", "dinov3-vit-swiglu"),
                "head.blocks=[1, 2]".to_owned(),
                "export.variants=[fp16, int8]".to_owned(),
            ],
            "\"layers\":2",
        ),
        (
            "adapter",
            vec![
                format!("backbone.path={uneven}"),
                set("adapter", "adapters/dora-qkvo"),
                "backbone.rope_periods=bf16".to_owned(),
            ],
            "bf16",
        ),
    ];
    for (run_dir, keys, mark) in cases {
        let mut more = vec!["--json"];
        more.extend(keys.iter().flat_map(|key| ["--set", key]));
        let outcome = project.stage1("run", run_dir, &more);
        assert!([0, 1].contains(&outcome.code), "{run_dir}: {outcome}");
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert!(report["calibration"]["outcome"].is_string(), "{outcome}");
        assert_eq!(report["depth"].is_object(), run_dir == "depth", "{outcome}");
        let checkpoint = project.read(&format!("{run_dir}/checkpoints/best/checkpoint.json"));
        let checkpoint: Value = serde_json::from_slice(&checkpoint).unwrap();
        let backbone = checkpoint["backbone"].to_string();
        assert!(backbone.contains(mark), "{backbone}");
        let parity = project.read(&format!("{run_dir}/bundle/variants/fp32/parity.json"));
        let parity: Value = serde_json::from_slice(&parity).unwrap();
        assert_eq!(parity["passed"], true, "{parity}");
        for variant in ["fp16", "int8"] {
            let model = format!("{run_dir}/bundle/variants/{variant}/model.onnx");
            let exists = project.cli.path(&model).exists();
            assert_eq!(exists, run_dir == "several", "{model}: {outcome}");
        }
    }
}

/// Each phase's example configuration, on tiny data and a tiny backbone.
#[test]
fn every_example_configuration_goes_the_whole_way() {
    let project = Project::new();
    let configs = workspace().join("configs");
    let tiny = [
        "preprocess.resize={exact: {height: 32, width: 32}}",
        "split.ratios={train: 0.3, val_select: 0.2, val_calib: 0.2, val_test: 0.3}",
        "train.epochs=2",
        "train.batch_size=8",
        "train.learning_rate=0.05",
        "calibrate.alpha=0.3",
        "calibrate.delta=0.2",
    ];
    let pretraining = [
        "explora.epochs=2",
        "explora.batch_size=8",
        "explora.micro_batch_size=4",
        "explora.r=4",
        "explora.warmup_epochs=0.5",
        "explora.teacher_warmup_epochs=1",
        "explora.local_crops={count: 2, size: [16, 16], area: [0.05, 0.32]}",
        "explora.head={prototypes: 32, hidden: 32, bottleneck: 16}",
    ];
    let adapting = ["train.micro_batch_size=4", "peft.head_warmup_epochs=1"];
    let cases = [
        ("peft", adapting.to_vec()),
        ("explora", pretraining.to_vec()),
        ("explora-supervised", [&pretraining[..], &adapting].concat()),
        ("gate", vec!["head.hidden=16"]),
    ];
    for (name, keys) in cases {
        let config = configs.join(format!("{name}.yaml")).display().to_string();
        let mut arguments = project.arguments("run", name, &["--json"]);
        arguments[2] = config;
        for key in tiny.iter().chain(&keys) {
            arguments.extend(["--set".to_owned(), (*key).to_owned()]);
        }
        let outcome = project.cli.run(&arguments);
        assert!([0, 1].contains(&outcome.code), "{name}: {outcome}");
        let manifest: Value =
            serde_json::from_slice(&project.read(&format!("{name}/bundle/bundle.json"))).unwrap();
        assert_eq!(manifest["provenance"]["phase"], name);
        let parity = project.read(&format!("{name}/bundle/variants/fp32/parity.json"));
        let parity: Value = serde_json::from_slice(&parity).unwrap();
        assert_eq!(parity["passed"], true, "{parity}");
        let trained = format!("{name}/explora/explora.json");
        assert_eq!(
            project.cli.path(&trained).exists(),
            name.contains("explora")
        );
        if !name.contains("explora") {
            continue;
        }
        let record: Value = serde_json::from_slice(&project.read(&trained)).unwrap();
        assert_eq!(record["steps"], 4, "{record}");
        assert_ne!(record["backbone_digest"], record["base_digest"]);
        // Again, it is up to date; and what it says first is what would be trained.
        let again = project.cli.run(&arguments);
        assert_eq!(again.code, outcome.code, "{again}");
        assert!(
            again
                .stderr
                .contains("self-supervised training: up to date"),
            "{again}"
        );
        arguments[0] = "train".to_owned();
        arguments.push("--dry-run".to_owned());
        let plan = project.cli.run(&arguments).json();
        assert_eq!(plan["before"]["done"], true, "{plan}");
        assert_eq!(plan["before"]["steps_per_epoch"], 2, "{plan}");
    }
}

#[test]
fn one_command_makes_a_certified_bundle_that_answers() {
    let project = Project::new();
    let first = project.stage1("run", "a", &["--json"]);
    assert_eq!(first.code, 0, "{first}");
    let report: Value = serde_json::from_str(&first.stdout).unwrap();
    assert_eq!(report["calibration"]["outcome"], "certified", "{first}");
    assert!(
        ["HELD", "INCONCLUSIVE"].contains(&report["validation"]["verdict"].as_str().unwrap()),
        "{first}"
    );
    for artifact in [
        "splits.json",
        "config.yaml",
        "metrics.jsonl",
        "checkpoints/best/checkpoint.json",
        "validation.json",
    ] {
        assert!(project.cli.path("a").join(artifact).is_file(), "{artifact}");
    }

    // How the reported probability's family was chosen is told by each command.
    let selection = &report["calibrator_selection"];
    assert_eq!(selection["candidates"][0]["choice"], "none", "{selection}");
    let again = project.stage1("calibrate", "a", &["--json"]);
    assert_eq!(again.code, 0, "{again}");
    assert_eq!(&again.json()["calibrator_selection"], selection, "{again}");
    let text = project.stage1("report", "a", &[]);
    assert!(text.stdout.contains("reported probability"), "{text}");

    let bundle = project.cli.path("a/bundle").display().to_string();
    let image = project.cli.path("images/red/00.png").display().to_string();
    let broken = project.cli.path("broken.png");
    fs::write(&broken, b"\x89PNG\r\n\x1a\nthis is not a picture").unwrap();
    let predict = project.cli.run([
        "predict",
        "--json",
        "--bundle",
        &bundle,
        &image,
        &broken.display().to_string(),
    ]);
    assert_eq!(predict.code, 1, "one of two could not be judged: {predict}");
    let records: Vec<Value> = predict
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(records.len(), 2, "{predict}");
    assert_eq!(records[0]["certified"], true, "{predict}");
    assert_eq!(records[0]["logits"].as_array().unwrap().len(), 2);
    assert!(["answer", "defer"].contains(&records[0]["decision"].as_str().unwrap()));
    assert_eq!(records[1]["decision"], "error");
    assert!(
        records[1]["error"].as_str().unwrap().contains("broken.png"),
        "{predict}"
    );

    // What `predict` writes is what `monitor` reads, with the logits that the run left beside the bundle.
    project.cli.write("log.jsonl", &predict.stdout);
    let watch = ["monitor", "--json", "--bundle", &bundle, "log.jsonl"];
    let watched = project.cli.run(watch);
    assert_eq!(watched.code, 0, "{watched}");
    let watched = watched.json();
    assert_eq!(
        (&watched["rows"]["new"], &watched["rows"]["not_judged"]),
        (&1.into(), &1.into())
    );
    assert!(
        watched["drift"]["calib_rows"].as_u64() > Some(0),
        "{watched}"
    );

    let bench = project.cli.run([
        "bench",
        "--json",
        "--bundle",
        &bundle,
        &image,
        "--iterations",
        "5",
        "--warmup",
        "1",
    ]);
    assert_eq!(bench.code, 0, "{bench}");
}

#[test]
fn a_second_run_reuses_everything_and_another_folder_gives_the_same_bytes() {
    let project = Project::new();
    let first = project.stage1("run", "a", &[]);
    assert_eq!(first.code, 0, "{first}");
    let kept = [
        "a/splits.json",
        "a/bundle/bundle.json",
        "a/bundle/variants/fp32/policy.json",
        "a/checkpoints/best/checkpoint.json",
    ];
    let before: Vec<_> = kept.iter().map(|path| project.read(path)).collect();

    let again = project.stage1("run", "a", &[]);
    assert_eq!((again.code, &again.stdout), (0, &first.stdout), "{again}");
    for step in ["split", "train", "export", "calibrate", "validate"] {
        assert!(
            again.stderr.contains(&format!("{step}: up to date")),
            "{step}\n{again}"
        );
    }
    for (path, bytes) in kept.iter().zip(&before) {
        assert_eq!(&project.read(path), bytes, "{path} was rewritten");
    }

    let elsewhere = project.stage1("run", "deep/er/b", &[]);
    assert_eq!(elsewhere.code, 0, "{elsewhere}");
    for file in [
        "splits.json",
        "bundle/bundle.json",
        "bundle/variants/fp32/policy.json",
    ] {
        assert_eq!(
            project.read(&format!("deep/er/b/{file}")),
            project.read(&format!("a/{file}")),
            "{file}"
        );
    }
    let policy = String::from_utf8(project.read("a/bundle/variants/fp32/policy.json")).unwrap();
    assert!(
        !policy.contains(&*project.cli.path("").to_string_lossy()),
        "{policy}"
    );
}

#[test]
fn other_settings_do_not_silently_replace_results() {
    let project = Project::new();
    assert_eq!(project.stage1("run", "a", &[]).code, 0);
    let checkpoint = project.read("a/checkpoints/best/checkpoint.json");
    let refused = project.stage1("run", "a", &["--set", "train.learning_rate=0.02"]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.stderr.contains("--overwrite"), "{refused}");
    assert_eq!(
        project.read("a/checkpoints/best/checkpoint.json"),
        checkpoint
    );

    let replaced = project.stage1(
        "run",
        "a",
        &["--set", "train.learning_rate=0.02", "--overwrite"],
    );
    assert_eq!(replaced.code, 0, "{replaced}");
    assert_ne!(
        project.read("a/checkpoints/best/checkpoint.json"),
        checkpoint
    );
    assert!(
        replaced.stdout.contains("attempt 2"),
        "a second attempt on this val_calib must be told:\n{replaced}"
    );
}

#[test]
fn attempts_can_not_be_paid_for_afterwards() {
    let project = Project::new();
    assert_eq!(project.stage1("run", "a", &[]).code, 0);
    let spending = ["--set", "calibrate.attempts=spending", "--overwrite"];
    let late = project.stage1("run", "a", &spending);
    assert_eq!(late.code, 2, "{late}");
    assert!(late.stderr.contains("before the first attempt"), "{late}");
    assert_eq!(project.stage1("report", "a", &[]).code, 0);
    // A new run directory has the same val_calib, and its ledger: only other splits start anew.
    let beside = project.stage1("run", "b", &spending[..2]);
    assert_eq!(beside.code, 2, "{beside}");
    assert!(
        beside.stderr.contains("before the first attempt"),
        "{beside}"
    );
    let other = [&spending[..2], &["--set", "split.seed=7"]].concat();
    assert_ne!(project.stage1("run", "c", &other).code, 2);
}

#[test]
fn a_new_run_directory_is_another_attempt_and_another_opening() {
    let project = Project::new();
    assert_eq!(project.stage1("run", "a", &[]).code, 0);
    let second = project.stage1("run", "b", &["--set", "train.learning_rate=0.02", "--json"]);
    assert_ne!(second.code, 2, "{second}");
    let report: Value = serde_json::from_str(&second.stdout).unwrap();
    assert_eq!(report["calibration"]["attempt"], 2, "{second}");
    assert_eq!(report["validation"]["opening"], 2, "{second}");
}

#[test]
fn constraints_procedure_and_score_are_the_configurations() {
    let project = Project::new();
    let settings = [
        "--set",
        "calibrate.constraints=[{kind: selective_error, alpha: 0.3}, {kind: coverage, at_least: 0.2}]",
        "--set",
        "calibrate.procedure=holm",
        "--set",
        "calibrate.score=margin",
        "--json",
    ];
    let outcome = project.stage1("run", "a", &settings);
    assert_eq!(outcome.code, 0, "{outcome}");
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let calibration = &report["calibration"];
    assert_eq!(calibration["procedure"], "holm", "{outcome}");
    assert_eq!(calibration["claims"][1]["constraint"]["kind"], "coverage");
    assert_eq!(report["validation"]["checks"].as_array().unwrap().len(), 2);
    let policy: Value =
        serde_json::from_slice(&project.read("a/bundle/variants/fp32/policy.json")).unwrap();
    assert_eq!(policy["score"]["kind"], "margin");

    let gate = project.stage1("run", "b", &["--set", "calibrate.score=gate"]);
    assert_eq!(gate.code, 2, "{gate}");
    assert!(gate.stderr.contains("no `gate` column"), "{gate}");
}

#[test]
fn attempts_that_were_paid_for_bind_the_later_ones() {
    let project = Project::new();
    let spending = ["--set", "calibrate.attempts=spending"];
    assert_eq!(project.stage1("calibrate", "a", &spending).code, 0);
    let refused = project.stage1("calibrate", "a", &["--overwrite"]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.stderr.contains("keep `spending`"), "{refused}");
    // Nor may a later one spend more than the first promised for all.
    let more = ["calibrate.attempts=spending", "calibrate.delta=0.9"].map(|key| ["--set", key]);
    let more = [&more.concat()[..], &["--overwrite"]].concat();
    let refused = project.stage1("calibrate", "a", &more);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(
        refused.stderr.contains("calibrate.delta: attempt"),
        "{refused}"
    );
}

#[test]
fn a_bundle_of_other_splits_is_not_judged() {
    let project = Project::new();
    assert_eq!(project.stage1("run", "a", &[]).code, 0);
    let other = ["--set", "split.seed=7"];
    let split = project.stage1("split", "a", &[&other[..], &["--overwrite"]].concat());
    assert_eq!(split.code, 0, "{split}");
    for verb in ["validate", "report"] {
        let refused = project.stage1(verb, "a", &other);
        assert_eq!(refused.code, 2, "{verb}: {refused}");
        assert!(
            refused.stderr.contains("was made from other splits"),
            "{verb}: {refused}"
        );
    }
}

#[test]
fn the_level_of_the_verdict_is_not_chosen_afterwards() {
    let project = Project::new();
    assert_eq!(project.stage1("run", "a", &[]).code, 0);
    let verdict = project.read("a/validation.json");
    for gamma in ["0.4", "0.0001"] {
        let gamma = format!("validate.gamma={gamma}");
        let refused = project.stage1("validate", "a", &["--set", &gamma]);
        assert_eq!(refused.code, 2, "{refused}");
        assert!(
            refused.stderr.contains("opened val_test at gamma 0.05"),
            "{refused}"
        );
    }
    assert_eq!(project.read("a/validation.json"), verdict);
    let again = project.stage1("validate", "a", &["--require-held"]);
    let held = String::from_utf8_lossy(&verdict).contains("\"HELD\"");
    assert_eq!(again.code, i32::from(!held), "{again}");
}

#[test]
fn the_pixel_limit_and_the_calibrator_are_those_of_the_configuration() {
    let project = Project::new();
    let refused = project.stage1("run", "a", &["--set", "calibrate.calibrator=sms"]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.stderr.contains("calibrate.calibrator"), "{refused}");
    assert!(
        !project.cli.path("a/metrics.jsonl").exists(),
        "it trained first"
    );

    let refused = project.stage1("run", "b", &["--set", "preprocess.resize.exact.width=33"]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.stderr.contains("`preprocess`"), "{refused}");
    assert!(
        !project.cli.path("b/splits.json").exists(),
        "it divided first"
    );

    let small = ["--set", "data.max_pixels=1024"];
    assert_eq!(project.stage1("run", "c", &small).code, 0);
    let bundle = project.cli.path("c/bundle").display().to_string();
    let image = project.cli.path("images/red/00.png").display().to_string();
    let predict = |limit: &str| {
        let words = [
            "predict",
            "--json",
            "--bundle",
            &bundle,
            &image,
            "--max-pixels",
            limit,
        ];
        project.cli.run(words)
    };
    assert_ne!(predict("1024").json()["decision"], "error");
    let refused = predict("1023");
    assert_eq!(refused.json()["decision"], "error", "{refused}");
}

#[test]
fn absolute_paths_in_a_list_and_other_files_in_a_folder() {
    let project = Project::new();
    let mut list = "path,label\n".to_owned();
    for class in ["blue", "red"] {
        for i in 0..36 {
            let path = project.cli.path(&format!("images/{class}/{i:02}.png"));
            list += &format!("{},{class}\n", path.display());
        }
    }
    project.cli.write("list.csv", list);
    let listed = project.stage1("split", "a", &["--set", "data.source=list.csv"]);
    assert_eq!(listed.code, 0, "{listed}");

    project.cli.write("images/red/37.heic", "not read here");
    let split = project.stage1("split", "b", &[]);
    assert_eq!(split.code, 0, "{split}");
    assert!(split.stderr.contains("warning: left out"), "{split}");
    assert!(split.stderr.contains("37.heic"), "{split}");
}

#[test]
fn renamed_classes_are_refused() {
    let project = Project::new();
    assert_eq!(project.stage1("run", "a", &[]).code, 0);
    let manifest = project.cli.path("a/bundle/bundle.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let swapped = text
        .replace("\"blue\"", "\"?\"")
        .replace("\"red\"", "\"blue\"")
        .replace("\"?\"", "\"red\"");
    assert_ne!(swapped, text);
    fs::write(&manifest, swapped).unwrap();
    let bundle = project.cli.path("a/bundle").display().to_string();
    let image = project.cli.path("images/red/00.png").display().to_string();
    let refused = project.cli.run(["predict", "--bundle", &bundle, &image]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(
        refused.stderr.contains("its model was exported with"),
        "{refused}"
    );
}

#[test]
fn a_missing_ledger_is_told() {
    let project = Project::new();
    assert_eq!(project.stage1("run", "a", &[]).code, 0);
    for entry in fs::read_dir(project.cli.path("a")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with("ledger.jsonl") {
            fs::remove_file(path).unwrap();
        }
    }
    // The data's folder has another one.
    let report = project.stage1("report", "a", &[]);
    assert!(!report.stdout.contains("LEDGER UNKNOWN"), "{report}");
    fs::remove_dir_all(project.cli.path("images/.stage1")).unwrap();
    let report = project.stage1("report", "a", &[]);
    assert!(report.stdout.contains("LEDGER UNKNOWN"), "{report}");
}

#[test]
fn a_run_killed_at_any_time_continues_and_ends_the_same() {
    let project = Project::new();
    let whole = project.stage1("run", "whole", &[]);
    assert_eq!(whole.code, 0, "{whole}");
    let mut killed = 0;
    for delay in (0..).map(|step| Duration::from_millis(60 + 140 * step)) {
        let mut child = project
            .cli
            .command(project.arguments("run", "killed", &[]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(delay);
        if let Some(status) = child.try_wait().unwrap() {
            assert_eq!(status.code(), Some(0));
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
    }
    assert!(killed > 0, "nothing was interrupted");
    let last = project.stage1("run", "killed", &[]);
    assert_eq!(last.code, 0, "{last}");
    for file in [
        "splits.json",
        "bundle/variants/fp32/policy.json",
        "bundle/variants/fp32/model.onnx",
    ] {
        assert_eq!(
            project.read(&format!("killed/{file}")),
            project.read(&format!("whole/{file}")),
            "{file}"
        );
    }
    let log = String::from_utf8(project.read("killed/metrics.jsonl")).unwrap();
    for line in log.lines() {
        let epoch = serde_json::from_str::<Value>(line);
        assert!(epoch.is_ok_and(|epoch| epoch["epoch"] == 1), "{line:?}");
    }
    let everywhere = ["killed", "cache"].map(|name| walk(&project.cli.path(name)));
    let leftovers: Vec<_> = everywhere
        .concat()
        .into_iter()
        .filter(|name| name.contains(".partial-"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[test]
fn what_can_not_be_certified_is_said_and_exits_1() {
    let project = Project::new();
    let outcome = project.stage1("run", "a", &["--set", "calibrate.alpha=0.001", "--json"]);
    assert_eq!(outcome.code, 1, "{outcome}");
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(
        report["calibration"]["outcome"], "not_certified",
        "{outcome}"
    );
    assert!(
        report["calibration"]["needed_answered_if_no_error"]
            .as_u64()
            .unwrap()
            > 1000,
        "{outcome}"
    );
    assert!(
        !project
            .cli
            .path("a/bundle/variants/fp32/policy.json")
            .exists()
    );

    let bundle = project.cli.path("a/bundle").display().to_string();
    let image = project.cli.path("images/red/00.png").display().to_string();
    let refused = project.cli.run(["predict", "--bundle", &bundle, &image]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.stderr.contains("calibrate"), "{refused}");
}

#[test]
fn a_run_that_diverges_exports_nothing() {
    let project = Project::new();
    let outcome = project.stage1(
        "run",
        "a",
        &[
            "--set",
            "train.learning_rate=1e38",
            "--set",
            "train.epochs=3",
        ],
    );
    assert_eq!(outcome.code, 2, "{outcome}");
    assert!(outcome.stderr.contains("training diverged"), "{outcome}");
    assert!(
        !project.cli.path("a/bundle").exists() && !project.cli.path("a/checkpoints/best").exists()
    );
}

#[test]
fn bad_images_and_changed_files_are_named() {
    let project = Project::new();
    let bad = project.cli.path("images/red/05.png");
    let whole = fs::read(&bad).unwrap();
    fs::write(&bad, &whole[..whole.len() / 2]).unwrap();
    let refused = project.stage1("run", "a", &[]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(
        refused.stderr.contains("05.png") && refused.stderr.contains("on_bad_image"),
        "{refused}"
    );

    let skipped = project.stage1("split", "a", &["--set", "data.on_bad_image=skip"]);
    assert_eq!(skipped.code, 0, "{skipped}");
    assert!(
        skipped.stderr.contains("05.png") || skipped.stdout.contains("05.png"),
        "{skipped}"
    );

    let fresh = project.stage1("split", "b", &["--set", "data.on_bad_image=skip"]);
    assert_eq!(fresh.code, 0, "{fresh}");
    fs::copy(
        project.cli.path("images/blue/01.png"),
        project.cli.path("images/red/06.png"),
    )
    .unwrap();
    let changed = project.stage1("run", "b", &["--set", "data.on_bad_image=skip"]);
    assert_eq!(changed.code, 2, "{changed}");
    assert!(changed.stderr.contains("06.png"), "{changed}");
}

/// Every file name below `root`.
pub(crate) fn walk(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(walk(&path));
        } else {
            names.push(path.display().to_string());
        }
    }
    names
}
