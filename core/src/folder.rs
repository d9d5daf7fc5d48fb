//! Folders that are replaced as a whole.

use crate::artifact;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Lets `fill` write a folder beside `dir`, and puts it in `dir`'s place when it is whole; otherwise `dir` is what it was, and
/// nothing is left of the other.
pub(crate) fn write(
    dir: &Path,
    fill: impl FnOnce(&Path) -> artifact::Result<()>,
) -> artifact::Result<()> {
    let staged = sibling(dir, "partial");
    // Of a writer that was killed.
    remove(&staged)?;
    if let Err(error) = fill(&staged) {
        // What went wrong first is what the user needs to know.
        let _ = remove(&staged);
        return Err(error);
    }
    replace(dir, &staged)
}

/// `<dir>` → `.<name>.<suffix>` beside it: on the same file system, so that a rename is enough.
fn sibling(dir: &Path, suffix: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.{suffix}"))
}

/// Puts `staged` in the place of `dir`. Killed between the two renames, it leaves no `dir`, never a mixed one.
fn replace(dir: &Path, staged: &Path) -> artifact::Result<()> {
    let old = sibling(dir, "old");
    remove(&old)?;
    if dir.exists() {
        rename(dir, &old)?;
    }
    rename(staged, dir)?;
    remove(&old)
}

fn rename(from: &Path, to: &Path) -> artifact::Result<()> {
    fs::rename(from, to).map_err(|source| artifact::Error::Io {
        action: "rename to",
        path: to.to_owned(),
        source,
    })
}

/// Removes a folder, if it is there.
fn remove(dir: &Path) -> artifact::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(artifact::Error::Io {
            action: "remove",
            path: dir.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
