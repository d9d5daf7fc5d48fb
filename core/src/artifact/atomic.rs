//! Whole files or none: a reader never sees half a file, whenever the writer dies.

use super::{Error, Result};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

/// How the names of half-written files begin.
const PARTIAL: &str = ".partial-";

/// Writes a file through `fill`: into a temporary file beside `path`, fsync, rename over `path`, fsync of the folder.
///
/// Parent folders are created.
///
/// # Errors
/// [`Error::Io`] naming the file and the step; `path` is then what it was before.
pub fn write(
    path: &Path,
    fill: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<()>,
) -> Result<()> {
    let io = |action| {
        move |source| Error::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(io("create the folder of"))?;
    let mut file = tempfile::Builder::new()
        .prefix(PARTIAL)
        .tempfile_in(folder)
        .map_err(io("create a temporary file beside"))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file.as_file_mut());
    fill(&mut writer).map_err(io("write"))?;
    writer.flush().map_err(io("write"))?;
    drop(writer);
    make_readable(file.as_file()).map_err(io("set the permissions of"))?;
    file.as_file().sync_all().map_err(io("sync"))?;
    file.persist(path)
        .map_err(|error| io("rename to")(error.error))?;
    sync_folder(folder).map_err(io("sync the folder of"))
}

/// Writes `bytes` as a whole file.
///
/// # Errors
/// As [`write()`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, |out| out.write_all(bytes))
}

/// Removes what writers that were killed left half-written in `folder` and below it. No writer may be at work there.
///
/// # Errors
/// [`Error::Io`] naming what can't be listed or removed; a folder that isn't there is as good as empty.
pub fn sweep(folder: &Path) -> Result<()> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    };
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(io("list", folder))? {
        let entry = entry.map_err(io("list", folder))?;
        let path = entry.path();
        if entry
            .file_type()
            .map_err(io("read the type of", &path))?
            .is_dir()
        {
            sweep(&path)?;
        } else if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            fs::remove_file(&path).map_err(io("remove", &path))?;
        }
    }
    Ok(())
}

/// Temporary files are private; an artifact is as readable as any file that a program writes.
#[cfg(unix)]
fn make_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_: &File) -> io::Result<()> {
    Ok(())
}

/// Makes the names of new files in a folder last.
#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
pub(crate) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/a.json");
        write_bytes(&path, b"old").unwrap();
        let failed = write(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert!(failed.unwrap_err().to_string().contains("disk full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn only_half_written_files_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in [
            "a.json",
            ".partial-1",
            "deep/er/.partial-2",
            "deep/er/b.json",
        ] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "x").unwrap();
        }
        sweep(dir.path()).unwrap();
        sweep(&at("nowhere")).unwrap();
        assert!(at("a.json").exists() && at("deep/er/b.json").exists());
        assert!(!at(".partial-1").exists() && !at("deep/er/.partial-2").exists());
    }
}
