//! `stage1-train`: what `stage1 train` runs. A process of its own, because libtorch and ONNX Runtime don't share one.

mod about;
mod report;

use about::About;
use clap::Parser;
use report::{JsonLines, Story};
use stage1_core::config::Config;
use stage1_trainer::{Begin, Error, Existing, Result, events::Events, plan, select_logits, train};
use std::{
    io::{self, Write as _},
    panic,
    path::PathBuf,
    process::{self, ExitCode},
    thread,
};

/// Train as a configuration says, on the splits in its run directory.
#[derive(Parser)]
#[command(name = "stage1-train", version)]
struct Args {
    /// The configuration; its relative paths are relative to the current folder
    #[arg(long, required_unless_present = "about")]
    config: Option<PathBuf>,
    /// Print version and libtorch as JSON, and train nothing
    #[arg(long)]
    about: bool,
    /// Override a key, e.g. `train.epochs=3`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON event per line on standard output instead of text on standard error
    #[arg(long)]
    events: bool,
    /// End when standard input ends: who started this has gone, and may soon train again in the same folder
    #[arg(long)]
    until_end_of_input: bool,
    /// Replace a checkpoint of other inputs
    #[arg(long)]
    overwrite: bool,
    /// Continue an interrupted training; none is an error (without this, one is continued if there is one)
    #[arg(long)]
    resume: bool,
    /// Say what would be trained, and train nothing
    #[arg(long)]
    dry_run: bool,
    /// Then write libtorch's logits of val_select to this file (safetensors)
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    select_logits: Option<PathBuf>,
    /// Start anew from the weights of this checkpoint's folder: `--set train.init_from=DIR`
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    init_from: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.until_end_of_input {
        thread::spawn(watch_input);
    }
    match panic::catch_unwind(|| run(&args)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&error.to_string()),
        // libtorch's failures (memory, above all) arrive as panics; the message was printed by then.
        Err(_) => fail(
            "libtorch failed (see above); if memory ran out, try a smaller `train.feature_batch_size`, or `train.micro_batch_size`",
        ),
    }
}

fn tell_about() -> Result<()> {
    let json = serde_json::to_string(&About::this_program()).expect("plain text has a JSON form");
    // Nobody is left to be told when standard output is closed.
    let _ = writeln!(io::stdout(), "{json}");
    Ok(())
}

/// Returns never: the process ends with its input.
fn watch_input() {
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    // Not `exit`: libtorch's destructors must not run while its threads are at work.
    process::abort();
}

fn run(args: &Args) -> Result<()> {
    let Some(config) = &args.config else {
        return tell_about();
    };
    let init = args.init_from.iter();
    let init = init.map(|dir| format!("train.init_from={}", serde_json::Value::from(dir.as_str())));
    let overrides: Vec<_> = args.set.iter().cloned().chain(init).collect();
    let config = Config::load(config, &overrides)?;
    start_threads(config.thread_count())?;
    let existing = if args.overwrite {
        Existing::Overwrite
    } else {
        Existing::Keep
    };
    let begin = if args.resume {
        Begin::Resume
    } else {
        Begin::Anywhere
    };
    let (json, story) = (JsonLines::default(), Story::default());
    let events: &dyn Events = if args.events { &json } else { &story };
    if args.dry_run {
        let plan = plan(&config, existing, begin, events)?;
        if args.events {
            json.plan(plan);
        } else {
            story.plan(&plan);
        }
        return Ok(());
    }
    let mut trained = train(&config, existing, begin, events)?;
    if let Some(path) = &args.select_logits {
        trained.features_computed += select_logits(&config, path, events)?;
    }
    if args.events {
        json.done(&trained);
    } else {
        story.done(&trained);
    }
    Ok(())
}

fn start_threads(threads: usize) -> Result<()> {
    let started = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global();
    started.map_err(|error| Error::Threads {
        threads,
        reason: error.to_string(),
    })
}

fn fail(message: &str) -> ExitCode {
    // Nothing is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::from(2)
}
