//! Folders that are replaced as a whole.

use crate::artifact;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// `<dir>` → `.<name>.<suffix>` beside it: on the same file system, so that a rename is enough.
pub(crate) fn sibling(dir: &Path, suffix: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.{suffix}"))
}

/// Puts `staged` in the place of `dir`. Killed between the two renames, it leaves no `dir`, never a mixed one.
pub(crate) fn replace(dir: &Path, staged: &Path) -> artifact::Result<()> {
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
pub(crate) fn remove(dir: &Path) -> artifact::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(artifact::Error::Io {
            action: "remove",
            path: dir.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
