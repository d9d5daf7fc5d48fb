//! `cargo xtask ci`: every check, one after the other, with the time of each.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::layers;
use crate::native;
use crate::progress::say;
use crate::readme;
use crate::repository;
use crate::workspace::{Workspace, finished_well, perform};

/// One check.
struct Stage {
    name: &'static str,
    run: fn(&Workspace) -> Result<()>,
    /// Whether it makes no sense once set-up has failed.
    needs_set_up: bool,
}

const SET_UP: &str = "setup";

/// The quick ones first, so that a small slip is reported soon.
const STAGES: [Stage; 8] = [
    Stage {
        name: "format",
        run: format,
        needs_set_up: false,
    },
    Stage {
        name: "layers",
        run: layers::check,
        needs_set_up: false,
    },
    Stage {
        name: "repository",
        run: repository_checks,
        needs_set_up: false,
    },
    Stage {
        name: SET_UP,
        run: set_up,
        needs_set_up: false,
    },
    Stage {
        name: "clippy",
        run: clippy,
        needs_set_up: true,
    },
    Stage {
        name: "docs",
        run: docs,
        needs_set_up: true,
    },
    Stage {
        name: "README's tests",
        run: readme_tests,
        needs_set_up: true,
    },
    Stage {
        name: "configs",
        run: configs,
        needs_set_up: true,
    },
];

/// What became of a stage.
struct Outcome {
    name: &'static str,
    time: Duration,
    result: &'static str,
}

/// Runs all stages, also after one has failed, and prints the table.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let mut outcomes = Vec::new();
    let mut is_set_up = true;
    for stage in STAGES {
        let start = Instant::now();
        let result = if stage.needs_set_up && !is_set_up {
            "not run"
        } else {
            attempt(&stage, workspace)
        };
        is_set_up &= stage.name != SET_UP || result == PASSED;
        outcomes.push(Outcome {
            name: stage.name,
            time: start.elapsed(),
            result,
        });
    }
    println!("{}", table(&outcomes));
    let passed = outcomes.iter().all(|outcome| outcome.result == PASSED);
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

const PASSED: &str = "passed";

fn attempt(stage: &Stage, workspace: &Workspace) -> &'static str {
    say(format!("\n== {} ==", stage.name));
    match (stage.run)(workspace) {
        Ok(()) => PASSED,
        Err(error) => {
            say(format!("error: {}: {error:#}", stage.name));
            "FAILED"
        }
    }
}

fn table(outcomes: &[Outcome]) -> String {
    let width = outcomes
        .iter()
        .map(|outcome| outcome.name.len())
        .max()
        .unwrap_or(0)
        .max("stage".len());
    let mut lines = vec![format!("\n{:width$}  {:>7}  result", "stage", "time")];
    for Outcome { name, time, result } in outcomes {
        lines.push(format!("{name:width$}  {:>7}  {result}", clock(*time)));
    }
    lines.push(format!(
        "{:width$}  {:>7}",
        "all",
        clock(outcomes.iter().map(|outcome| outcome.time).sum())
    ));
    lines.join("\n")
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round();
    format!("{}:{:02}", (seconds / 60.0).floor(), seconds % 60.0)
}

fn format(workspace: &Workspace) -> Result<()> {
    component(workspace, "fmt", "rustfmt")?;
    perform(&mut workspace.cargo(["fmt", "--all", "--check"]))
}

fn repository_checks(workspace: &Workspace) -> Result<()> {
    repository::check_nothing_is_ignored(workspace)?;
    repository::check_map_is_complete(workspace)
}

fn set_up(workspace: &Workspace) -> Result<()> {
    native::set_up(workspace, &native::Options::default())
}

/// All packages at once, the trainer against the real libtorch: the features of dependencies are then those of the test
/// run, whose build of torch-sys is shared.
fn clippy(workspace: &Workspace) -> Result<()> {
    component(workspace, "clippy", "clippy")?;
    let arguments = [
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ];
    build(workspace.cargo(arguments))
}

fn docs(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo(["doc", "--release", "--workspace", "--no-deps"]);
    command.env("RUSTDOCFLAGS", "--deny warnings");
    build(command)
}

/// The README's own command, so that what is promised there is what is checked.
fn readme_tests(workspace: &Workspace) -> Result<()> {
    let words = readme::test_command(workspace)?;
    let (program, arguments) = words
        .split_first()
        .context("the README's test command is empty")?;
    ensure!(
        program == "cargo",
        "the README's test command starts with `{program}`, expected `cargo`"
    );
    let line = words.join(" ");
    say(format!("$ {line}"));
    let status = workspace
        .cargo(arguments)
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    finished_well(status, &line)
}

/// Every file in `configs/` must be one that the program accepts.
fn configs(workspace: &Workspace) -> Result<()> {
    build(workspace.cargo(["build", "--release", "--workspace", "--bins", "--tests"]))?;
    let stage1 = workspace.release_dir()?.join("stage1");
    let folder = workspace.path("configs");
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    files.sort();
    ensure!(
        !files.is_empty(),
        "{} holds no .yaml file",
        folder.display()
    );
    for file in files {
        perform(
            Command::new(&stage1)
                .args(["--quiet", "config", "show", "--config"])
                .arg(&file)
                .current_dir(workspace.root()),
        )?;
    }
    Ok(())
}

fn build(mut command: Command) -> Result<()> {
    native::name_compiler(&mut command);
    perform(&mut command)
}

/// Fails, saying how to get it, if a part of the Rust toolchain is missing.
fn component(workspace: &Workspace, subcommand: &str, name: &str) -> Result<()> {
    let output = workspace
        .cargo([subcommand, "--version"])
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "`cargo {subcommand}` is missing: get it with `rustup component add {name}`"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_each_stage_its_time_and_the_sum() {
        let outcome = |name, seconds, result| Outcome {
            name,
            time: Duration::from_secs(seconds),
            result,
        };
        let text = table(&[
            outcome("format", 2, PASSED),
            outcome("README's tests", 83, "FAILED"),
        ]);
        let lines: Vec<&str> = text.trim_start().lines().collect();
        assert_eq!(lines[1], "format             0:02  passed");
        assert_eq!(lines[2], "README's tests     1:23  FAILED");
        assert_eq!(
            lines[3].split_whitespace().collect::<Vec<_>>(),
            ["all", "1:25"]
        );
    }

    #[test]
    fn a_failing_stage_does_not_pass() {
        let workspace = Workspace::find().unwrap();
        let stage = Stage {
            name: "bad",
            run: |_| anyhow::bail!("no"),
            needs_set_up: false,
        };
        assert_eq!(attempt(&stage, &workspace), "FAILED");
    }

    #[test]
    fn set_up_is_a_stage_and_comes_before_what_needs_it() {
        let place = STAGES
            .iter()
            .position(|stage| stage.name == SET_UP)
            .unwrap();
        assert!(STAGES[..=place].iter().all(|stage| !stage.needs_set_up));
        assert!(STAGES[place + 1..].iter().all(|stage| stage.needs_set_up));
    }
}
