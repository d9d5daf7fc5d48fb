//! `stage1`: from a folder of labelled images to a certified classifier.
//!
//! Stdout is the answer, stderr is the story. Exit 0: done; 1: it ran and the answer is no; 2: usage or failure.

mod args;
mod columns;
mod commands;
mod features;
mod inputs;
mod interrupt;
mod output;
mod plots;
mod progress;
mod records;
mod steps;
mod tables;

use args::{Args, Command};
use clap::Parser;
use output::{Answer, Output};
use std::{io, process::ExitCode};

fn main() -> ExitCode {
    keep_to_oneself();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let output = Output::new(args.json, args.quiet);
    let log = match &args.command {
        Command::Serve(args) => Some(args.log_format),
        _ => None,
    };
    output.start_tracing(log);
    match run(args, &output) {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Ok(Answer::Failed) => ExitCode::from(2),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error, log);
            ExitCode::from(2)
        }
    }
}

/// ONNX Runtime's own builds report to their maker: by the time that it can be asked not to, it has made up an identity for
/// this machine, opened a database in the user's folder and started threads.
fn keep_to_oneself() {
    const SETTING: &str = "ORT_DISABLE_TELEMETRY";
    if std::env::var_os(SETTING).is_some() {
        return;
    }
    // SAFETY: this is the process's only thread, so that none reads the environment meanwhile.
    #[expect(
        unsafe_code,
        reason = "the library takes this from the environment alone"
    )]
    unsafe {
        std::env::set_var(SETTING, "1");
    }
}

/// Help goes to standard output; a wrong line to standard error and, with `--json`, to standard output too.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody may be listening.
    _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|word| word == "--json") {
        output::json_error(error.to_string().trim_end());
    }
    ExitCode::from(2)
}

fn run(args: Args, output: &Output) -> anyhow::Result<Answer> {
    match args.command {
        Command::Init(args) => commands::init::run(&args, output),
        Command::Split(args) => commands::split::run(&args, output),
        Command::Train(args) => commands::train::run(&args, output),
        Command::Export(args) => commands::export::run(&args, output),
        Command::Import(args) => commands::import::run(&args, output),
        Command::Calibrate(args) => commands::calibrate::run(&args, output),
        Command::Validate(args) => commands::validate::run(&args, output),
        Command::Report(args) => commands::report::run(&args, output),
        Command::Run(args) => commands::run::run(&args, output),
        Command::AbTest(args) => commands::ab_test::run(&args, output),
        Command::Predict(args) => commands::predict::run(&args, output),
        Command::Embed(args) => commands::embed::run(&args, output),
        Command::Metrics(args) => commands::metrics::run(&args, output),
        Command::Monitor(args) => commands::monitor::run(&args, output),
        Command::Serve(args) => commands::serve::run(&args, output),
        Command::Bench(args) => commands::bench::run(&args, output),
        Command::Doctor(args) => commands::doctor::run(&args, output),
        Command::Config(args) => commands::config::run(&args, output),
        Command::Completions(args) => commands::completions::run(&args, output),
    }
}

/// A reader that has seen enough (`stage1 predict … | head`) isn't a failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(broken)
}
