//! What goes wrong beside a run: it is killed, started twice, told to overwrite, or its files are lost.

use crate::pipeline::Project;
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

/// More epochs than anyone waits for.
const ENDLESS: [&str; 4] = [
    "--set",
    "train.epochs=1000000",
    "--set",
    "train.early_stop.patience=1000000",
];

/// A run that trains for ever, once its first epoch has ended.
fn endless(project: &Project) -> std::process::Child {
    let mut child = project
        .cli
        .command(project.arguments("run", "a", &ENDLESS))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // The pipe must stay open, and be emptied, for as long as the child lives.
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if line.contains("epoch ") {
                _ = sender.send(());
            }
        }
    });
    receiver.recv_timeout(Duration::from_secs(120)).unwrap();
    child
}

#[test]
fn the_trainer_ends_with_the_command_that_started_it() {
    let project = Project::new();
    let mut child = endless(&project);
    child.kill().unwrap();
    child.wait().unwrap();
    let log = project.cli.path("a/metrics.jsonl");
    let size = || fs::metadata(&log).unwrap().len();
    let stands_still = || {
        let before = size();
        thread::sleep(Duration::from_millis(700));
        size() == before
    };
    let killed = Instant::now();
    while !stands_still() {
        assert!(
            killed.elapsed() < Duration::from_secs(20),
            "an orphan goes on training"
        );
    }
    let again = project.stage1("run", "a", &[]);
    assert_eq!(again.code, 0, "{again}");
}

#[test]
fn two_commands_do_not_share_a_run_directory() {
    let project = Project::new();
    let mut child = endless(&project);
    let refused = project.stage1("run", "a", &ENDLESS);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(refused.code, 2, "{refused}");
    assert!(
        refused.stderr.contains("another process is at work"),
        "{refused}"
    );
}

#[test]
fn half_written_files_are_swept_wherever_they_are() {
    let project = Project::new();
    let names = [
        "a/logits/.partial-x",
        "a/.partial-y",
        "cache/features/.partial-z",
    ];
    for name in names {
        project.cli.write(name, "half");
    }
    assert_eq!(project.stage1("run", "a", &[]).code, 0);
    for name in names {
        assert!(!project.cli.path(name).exists(), "{name}");
    }
}

#[test]
fn only_split_and_run_divide_again_and_they_say_what_it_costs() {
    let project = Project::new();
    assert_eq!(project.stage1("run", "a", &[]).code, 0);
    let splits = project.read("a/splits.json");
    let other = ["--overwrite", "--set", "split.seed=7"];
    for verb in ["train", "export", "calibrate", "validate"] {
        let refused = project.stage1(verb, "a", &other);
        assert_eq!(refused.code, 2, "{verb}: {refused}");
        assert!(
            refused.stderr.contains("stage1 split --overwrite"),
            "{verb}: {refused}"
        );
        assert_eq!(project.read("a/splits.json"), splits, "{verb}");
    }
    let same = project.stage1("split", "a", &["--overwrite"]);
    assert!(!same.stderr.contains("void"), "{same}");
    let again = project.stage1("split", "a", &other);
    assert_eq!(again.code, 0, "{again}");
    assert!(
        again.stderr.contains("val_calib and val_test are new") && again.stderr.contains("void"),
        "{again}"
    );
    assert_ne!(project.read("a/splits.json"), splits);
}

#[test]
fn lost_or_damaged_logits_are_scored_again_by_the_same_opening() {
    let project = Project::new();
    let first = project.stage1("run", "a", &[]);
    assert_eq!(first.code, 0, "{first}");
    let path = project.cli.path("a/logits/val_test.safetensors");
    let bytes = fs::read(&path).unwrap();
    type Damage = fn(&Path);
    let cases: [(&str, Damage); 3] = [
        ("gone", |path| fs::remove_file(path).unwrap()),
        ("without a stamp", |path| {
            fs::remove_file(path.with_extension("json")).unwrap();
        }),
        ("tampered", |path| {
            let mut bytes = fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (name, damage) in cases {
        damage(&path);
        let refused = project.stage1("report", "a", &[]);
        assert_eq!(refused.code, 2, "{name}: {refused}");
        let again = project.stage1("run", "a", &[]);
        assert_eq!(
            (again.code, &again.stdout),
            (0, &first.stdout),
            "{name}: {again}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes, "{name}");
    }
}

#[test]
fn bad_images_that_no_split_has_read_are_skipped_throughout_and_counted() {
    let project = Project::new();
    let unread = ["--set", "data.content=none"];
    let skip = [&unread[..], &["--set", "data.on_bad_image=skip", "--json"]].concat();
    assert_eq!(project.stage1("split", "a", &skip).code, 0);
    let splits: Value = serde_json::from_slice(&project.read("a/splits.json")).unwrap();
    let samples = splits["samples"].as_array().unwrap();
    for split in ["train", "val_select", "val_calib", "val_test"] {
        let sample = samples.iter().find(|s| s["split"] == split).unwrap();
        let path = project
            .cli
            .path("images")
            .join(sample["path"].as_str().unwrap());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    }
    for quiet in [&[][..], &["--quiet"]] {
        let run_dir = if quiet.is_empty() { "a" } else { "b" };
        let run = project.stage1("run", run_dir, &[&skip, quiet].concat());
        assert!([0, 1].contains(&run.code), "{run}");
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        for split in ["val_select", "val_calib"] {
            assert_eq!(report["left_out"][split], 1, "{run}");
            let told = format!("warning: 1 image(s) of {split} can't be decoded");
            assert!(run.stderr.contains(&told), "{run}");
        }
        // The trainer's own warning, relayed.
        let told = "warning: 2 image(s) can't be decoded and were left out of the training";
        assert!(run.stderr.contains(told), "{run}");
        assert!(!run.stderr.contains("\"event\""), "{run}");
        assert!(!run.stderr.contains("or set `data.on_bad_image"), "{run}");
        assert!(
            quiet.is_empty() || run.stderr.lines().all(|l| l.starts_with("warning")),
            "{run}"
        );
    }
    let refused = project.stage1("run", "c", &unread);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(
        refused.stderr.contains("data.on_bad_image: skip"),
        "{refused}"
    );
}

#[test]
fn results_do_not_lie_among_the_images() {
    let project = Project::new();
    let refused = project.stage1("run", "images/runs/a", &[]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(
        refused.stderr.contains("run_dir") && refused.stderr.contains("every folder is a class"),
        "{refused}"
    );
    assert!(!project.cli.path("images/runs").exists());
    assert_eq!(project.stage1("split", "images/.stage1/a", &[]).code, 0);
}

#[test]
fn a_bundle_of_other_export_settings_is_called_that() {
    let project = Project::new();
    assert_eq!(project.stage1("run", "a", &[]).code, 0);
    let tolerance = ["--set", "export.parity_tolerance=0.001"];
    let refused = project.stage1("export", "a", &tolerance);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.stderr.contains("under other settings"), "{refused}");
    let digest = |run_dir| {
        let bundle = project.read(&format!("{run_dir}/bundle/bundle.json"));
        serde_json::from_slice::<Value>(&bundle).unwrap()["provenance"]["config_digest"].clone()
    };
    let smoothed = ["--set", "train.label_smoothing=0.1"];
    project.stage1("run", "b", &smoothed);
    assert_ne!(digest("a"), digest("b"));
}

#[cfg(unix)]
#[test]
fn what_the_trainer_said_before_it_failed_is_shown() {
    use std::os::unix::fs::PermissionsExt as _;
    let project = Project::new();
    let script =
        "#!/bin/sh\necho out of memory in conv2d >&2\necho error: libtorch failed >&2\nexit 2\n";
    project.cli.write("trainer", script);
    let program = project.cli.path("trainer");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |program: &Path| {
        let mut command = project.cli.command(project.arguments("run", "a", &[]));
        crate::cli::Outcome::of(command.env("STAGE1_TRAIN_BIN", program))
    };
    let failed = run(&program);
    assert_eq!(failed.code, 2, "{failed}");
    for part in [
        "training failed: libtorch failed",
        "out of memory in conv2d",
    ] {
        assert!(failed.stderr.contains(part), "{failed}");
    }
    let missing = run(&project.cli.path("nowhere"));
    assert!(!missing.stderr.contains("reading images"), "{missing}");
    assert!(!missing.stderr.contains("checking images"), "{missing}");
}
