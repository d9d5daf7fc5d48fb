//! Files and folders that appear whole or not at all.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// Writes `bytes` to `path` through a temporary sibling, fsync and rename.
///
/// The twin of `stage1_core::artifact`, which this tool does not use: see the crate documentation.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let temporary = sibling(path, "tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Creates a folder and its parents.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create the folder {}", path.display()))
}

/// Removes a folder with all its content, if it exists.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the folder {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a file, if it exists.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Renames, naming both ends in the error.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

/// Puts the finished folder `new` in the place of `target`. The old one is out of the way for the time of one rename.
pub(crate) fn swap_folder(new: &Path, target: &Path) -> Result<()> {
    let old = sibling(target, "old");
    remove_folder(&old)?;
    if target.exists() {
        rename(target, &old)?;
    }
    rename(new, target)?;
    remove_folder(&old)
}

/// `path` with `.suffix` added to its name.
pub(crate) fn sibling(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_whole(&path, b"1").unwrap();
        write_whole(&path, b"2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_swap_replaces_the_folder_and_clears_what_a_killed_swap_left() {
        let folder = tempfile::tempdir().unwrap();
        let [target, new] = ["lib", "lib.partial"].map(|name| folder.path().join(name));
        for (path, text) in [
            (&target, "old"),
            (&new, "new"),
            (&sibling(&target, "old"), "older"),
        ] {
            create_folder(path).unwrap();
            fs::write(path.join("file"), text).unwrap();
        }
        swap_folder(&new, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        remove_folder(&folder.path().join("none")).unwrap();
        remove_file(&folder.path().join("none")).unwrap();
    }
}
