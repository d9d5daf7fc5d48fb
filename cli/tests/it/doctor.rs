//! `stage1 doctor`.

use crate::cli::{Cli, Outcome};

#[test]
fn what_is_missing_is_told_with_the_command_that_mends_it() {
    let cli = Cli::new();
    let nowhere = cli.path("nowhere.so");
    let mut command = cli.command(["doctor", "--json"]);
    command
        .env("ORT_DYLIB_PATH", &nowhere)
        .env("STAGE1_TRAIN_BIN", cli.path("no-trainer"));
    let outcome = Outcome::of(&mut command);
    assert_eq!(outcome.code, 1, "{outcome}");
    let document = outcome.json();
    assert_eq!(document["ok"], false);
    let tried = &document["onnxruntime"]["tried"];
    assert_eq!(
        tried.as_array().unwrap().len(),
        1,
        "a library that was named is the only candidate: {tried}"
    );
    assert_eq!(tried[0]["path"], nowhere.to_str().unwrap());
    assert!(
        document["onnxruntime"]["problem"]["fix"]
            .as_str()
            .unwrap()
            .contains("cargo xtask setup"),
        "{outcome}"
    );
    assert!(
        document["trainer"]["problem"]["problem"]
            .as_str()
            .unwrap()
            .contains("no-trainer"),
        "{outcome}"
    );
    assert!(
        document["trainer"]["problem"]["fix"]
            .as_str()
            .unwrap()
            .contains("cargo build --release -p stage1-trainer")
    );
    assert!(document["cpu"]["threads"].as_u64().unwrap() >= 1);
    assert!(
        document["cpu"]["isa"]
            .as_str()
            .unwrap()
            .starts_with(std::env::consts::ARCH)
    );

    let mut command = cli.command(["doctor"]);
    let text = Outcome::of(
        command
            .env("ORT_DYLIB_PATH", &nowhere)
            .env("STAGE1_TRAIN_BIN", cli.path("no-trainer")),
    );
    assert_eq!(text.code, 1, "{text}");
    for part in [
        "PROBLEM: ONNX Runtime",
        "nowhere.so (ORT_DYLIB_PATH): no such file",
        "mend it: cargo xtask setup",
    ] {
        assert!(text.stdout.contains(part), "{part}\n{text}");
    }
}

/// Needs the ONNX Runtime that `cargo xtask setup` lays out, as everything that runs a model does.
#[cfg(unix)]
#[test]
fn what_is_there_is_started() {
    use std::os::unix::fs::PermissionsExt;
    let cli = Cli::new();
    let trainer = |script: &str| {
        let path = cli.path("stage1-train");
        cli.write("stage1-train", format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = cli.command(["doctor", "--json"]);
        Outcome::of(command.env("STAGE1_TRAIN_BIN", path).env_remove("LIBTORCH"))
    };
    let fine = trainer(
        "test \"$1\" = --about && echo '{\"version\":\"1.2.3\",\"library\":\"/t/lib/libtorch_cpu.so\",\"libtorch\":\"2.11.0\"}'",
    );
    assert_eq!(fine.code, 0, "{fine}");
    let document = fine.json();
    assert_eq!(document["trainer"]["version"], "1.2.3");
    assert_eq!(document["trainer"]["libtorch"], "2.11.0");
    assert_eq!(document["trainer"]["library"], "/t/lib/libtorch_cpu.so");
    assert!(
        document["onnxruntime"]["compiled_providers"]
            .as_array()
            .unwrap()
            .contains(&"cpu".into()),
        "{fine}"
    );
    assert!(
        document["onnxruntime"]["library"]
            .as_str()
            .unwrap()
            .contains("onnxruntime"),
        "{fine}"
    );

    let broken = trainer("echo libtorch.so: cannot open shared object file >&2; exit 127");
    assert_eq!(broken.code, 1, "{broken}");
    let problem = broken.json()["trainer"]["problem"]["problem"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        problem.contains("libtorch.so: cannot open") && problem.contains("127"),
        "{problem}"
    );
}

#[test]
fn a_libtorch_that_is_not_there_is_a_problem() {
    let cli = Cli::new();
    cli.write("trainer", "");
    let mut command = cli.command(["doctor", "--json"]);
    command
        .env("STAGE1_TRAIN_BIN", cli.path("trainer"))
        .env("LIBTORCH", cli.path("nope"));
    let outcome = Outcome::of(&mut command);
    assert_eq!(outcome.code, 1, "{outcome}");
    let problem = outcome.json()["trainer"]["problem"]["problem"].to_string();
    assert!(
        problem.contains("LIBTORCH is ") && problem.contains("nope"),
        "{outcome}"
    );
}
