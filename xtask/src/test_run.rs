//! `cargo xtask test`: everything that can be tested here, in one run, with one sum at its end.

use std::env;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::native;
use crate::progress::say;
use crate::python;
use crate::workspace::{Workspace, command_line, finished_well, perform};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Options {
    /// Read the golden files from this folder instead of the copies in `goldens/` (same layout).
    #[arg(long, value_name = "DIR")]
    goldens: Option<PathBuf>,
    /// Also run the tests that call other software in Python; makes an environment of exact versions for them (5 GB in
    /// `.native/python`, once), and fails if that can't be made.
    #[arg(long)]
    python: bool,
    /// Arguments for `cargo test`, such as `-p stage1-core` or part of a test's name.
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

/// The tests that call Python, which are ignored elsewhere: those of the modules `python` of the integration tests. All
/// packages together, as in [`build`].
const PYTHON_TESTS: [&str; 9] = [
    "test",
    "--release",
    "--no-fail-fast",
    "--workspace",
    "--test",
    "it",
    "--",
    "--ignored",
    PYTHON_MODULE,
];

/// What the names of those tests begin with.
const PYTHON_MODULE: &str = "python::";

/// Sets up, builds everything, and runs the tests of all packages.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let goldens = options.goldens.as_deref().map(golden_folder).transpose()?;
    native::set_up(workspace, &native::Options::default())?;
    // First of all: what can't be made must not be found out after all other tests.
    let python = options
        .python
        .then(|| python::provide(workspace))
        .transpose()?;
    let selection = selection(&options.arguments);
    let trainer = build(workspace, &selection)?;

    let mut command = workspace.cargo(["test", "--release", "--no-fail-fast"]);
    command
        .args(selection)
        .args(&options.arguments)
        .env("STAGE1_TRAIN_BIN", &trainer);
    native::name_compiler(&mut command);
    if let Some(folder) = &goldens {
        command.env("STAGE1_GOLDENS", folder);
    }
    let (mut summary, mut finished) = watch(&mut command)?;
    if let Some(python) = &python {
        let mut command = workspace.cargo(PYTHON_TESTS);
        command.env("STAGE1_PYTHON", python);
        native::name_compiler(&mut command);
        let (more, ended) = watch(&mut command)?;
        summary.add_python(&more);
        finished = finished.and(ended);
    }
    if let Err(error) = &finished {
        say(format!("error: {error:#}"));
    }
    let other_goldens = goldens.is_some() || env::var_os("STAGE1_GOLDENS").is_some();
    for line in summary.not_run(other_goldens, options.python) {
        println!("{line}");
    }
    println!("{} passed, {} failed", summary.passed, summary.failed);
    Ok(if finished.is_ok() && summary.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn golden_folder(folder: &std::path::Path) -> Result<PathBuf> {
    ensure!(
        folder.is_dir(),
        "--goldens: {} is not a folder",
        folder.display()
    );
    folder
        .canonicalize()
        .with_context(|| format!("--goldens: cannot resolve {}", folder.display()))
}

/// All packages, unless the arguments choose some.
fn selection(arguments: &[String]) -> Vec<&'static str> {
    let chosen = arguments
        .iter()
        .any(|word| word.starts_with("-p") || word.starts_with("--package"));
    if chosen {
        Vec::new()
    } else {
        vec!["--workspace"]
    }
}

/// Builds the trainer's program for the command line's tests to run, and returns its path.
fn build(workspace: &Workspace, selection: &[&str]) -> Result<PathBuf> {
    // The programs and tests of all packages together: another choice of packages means other features of their
    // dependencies, and torch-sys would be compiled once for each.
    let mut command = workspace.cargo(["build", "--release"]);
    if selection.is_empty() {
        command.args(["--package", "stage1-trainer", "--bins"]);
    } else {
        command.args(selection).args(["--bins", "--tests"]);
    }
    native::name_compiler(&mut command);
    perform(&mut command)?;
    let trainer = workspace
        .release_dir()?
        .join("stage1-train")
        .with_extension(std::env::consts::EXE_EXTENSION);
    ensure!(trainer.is_file(), "cargo built no {}", trainer.display());
    Ok(trainer)
}

/// Runs `cargo test`, passes its output on, and sums it up.
fn watch(command: &mut Command) -> Result<(Summary, Result<()>)> {
    let line = command_line(command);
    say(format!("$ {line}"));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut summary = Summary::default();
    for text in BufReader::new(output).split(b'\n') {
        let text = text.context("cannot read cargo's output")?;
        let text = String::from_utf8_lossy(&text);
        println!("{text}");
        summary.read(&text);
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for `{line}`"))?;
    Ok((summary, finished_well(status, &line)))
}

/// What a run of `cargo test` says, summed over its test programs.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
    filtered: u64,
    /// The ignored tests as libtest prints them: name, then the reason.
    ignored_tests: Vec<String>,
}

impl Summary {
    /// Takes in one line of output.
    fn read(&mut self, line: &str) {
        if let Some(test) = line
            .strip_prefix("test ")
            .filter(|test| test.contains(" ... ignored"))
        {
            self.ignored_tests.push(test.replace(" ... ignored", ""));
        }
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            let Some((number, what)) = part.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                "filtered out" => self.filtered += number,
                _ => {}
            }
        }
    }

    /// Takes in the run of the tests that call Python, which were ignored until then. None at all is a failure: they would
    /// have been looked for in vain.
    fn add_python(&mut self, run: &Self) {
        self.passed += run.passed;
        self.failed += run.failed + u64::from(run.passed + run.failed == 0);
        let before = self.ignored_tests.len();
        self.ignored_tests.retain(|test| !calls_python(test));
        self.ignored -= (before - self.ignored_tests.len()) as u64;
    }

    /// Whether tests ran, and none failed.
    fn is_good(&self) -> bool {
        self.passed > 0 && self.failed == 0
    }

    /// What this run did not cover, in words.
    fn not_run(&self, other_goldens: bool, python: bool) -> Vec<String> {
        let mut lines = Vec::new();
        if !python {
            lines.push(
                "not run: what other software says of our files (ONNX's checker, Python's ONNX Runtime, PEFT, Arrow): \
                 `cargo xtask test --python`"
                    .to_owned(),
            );
        }
        if self.ignored > 0 {
            let mut text = format!(
                "not run: {} optional tests (`cargo test … -- --ignored`)",
                self.ignored
            );
            for test in &self.ignored_tests {
                let _ = write!(text, "\n  {test}");
            }
            lines.push(text);
        }
        if self.filtered > 0 {
            lines.push(format!(
                "not run: {} tests that the given arguments leave out",
                self.filtered
            ));
        }
        if !other_goldens {
            lines.push("not run: golden files of another folder (`--goldens DIR`); the copies in `goldens/` were used".to_owned());
        }
        lines
    }
}

fn calls_python(test: &str) -> bool {
    test.starts_with(PYTHON_MODULE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a ... ok
test gpu::engine ... ignored, needs an NVIDIA GPU and TensorRT
test b ... FAILED

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s

   Doc-tests stage1_core
test result: ok. 41 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s
";

    fn summarise(output: &str) -> Summary {
        let mut summary = Summary::default();
        output.lines().for_each(|line| summary.read(line));
        summary
    }

    #[test]
    fn results_are_summed_over_test_programs() {
        let summary = summarise(OUTPUT);
        let Summary {
            passed,
            failed,
            ignored,
            filtered,
            ignored_tests,
        } = summary;
        assert_eq!((passed, failed, ignored, filtered), (42, 1, 1, 2));
        assert_eq!(
            ignored_tests,
            ["gpu::engine, needs an NVIDIA GPU and TensorRT"]
        );
    }

    #[test]
    fn a_test_that_prints_such_words_does_not_count() {
        for line in [
            "the test result: ok. 5 passed",
            "test result: ",
            "5 passed; 0 failed",
            "test result: ok. five passed",
        ] {
            assert_eq!(summarise(line), Summary::default(), "{line}");
        }
    }

    #[test]
    fn a_run_is_good_if_tests_ran_and_none_failed() {
        let run = |passed, failed| Summary {
            passed,
            failed,
            ..Summary::default()
        };
        assert!(run(1, 0).is_good());
        assert!(!run(1, 1).is_good() && !run(0, 0).is_good());
    }

    #[test]
    fn what_did_not_run_is_said() {
        let lines = summarise(OUTPUT).not_run(false, false).join("\n");
        for part in [
            "1 optional tests",
            "gpu::engine",
            "2 tests that",
            "--goldens",
            "--python",
        ] {
            assert!(lines.contains(part), "{lines}");
        }
        assert!(Summary::default().not_run(true, true).is_empty());
    }

    #[test]
    fn tests_that_call_python_count_where_they_ran() {
        let before = Summary {
            passed: 2,
            ignored: 2,
            ignored_tests: ["python::peft, needs PEFT", "gpu::engine, needs a GPU"]
                .map(str::to_owned)
                .to_vec(),
            ..Summary::default()
        };
        let run = |passed, failed| {
            let mut summary = Summary {
                ignored_tests: before.ignored_tests.clone(),
                ..before
            };
            summary.add_python(&Summary {
                passed,
                failed,
                ..Summary::default()
            });
            summary
        };
        let summary = run(3, 0);
        assert_eq!((summary.passed, summary.ignored), (5, 1));
        assert_eq!(summary.ignored_tests, ["gpu::engine, needs a GPU"]);
        assert!(summary.is_good() && !run(3, 1).is_good());
        assert!(!run(0, 0).is_good(), "none was found");
    }

    #[test]
    fn packages_are_all_unless_chosen() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(selection(&[]), ["--workspace"]);
        assert_eq!(selection(&words("splits -- --nocapture")), ["--workspace"]);
        assert!(selection(&words("-p stage1-core splits")).is_empty());
    }

    #[test]
    fn a_missing_golden_folder_is_refused_by_name() {
        let error = golden_folder(std::path::Path::new("no/such"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("--goldens") && error.contains("no/such"),
            "{error}"
        );
    }
}
