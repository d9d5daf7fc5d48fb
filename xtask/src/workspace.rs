//! Where the workspace is, and how to start cargo in it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::progress::say;

/// The checkout that this tool works in.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the workspace from the package folder that `cargo run` and `cargo test` name at run time, else from the
    /// current folder upwards. Nothing absolute is compiled in, so a clone can be moved.
    pub(crate) fn find() -> Result<Self> {
        let start = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(package) => PathBuf::from(package),
            None => env::current_dir().context("cannot read the current folder")?,
        };
        let root = start
            .ancestors()
            .find(|folder| is_root(folder))
            .with_context(|| {
                format!(
                    "no Stage1 workspace at or above {}: run this inside a clone",
                    start.display()
                )
            })?;
        Ok(Self {
            root: root.to_path_buf(),
        })
    }

    /// The folder that holds the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path below the root.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// `cargo <arguments>`, to be run in the root as a user would run it in a shell.
    pub(crate) fn cargo<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.root);
        // `cargo run` describes *this* package in the environment. A build script that asks to be run again when such a
        // variable changes would be, at each switch between `cargo xtask` and plain `cargo`.
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(describes_a_package) {
                command.env_remove(name);
            }
        }
        command
    }

    /// Cargo's release folder, where the programs are.
    pub(crate) fn release_dir(&self) -> Result<PathBuf> {
        #[derive(Deserialize)]
        struct Metadata {
            target_directory: PathBuf,
        }
        let json = self.metadata(&["--no-deps"])?;
        let metadata: Metadata =
            serde_json::from_slice(&json).context("cannot read `cargo metadata`")?;
        Ok(metadata.target_directory.join("release"))
    }

    /// The output of `cargo metadata --format-version 1 <arguments>`.
    pub(crate) fn metadata(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let mut command = self.cargo(["metadata", "--format-version", "1"]);
        let output = command.args(arguments).stderr(Stdio::inherit()).output();
        let output = output.context("cannot start `cargo metadata`")?;
        ensure!(
            output.status.success(),
            "`cargo metadata` failed ({})",
            output.status
        );
        Ok(output.stdout)
    }
}

fn is_root(folder: &Path) -> bool {
    folder.join("Cargo.lock").is_file() && folder.join("xtask").join("Cargo.toml").is_file()
}

/// Whether cargo sets the variable of this name to describe the package that it runs.
fn describes_a_package(name: &str) -> bool {
    const EXACT: [&str; 7] = [
        "CARGO_BIN_NAME",
        "CARGO_CRATE_NAME",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_LINKS",
        "CARGO_MANIFEST_PATH",
        "CARGO_PRIMARY_PACKAGE",
        "CARGO_TARGET_TMPDIR",
    ];
    EXACT.contains(&name) || name.starts_with("CARGO_PKG_")
}

/// Says what is run, then runs it as [`succeed`] does.
pub(crate) fn perform(command: &mut Command) -> Result<()> {
    say(format!("$ {}", command_line(command)));
    succeed(command)
}

/// Runs `command` to its end, showing what it prints; its output goes to stderr, because none of it is the answer.
///
/// # Errors
/// If it cannot be started, or fails.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::io::stderr()))
        .status();
    finished_well(
        status.with_context(|| format!("cannot start `{line}`"))?,
        &line,
    )
}

/// Turns a bad exit status into an error that names the command.
pub(crate) fn finished_well(status: ExitStatus, line: &str) -> Result<()> {
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// The command as one would type it (arguments with blanks quoted).
pub(crate) fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = word.to_string_lossy();
        if word.is_empty() || word.contains(char::is_whitespace) {
            format!("'{word}'")
        } else {
            word.into_owned()
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_found_from_a_package_folder() {
        let workspace = Workspace::find().unwrap();
        assert!(workspace.path("xtask/src/workspace.rs").is_file());
    }

    #[test]
    fn only_variables_that_describe_a_package_are_removed() {
        for name in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "CARGO_CRATE_NAME"] {
            assert!(describes_a_package(name), "{name}");
        }
        for name in [
            "CARGO",
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_JOBS",
            "CARGO_NET_OFFLINE",
            "LIBTORCH",
        ] {
            assert!(!describes_a_package(name), "{name}");
        }
    }

    #[test]
    fn a_command_line_reads_as_typed() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["test", "a b", ""]);
        assert_eq!(command_line(&command), "cargo test 'a b' ''");
    }

    #[test]
    fn a_failing_command_is_named_with_its_status() {
        let error = succeed(Command::new("sh").args(["-c", "exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("sh -c 'exit 3'") && error.contains('3'),
            "{error}"
        );
    }
}
