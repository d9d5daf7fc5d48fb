//! The Python environment of the tests that call other software: exact versions, made here, nobody else's.
//!
//! Nothing that Stage1 does needs it: it holds the libraries that define formats that we write, or that read them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::digest;
use crate::files;
use crate::native;
use crate::progress::say;
use crate::workspace::{Workspace, perform};

/// What is installed, each with its version, dependencies too.
const REQUIREMENTS: &str = "xtask/python/requirements.txt";
/// Where the environment lies.
const FOLDER: &str = ".native/python";
/// Written last; it says what the environment was made of.
const STAMP: &str = "stage1-stamp";

/// Makes sure that the environment is there, and returns its Python.
///
/// # Errors
/// If there is no Python with `venv`, or a package can't be installed.
pub(crate) fn provide(workspace: &Workspace) -> Result<PathBuf> {
    let requirements = workspace.path(REQUIREMENTS);
    let folder = workspace.path(FOLDER);
    let _lock = native::lock_folder(&workspace.path(".native"))?;
    let python = folder.join("bin/python");
    let stamp = stamp(&requirements)?;
    if is_up_to_date(&folder, &python, &stamp) {
        say(format!("python: {FOLDER} is up to date"));
        return Ok(python);
    }
    say(format!(
        "python: making {FOLDER} from {REQUIREMENTS}; PyTorch and what it needs are 5 GB"
    ));
    make(&folder, &python, &requirements)
        .with_context(|| format!("cannot make the Python environment {FOLDER}"))?;
    files::write_whole(&folder.join(STAMP), stamp.as_bytes())?;
    Ok(python)
}

fn stamp(requirements: &Path) -> Result<String> {
    let text = fs::read(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    Ok(format!("{}\n", digest::of_bytes(&text)))
}

/// Whether it is finished, made of these requirements, and the Python that it was made with is still there.
fn is_up_to_date(folder: &Path, python: &Path, stamp: &str) -> bool {
    let same = fs::read_to_string(folder.join(STAMP)).is_ok_and(|found| found == stamp);
    same && Command::new(python)
        .args(["-c", ""])
        .status()
        .is_ok_and(|status| status.success())
}

/// An environment holds its own path, so that it is made in its place; without a stamp it doesn't count.
fn make(folder: &Path, python: &Path, requirements: &Path) -> Result<()> {
    files::remove_folder(folder)?;
    let mut venv = Command::new("python3");
    perform(venv.args(["-m", "venv"]).arg(folder)).context(
        "python3 with venv is needed (Debian and Ubuntu: apt-get install python3-venv), of a version that the requirements \
         have wheels for (3.11)",
    )?;
    let mut install = pip(python);
    install
        .args([
            "install",
            "--only-binary=:all:",
            "--no-deps",
            "--requirement",
        ])
        .arg(requirements);
    perform(&mut install).context("pip must reach its package index (see its message above)")?;
    // Nothing was resolved above: it must fit together as it is written down.
    perform(pip(python).arg("check")).context("the requirements don't fit together")
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--disable-pip-version-check"]);
    // Variables of a shell with another environment must not lead pip there.
    for name in ["PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX"] {
        command.env_remove(OsStr::new(name));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirements() -> Vec<String> {
        let workspace = Workspace::find().unwrap();
        let text = fs::read_to_string(workspace.path(REQUIREMENTS)).unwrap();
        let lines = text.lines().map(str::trim);
        lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_requirement_is_one_exact_version() {
        let requirements = requirements();
        for line in &requirements {
            let parts: Vec<&str> = line.split("==").collect();
            assert!(
                matches!(parts[..], [name, version] if !name.is_empty() && !version.contains([' ', '*', ',', ';'])),
                "{line}"
            );
        }
        let names = |line: &String| line.split("==").next().unwrap_or_default().to_lowercase();
        let unique: std::collections::BTreeSet<String> = requirements.iter().map(names).collect();
        assert_eq!(unique.len(), requirements.len());
    }

    #[test]
    fn versions_are_those_that_the_libraries_of_set_up_have() {
        let requirements = requirements();
        for pin in [&crate::pins::TORCH, &crate::pins::ONNX_RUNTIME] {
            assert!(
                requirements.iter().any(|line| line == pin.requirement),
                "{} is another one in {REQUIREMENTS}",
                pin.requirement
            );
        }
    }

    #[test]
    fn an_environment_without_its_stamp_or_its_python_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, works) = (folder.path(), Path::new("true"));
        assert!(!is_up_to_date(folder, works, "a\n"), "no stamp");
        fs::write(folder.join(STAMP), "a\n").unwrap();
        assert!(is_up_to_date(folder, works, "a\n"));
        assert!(!is_up_to_date(folder, works, "b\n"), "other requirements");
        let gone = folder.join("bin/python");
        assert!(!is_up_to_date(folder, &gone, "a\n"), "no Python");
    }
}
