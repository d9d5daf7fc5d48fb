use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a ledger can't be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The ledger.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line is wrong.
    #[error("{}: the ledger is damaged: {fault}; restore it from a backup, or from its copy (a run's lie beside splits.json and in the folder .stage1 of its data); without it, nobody knows how often this data was tried. Where the copies hold different entries, move one of them away: what certificates recorded and isn't there any more makes the ledger unknown, and then certificates say so", path.display())]
    Damaged {
        /// The ledger.
        path: PathBuf,
        /// The line, and what is wrong with it.
        fault: String,
    },
    /// A copy that others write to can't be written to.
    #[error("{}: this use of the data can't be recorded here, where others of the same splits record theirs: {source}; nothing was looked at; let it be written to (chmod), or give the images other splits (split.seed)", path.display())]
    NotWritable {
        /// The copy.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file doesn't continue what was read from it before.
    #[error("{}: the first {entries} entries were changed or removed while the ledger was in use; restore it from a backup", path.display())]
    Rewritten {
        /// The ledger.
        path: PathBuf,
        /// Entries read before.
        entries: u64,
    },
    /// A bundle that was judged at one level is to be judged at another.
    #[error(
        "{}: this bundle opened val_test at gamma {recorded} (opening {opening}); judging it again at {asked} would choose \
         the level after seeing the data: set validate.gamma to {recorded}", path.display()
    )]
    OtherLevel {
        /// The ledger.
        path: PathBuf,
        /// The opening's number.
        opening: u64,
        /// Its level.
        recorded: f64,
        /// The level asked for.
        asked: f64,
    },
}

/// The result of reading or writing a ledger.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
