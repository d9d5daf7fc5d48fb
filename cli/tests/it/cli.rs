//! Runs the command in a folder of its own.

use serde_json::Value;
use std::{
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

/// A temporary folder to run `stage1` in.
pub(crate) struct Cli {
    dir: TempDir,
}

impl Cli {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the folder.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A copy of a DINOv3 backbone with another base of its rotary periods: with the base 100 and heads of 8, as goldens
    /// have them, the periods are 1 and 10, which bfloat16 doesn't round.
    pub(crate) fn with_uneven_periods(&self, backbone: &Path) -> String {
        let config = fs::read(backbone.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&config).unwrap();
        config["rope_theta"] = 50.0.into();
        self.write("uneven/config.json", config.to_string());
        let weights = fs::read(backbone.join("model.safetensors")).unwrap();
        self.write("uneven/model.safetensors", weights);
        self.path("uneven").display().to_string()
    }

    /// The command, to be run in the folder.
    pub(crate) fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stage1"));
        command.args(args).current_dir(self.dir.path());
        command
    }

    pub(crate) fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Outcome {
        Outcome::of(&mut self.command(args))
    }

    /// Runs, and expects failure with a message that has all of `parts` in one line or more.
    pub(crate) fn refuses(&self, args: &[&str], parts: &[&str]) {
        let outcome = self.run(args);
        assert_eq!(
            (outcome.code, &*outcome.stdout),
            (2, ""),
            "{args:?}\n{outcome}"
        );
        for part in parts {
            assert!(
                outcome.stderr.contains(part),
                "{args:?}: expected {part:?}\n{outcome}"
            );
        }
        assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    }
}

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(command: &mut Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        Self {
            code: status.code().expect("it wasn't killed"),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Standard output as one JSON document.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON: {error}\n{self}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            stdout,
            stderr,
        } = self;
        write!(f, "exit {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}
