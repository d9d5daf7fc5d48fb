//! `cargo xtask demo`: from nothing to a certified classifier.
//!
//! It provides what `stage1 run` needs (libraries, programs, weights, image files), then runs it. Each step leaves either
//! nothing or a whole result, so that an interrupted demo continues when it is run again.

mod fashion;
mod idx;
mod images;
mod minimal;
mod weights;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::files;
use crate::native;
use crate::progress::say;
use crate::workspace::{Workspace, command_line, perform};

/// Options of `cargo xtask demo`.
#[derive(Args)]
pub(crate) struct Options {
    /// Use this data: a folder of your own with one folder of images per class, or a folder with the four `.gz` files of
    /// Fashion-MNIST, where there is no apt to fetch them.
    #[arg(long, value_name = "DIR", conflicts_with = "minimal")]
    data: Option<PathBuf>,
    /// First remove the demo's images, cached features and run directory, ledgers included (downloads and weights stay).
    #[arg(long)]
    fresh: bool,
    /// The whole way in seconds, on a few generated images and a tiny random backbone: it shows that everything works,
    /// not that it works well.
    #[arg(long)]
    minimal: bool,
}

/// What the demo runs on.
#[derive(Debug, PartialEq)]
enum Source {
    /// Ten thousand images of Fashion-MNIST, from the four files in this folder, else fetched.
    Fashion(Option<PathBuf>),
    /// The user's own folder of images.
    Own(PathBuf),
    /// A few generated images.
    Generated,
}

/// How `stage1 run` is called.
struct Run {
    config: &'static str,
    /// Where the results go.
    run_dir: PathBuf,
    /// What differs from the config.
    overrides: Vec<String>,
}

/// Provides everything, then runs `stage1 run` and exits as it does.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let source = choose(options)?;
    let run = plan(&source)?;
    if options.fresh {
        remove_results(workspace, &source, &run)?;
    }
    native::set_up(workspace, &native::Options::default())?;
    let stage1 = build(workspace)?;
    if source != Source::Generated {
        weights::provide(workspace, &stage1)?;
    }
    match &source {
        Source::Fashion(given) => images::provide(&workspace.path("demo"), given.as_deref())?,
        Source::Generated => minimal::provide(&workspace.path("demo/minimal"))?,
        Source::Own(_) => {}
    }
    start(workspace, &stage1, &run)
}

fn choose(options: &Options) -> Result<Source> {
    match &options.data {
        _ if options.minimal => Ok(Source::Generated),
        None => Ok(Source::Fashion(None)),
        Some(folder) => recognise(folder),
    }
}

/// What kind of data a given folder holds.
fn recognise(folder: &Path) -> Result<Source> {
    ensure!(
        folder.is_dir(),
        "--data: {} is not a folder",
        folder.display()
    );
    let folder = folder
        .canonicalize()
        .with_context(|| format!("--data: cannot resolve {}", folder.display()))?;
    if fashion::FILES
        .iter()
        .any(|file| folder.join(file.name).exists())
    {
        return Ok(Source::Fashion(Some(folder)));
    }
    let entries = fs::read_dir(&folder)
        .with_context(|| format!("--data: cannot read {}", folder.display()))?;
    let classes = entries
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir()))
        .count();
    if classes < 2 {
        bail!(
            "--data: {} holds {classes} sub-folders; expected one folder of images per class, two classes at least, or the \
             files {}",
            folder.display(),
            fashion::FILES.map(|file| file.name).join(", ")
        );
    }
    Ok(Source::Own(folder))
}

fn plan(source: &Source) -> Result<Run> {
    let demo = "configs/demo.yaml";
    Ok(match source {
        Source::Fashion(_) => Run {
            config: demo,
            run_dir: "demo/run".into(),
            overrides: Vec::new(),
        },
        Source::Generated => Run {
            config: "configs/minimal.yaml",
            run_dir: "demo/minimal/run".into(),
            overrides: Vec::new(),
        },
        Source::Own(folder) => {
            let name = folder
                .file_name()
                .with_context(|| format!("--data: {} has no name", folder.display()))?;
            let run_dir = Path::new("demo/own").join(name);
            let overrides = vec![set("data.source", folder)?, set("run_dir", &run_dir)?];
            Run {
                config: demo,
                run_dir,
                overrides,
            }
        }
    })
}

/// `key="path"`: in quotes, because the value is read as YAML.
fn set(key: &str, path: &Path) -> Result<String> {
    let path = path
        .to_str()
        .with_context(|| format!("{} is not valid Unicode", path.display()))?;
    Ok(format!("{key}={}", serde_json::to_string(path)?))
}

fn remove_results(workspace: &Workspace, source: &Source, run: &Run) -> Result<()> {
    say(format!(
        "demo: starting afresh, removing {}",
        run.run_dir.display()
    ));
    let run_dir = workspace.root().join(&run.run_dir);
    files::remove_folder(&run_dir)?;
    // Where features are cached unless a config says otherwise.
    files::remove_folder(&run_dir.with_file_name("cache"))?;
    match source {
        Source::Fashion(_) => images::remove(&workspace.path("demo")),
        Source::Generated => files::remove_folder(&workspace.path("demo/minimal")),
        Source::Own(_) => Ok(()),
    }
}

/// Builds both programs and returns the path of `stage1`; `stage1-train` lies beside it, where `stage1` looks first.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = workspace.cargo([
        "build",
        "--release",
        "--package",
        "stage1",
        "--package",
        "stage1-trainer",
    ]);
    native::name_compiler(&mut command);
    perform(&mut command)?;
    Ok(workspace
        .release_dir()?
        .join("stage1")
        .with_extension(env::consts::EXE_EXTENSION))
}

fn start(workspace: &Workspace, stage1: &Path, run: &Run) -> Result<ExitCode> {
    let mut command = stage1_command(workspace, stage1);
    command.args(["run", "--config", run.config]);
    for change in &run.overrides {
        command.arg("--set").arg(change);
    }
    let line = command_line(&command);
    say(format!("$ {line}"));
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", stage1.display()))?;
    // Its code is the demo's: 0 done, 1 the answer is no, 2 failure. Ended by a signal, it has none.
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) => Ok(ExitCode::from(code)),
        None => bail!("`{line}` was ended ({status}); run the same command again to continue"),
    }
}

/// `stage1`, in the root, with the ONNX Runtime of set-up unless the user has another.
fn stage1_command(workspace: &Workspace, stage1: &Path) -> Command {
    let mut command = Command::new(stage1);
    command.current_dir(workspace.root());
    native::point_at_libraries(workspace, &mut command);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(entries: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in entries {
            match entry.strip_suffix('/') {
                Some(name) => fs::create_dir(folder.path().join(name)).unwrap(),
                None => fs::write(folder.path().join(entry), "").unwrap(),
            }
        }
        folder
    }

    #[test]
    fn a_data_folder_is_recognised_by_what_it_holds() {
        let own = folder_with(&["cat/", "dog/", "notes.txt"]);
        assert_eq!(
            recognise(own.path()).unwrap(),
            Source::Own(own.path().canonicalize().unwrap())
        );
        let fashion = folder_with(&["t10k-labels-idx1-ubyte.gz"]);
        assert_eq!(
            recognise(fashion.path()).unwrap(),
            Source::Fashion(Some(fashion.path().canonicalize().unwrap()))
        );
    }

    #[test]
    fn a_folder_of_neither_kind_is_refused_with_what_was_expected() {
        let folder = folder_with(&["cat/", "a.png"]);
        let error = recognise(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("1 sub-folders") && error.contains("train-images-idx3-ubyte.gz"),
            "{error}"
        );
        let error = recognise(Path::new("no/such")).unwrap_err().to_string();
        assert!(error.contains("no/such is not a folder"), "{error}");
    }

    #[test]
    fn own_data_gets_a_run_directory_of_its_own() {
        let run = plan(&Source::Own("/photos/my cats: all".into())).unwrap();
        assert_eq!(
            run.overrides,
            [
                "data.source=\"/photos/my cats: all\"",
                "run_dir=\"demo/own/my cats: all\""
            ]
        );
    }

    #[test]
    fn the_configs_say_what_the_demo_assumes() {
        let workspace = Workspace::find().unwrap();
        for (source, data) in [
            (Source::Fashion(None), "demo/data"),
            (Source::Generated, "demo/minimal/images"),
        ] {
            let run = plan(&source).unwrap();
            let text = fs::read_to_string(workspace.path(run.config)).unwrap();
            for line in [
                format!("run_dir: {}", run.run_dir.display()),
                format!("source: {data}"),
            ] {
                assert!(
                    text.lines().any(|other| other.trim() == line),
                    "{} lacks `{line}`",
                    run.config
                );
            }
        }
        let demo = fs::read_to_string(workspace.path("configs/demo.yaml")).unwrap();
        assert!(demo.contains(&format!("path: {}", weights::FOLDER)));
    }
}
