//! Set-up, demo, tests and checks of Stage1: `cargo xtask setup | demo | test | ci`.
//!
//! It depends on no other crate of the workspace, on purpose: it must still build, and say what is wrong, when one of them
//! does not.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool: stdout is the answer, stderr is the story"
)]

mod ci;
mod demo;
mod digest;
mod fetch;
mod files;
mod layers;
mod native;
mod pins;
mod progress;
mod python;
mod readme;
mod repository;
mod test_run;
mod wheel;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::workspace::Workspace;

/// What there is to do in this repository, beyond plain cargo.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Download and lay out the native libraries (libtorch, ONNX Runtime) in `.native/`.
    Setup(native::Options),
    /// From nothing to a certified classifier: fetch weights and images, then run `stage1 run`.
    Demo(demo::Options),
    /// Build everything and run every test.
    Test(test_run::Options),
    /// Run what the continuous integration runs, and print the time of each stage.
    Ci,
}

fn main() -> ExitCode {
    match run(Task::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    match task {
        Task::Setup(options) => native::set_up(&workspace, &options).map(|()| ExitCode::SUCCESS),
        Task::Demo(options) => demo::run(&workspace, &options),
        Task::Test(options) => test_run::run(&workspace, &options),
        Task::Ci => ci::run(&workspace),
    }
}
