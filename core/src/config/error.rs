use std::{io, path::PathBuf};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file can't be read.
    #[error("{}: cannot read the configuration: {source}; `stage1 init` writes one", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file isn't YAML.
    #[error("{}: not valid YAML: {reason}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The parser's message, with line and column.
        reason: String,
    },
    /// A key that nothing reads.
    #[error("{origin}: unknown key `{key}`{}", suggestion(nearest))]
    UnknownKey {
        /// The file, or `--set`.
        origin: String,
        /// The key with its path.
        key: String,
        /// The known key that looks most like it, with its path.
        nearest: Option<String>,
    },
    /// A value of the wrong type, or a required key that is missing.
    #[error("{origin}: at `{key}`: {reason}")]
    Type {
        /// The file.
        origin: String,
        /// The key with its path (`.` for the whole document).
        key: String,
        /// What was expected and found.
        reason: String,
    },
    /// An override that isn't `key=value`.
    #[error("--set {text}: expected `key=value`, e.g. `--set train.epochs=3`")]
    Override {
        /// What was given.
        text: String,
    },
    /// An arm of an A/B test that is none.
    #[error("arm {arm}: {reason}")]
    Arm {
        /// What was given.
        arm: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value out of range, or two values that contradict each other.
    #[error("{origin}: at `{key}`: expected {expected}, got {got}")]
    Value {
        /// The file.
        origin: String,
        /// The key with its path.
        key: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What was found.
        got: String,
    },
}

/// The result of reading a configuration.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn suggestion(nearest: &Option<String>) -> String {
    match nearest {
        Some(key) => format!("; did you mean `{key}`?"),
        None => "; `stage1 config schema` lists all keys".to_owned(),
    }
}
