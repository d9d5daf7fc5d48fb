//! `stage1 doctor`: which native libraries are found, and what is wrong with them.

use crate::{
    args::DoctorArgs,
    output::{Answer, Output},
    steps::train::find_trainer,
};
use serde::{Deserialize, Serialize};
use stage1_runtime::{Error, InitError, RuntimeInfo};
use std::{env, fmt::Write, path::PathBuf, process::Command, thread};

/// What was found. `ok` is whether everything that `stage1 run` needs works.
#[derive(Serialize)]
struct Report {
    ok: bool,
    version: &'static str,
    onnxruntime: OnnxRuntime,
    trainer: Trainer,
    cpu: Cpu,
}

/// What runs models: everything but training needs it.
#[derive(Serialize)]
#[serde(untagged)]
enum OnnxRuntime {
    Found(RuntimeInfo),
    Missing { tried: Vec<Tried>, problem: Problem },
}

/// A place where there was no ONNX Runtime.
#[derive(Serialize)]
struct Tried {
    path: PathBuf,
    origin: &'static str,
    reason: String,
}

/// The program that trains; it brings libtorch.
#[derive(Serialize)]
#[serde(untagged)]
enum Trainer {
    Found {
        program: PathBuf,
        #[serde(flatten)]
        about: About,
    },
    Broken {
        program: Option<PathBuf>,
        problem: Problem,
    },
}

/// What `stage1-train --about` says.
#[derive(Serialize, Deserialize)]
struct About {
    version: String,
    library: Option<PathBuf>,
    libtorch: Option<String>,
}

/// What is wrong, and the command that mends it.
#[derive(Serialize)]
struct Problem {
    problem: String,
    fix: &'static str,
}

#[derive(Serialize)]
struct Cpu {
    /// The class that certificates name.
    isa: String,
    instruction_sets: Vec<&'static str>,
    threads: usize,
}

pub(crate) fn run(_: &DoctorArgs, output: &Output) -> anyhow::Result<Answer> {
    let (onnxruntime, trainer) = (onnxruntime(), trainer());
    let ok =
        matches!(onnxruntime, OnnxRuntime::Found(_)) && matches!(trainer, Trainer::Found { .. });
    let report = Report {
        ok,
        version: env!("CARGO_PKG_VERSION"),
        onnxruntime,
        trainer,
        cpu: Cpu {
            isa: stage1_runtime::cpu_isa(),
            instruction_sets: instruction_sets(),
            threads: thread::available_parallelism().map_or(1, usize::from),
        },
    };
    output.answer(&report, &text(&report))?;
    Ok(if ok { Answer::Yes } else { Answer::No })
}

fn onnxruntime() -> OnnxRuntime {
    let missing = |tried, problem| OnnxRuntime::Missing {
        tried,
        problem: Problem {
            problem,
            fix: "cargo xtask setup (or set ORT_DYLIB_PATH to the full path of a libonnxruntime)",
        },
    };
    match stage1_runtime::init(None) {
        Ok(info) => OnnxRuntime::Found(info),
        Err(Error::Init(InitError::NotFound { tried })) => {
            let (major, minor) = stage1_runtime::MIN_VERSION;
            let tried = tried.into_iter().map(|attempt| Tried {
                path: attempt.path,
                origin: attempt.origin,
                reason: attempt.reason,
            });
            missing(
                tried.collect(),
                format!("ONNX Runtime {major}.{minor} or newer was not found"),
            )
        }
        Err(error) => missing(Vec::new(), error.to_string()),
    }
}

/// Starts the trainer, which then loads libtorch.
fn trainer() -> Trainer {
    let broken = |program, problem, fix| Trainer::Broken {
        program,
        problem: Problem { problem, fix },
    };
    let build =
        "cargo xtask setup && cargo build --release -p stage1-trainer (or set STAGE1_TRAIN_BIN)";
    let program = match find_trainer() {
        Ok(program) => program,
        Err(error) => return broken(None, format!("{error:#}"), build),
    };
    let misled = env::var_os("LIBTORCH").map(PathBuf::from);
    if let Some(folder) =
        misled.filter(|folder| !folder.as_os_str().is_empty() && !folder.join("lib").is_dir())
    {
        let problem = format!("LIBTORCH is {}, which has no folder lib", folder.display());
        return broken(
            Some(program),
            problem,
            "unset LIBTORCH, or name libtorch's folder",
        );
    }
    let failed = |problem| broken(Some(program.clone()), problem, build);
    match Command::new(&program).arg("--about").output() {
        Err(error) => failed(format!("it doesn't start: {error}")),
        Ok(said) if !said.status.success() => {
            let reason = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            failed(format!("it ends with {}: {reason}", said.status))
        }
        Ok(said) => match serde_json::from_slice(&said.stdout) {
            Ok(about) => Trainer::Found { program, about },
            Err(_) => failed("it is of another version: it doesn't say what it is".to_owned()),
        },
    }
}

/// Those that speed up models and image resizing.
#[cfg(target_arch = "x86_64")]
fn instruction_sets() -> Vec<&'static str> {
    let sets = [
        ("sse4.1", is_x86_feature_detected!("sse4.1")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
    ];
    sets.into_iter()
        .filter(|(_, found)| *found)
        .map(|(name, _)| name)
        .collect()
}

/// Those that speed up models and image resizing.
#[cfg(not(target_arch = "x86_64"))]
fn instruction_sets() -> Vec<&'static str> {
    if cfg!(target_arch = "aarch64") {
        vec!["neon"]
    } else {
        Vec::new()
    }
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    lines(report, &mut out).expect("writing to a string can't fail");
    out
}

fn lines(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(out, "stage1        {}", report.version)?;
    match &report.onnxruntime {
        OnnxRuntime::Found(info) => {
            let providers = info.compiled_providers.join(", ");
            writeln!(
                out,
                "ONNX Runtime  {}, {} ({})",
                info.version,
                info.library.display(),
                info.origin
            )?;
            writeln!(out, "              providers compiled in: {providers}")?;
        }
        OnnxRuntime::Missing { tried, problem } => {
            write_problem(out, "ONNX Runtime", problem)?;
            for Tried {
                path,
                origin,
                reason,
            } in tried
            {
                writeln!(
                    out,
                    "              tried: {} ({origin}): {reason}",
                    path.display()
                )?;
            }
        }
    }
    match &report.trainer {
        Trainer::Found { program, about } => {
            writeln!(
                out,
                "trainer       {}, {}",
                about.version,
                program.display()
            )?;
            let version = about.libtorch.as_deref().unwrap_or("of unknown version");
            let library = about
                .library
                .as_ref()
                .map_or_else(String::new, |library| format!(", {}", library.display()));
            writeln!(out, "libtorch      {version}{library}")?;
        }
        Trainer::Broken { program, problem } => {
            write_problem(out, "trainer", problem)?;
            if let Some(program) = program {
                writeln!(out, "              program: {}", program.display())?;
            }
        }
    }
    let Cpu {
        isa,
        instruction_sets,
        threads,
    } = &report.cpu;
    writeln!(
        out,
        "CPU           {isa} ({}), {threads} threads",
        instruction_sets.join(", ")
    )?;
    writeln!(
        out,
        "{}",
        if report.ok {
            "everything that `stage1 run` needs is there"
        } else {
            "something is missing, see above"
        }
    )
}

fn write_problem(
    out: &mut String,
    what: &str,
    Problem { problem, fix }: &Problem,
) -> std::fmt::Result {
    writeln!(
        out,
        "{what:<14}PROBLEM: {problem}\n              mend it: {fix}"
    )
}
