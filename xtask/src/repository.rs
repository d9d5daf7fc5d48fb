//! Checks on the repository itself: git sees all of every crate, and the map of crates is complete.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::layers::Metadata;
use crate::workspace::Workspace;

/// Folders beside the crates whose files must all reach git.
const DATA_FOLDERS: [&str; 4] = [".cargo", ".ci", "configs", "goldens"];

/// Fails listing the files of crates and data folders that `.gitignore` would keep out of a clone.
pub(crate) fn check_nothing_is_ignored(workspace: &Workspace) -> Result<()> {
    let mut folders = Metadata::read(workspace)?.folders(workspace);
    folders.extend(DATA_FOLDERS.map(str::to_owned));
    let mut files = Vec::new();
    for folder in folders {
        list(workspace.root(), &folder, &mut files)?;
    }
    let ignored = ignored(workspace.root(), &files)?;
    if !ignored.is_empty() {
        bail!(
            ".gitignore swallows files that belong to the project:\n  {}",
            ignored.join("\n  ")
        );
    }
    Ok(())
}

/// Fails naming the crate folders that `ARCHITECTURE.md` does not mention.
pub(crate) fn check_map_is_complete(workspace: &Workspace) -> Result<()> {
    let path = workspace.path("ARCHITECTURE.md");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let missing = unmentioned(&text, &Metadata::read(workspace)?.folders(workspace));
    ensure!(
        missing.is_empty(),
        "ARCHITECTURE.md lacks a line for the crate folders {missing:?}"
    );
    Ok(())
}

fn unmentioned(text: &str, folders: &[String]) -> Vec<String> {
    folders
        .iter()
        .filter(|folder| !text.contains(&format!("`{folder}/`")))
        .cloned()
        .collect()
}

/// Adds every file below `root/folder`, relative to `root`.
fn list(root: &Path, folder: &str, found: &mut Vec<String>) -> Result<()> {
    let here = root.join(folder);
    for entry in fs::read_dir(&here).with_context(|| format!("cannot read {}", here.display()))? {
        let entry = entry?;
        let path = format!("{folder}/{}", entry.file_name().display());
        if entry.file_type()?.is_dir() {
            list(root, &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// Those of `files` that the ignore files below `root` exclude, tracked or not. It asks git through an empty repository of
/// its own, so that it also works in an unpacked archive and no setting of the user's has a say.
fn ignored(root: &Path, files: &[String]) -> Result<Vec<String>> {
    let scratch = Scratch::new()?;
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args([
            "-c",
            "core.excludesFile=/dev/null",
            "-c",
            "init.templateDir=",
        ]);
        command
            .arg("--git-dir")
            .arg(scratch.path())
            .arg("--work-tree")
            .arg(root)
            .args(arguments)
            .current_dir(root);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let made = git(&["init", "--quiet"])
        .output()
        .context("cannot start git")?;
    ensure!(
        made.status.success(),
        "git init failed: {}",
        String::from_utf8_lossy(&made.stderr).trim()
    );
    let mut child = git(&["check-ignore", "--no-index", "--stdin", "-z"])
        .spawn()
        .context("cannot start git")?;
    let mut input = child.stdin.take().context("git has no input")?;
    // From a thread of its own: git answers while it reads, and a full pipe would stop both.
    let paths = files.join("\0");
    let writer = std::thread::spawn(move || input.write_all(paths.as_bytes()));
    let output = child.wait_with_output().context("cannot wait for git")?;
    // 1 means that nothing is ignored.
    let code = output.status.code();
    ensure!(
        matches!(code, Some(0 | 1)),
        "git check-ignore failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    writer
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that writes to git panicked"))?
        .context("cannot write to git")?;
    let text = String::from_utf8(output.stdout).context("git's answer")?;
    Ok(text
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect())
}

/// A folder that is removed at the end.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let unique = format!(
            "stage1-xtask-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        );
        let path = std::env::temp_dir().join(unique.replace(['(', ')'], "-"));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A left-over in the temporary folder is no reason to fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_sees_every_file_of_every_crate() {
        check_nothing_is_ignored(&Workspace::find().unwrap()).unwrap();
    }

    #[test]
    fn architecture_names_every_crate_folder() {
        check_map_is_complete(&Workspace::find().unwrap()).unwrap();
    }

    #[test]
    fn a_pattern_that_swallows_a_source_folder_is_found() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            (".gitignore", "data/\n*.onnx\n"),
            ("core/src/data/mod.rs", ""),
            ("core/src/lib.rs", ""),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut files = Vec::new();
        list(root.path(), "core", &mut files).unwrap();
        assert_eq!(
            ignored(root.path(), &files).unwrap(),
            ["core/src/data/mod.rs"]
        );
    }

    #[test]
    fn a_crate_that_the_map_lacks_is_found() {
        let folders = ["core", "cli"].map(str::to_owned);
        assert_eq!(unmentioned("| `core/` | shared |", &folders), ["cli"]);
        assert!(unmentioned("`core/` and `cli/`", &folders).is_empty());
    }
}
