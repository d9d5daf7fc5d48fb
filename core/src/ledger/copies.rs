//! The files of a ledger: all hold the same lines, and those that were left behind are brought up to date.

use super::{
    Error, Result,
    chain::{Chain, Line, Tail},
};
use crate::artifact::{Digest, atomic::sync_folder};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// The folder that holds what run directories share, in the data's folder (or above the run directory). Names that begin
/// with a dot are no class of images.
const SHARED: &str = ".stage1";

/// Where a ledger is kept.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// Beside the splits, or whatever else it is about.
    pub(super) own: PathBuf,
    /// Where other run directories find it, the best place first: the first one that can be written to is kept up to date.
    shared: Vec<PathBuf>,
    /// Where those find it that lie anywhere.
    in_data: Option<PathBuf>,
}

impl Places {
    pub(super) const fn alone(own: PathBuf) -> Self {
        Self {
            own,
            shared: Vec::new(),
            in_data: None,
        }
    }

    /// For the run directory that holds `own`, and images at `source`: a folder, or a table of their paths.
    pub(super) fn of_run(own: PathBuf, source: &Path) -> Self {
        let data = match source {
            folder if folder.is_dir() => Some(folder.to_owned()),
            table if table.is_file() => table.parent().map(or_here),
            // Data that isn't there has no folder.
            _ => None,
        };
        let run_dir = own
            .parent()
            .and_then(|dir| fs::canonicalize(or_here(dir)).ok());
        let above = run_dir.as_deref().and_then(Path::parent);
        let name = own.file_name().unwrap_or_default();
        let place = |folder: &Path| {
            let folder = folder.join(SHARED);
            // A run directory may be that very folder: one file is not to be locked twice.
            match fs::canonicalize(&folder).ok() == run_dir {
                true => own.clone(),
                false => folder.join(name),
            }
        };
        let (in_data, above) = (data.as_deref().map(place), above.map(place));
        let shared = in_data.iter().cloned().chain(above);
        Self {
            shared: shared.filter(|path| *path != own).collect(),
            in_data,
            own,
        }
    }

    /// What all of them say together; nothing is written.
    pub(super) fn read(&self, start: Digest) -> Result<Chain> {
        let mut all = Chain::parse(start, &[]);
        for path in self.shared.iter().chain([&self.own]) {
            let bytes = match fs::read(path) {
                Err(error) if is_nowhere(&error) => continue,
                read => read.map_err(Error::io("read", path))?,
            };
            all = all.joined(Chain::parse(start, &bytes));
        }
        Ok(all)
    }

    /// Whether other run directories are to find it.
    pub(super) const fn are_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    /// The first file with a line that is wrong.
    pub(super) fn damaged(&self, start: Digest) -> &Path {
        let is_damaged = |path: &&PathBuf| {
            fs::read(path).is_ok_and(|bytes| Chain::parse(start, &bytes).fault.is_some())
        };
        let damaged = self.shared.iter().find(is_damaged);
        damaged.unwrap_or(&self.own)
    }

    /// Opens the files that are written to, for this process alone until they are dropped.
    pub(super) fn lock(&self) -> Result<Copies> {
        let mut files = Vec::new();
        for path in &self.shared {
            match open_shared(path) {
                Ok(file) => {
                    files.push((path.clone(), file));
                    break;
                }
                // Others may go on there, unseen from elsewhere.
                Err(error) if is_refused(&error) && may_exist(path) => {
                    return Err(Error::NotWritable {
                        path: path.clone(),
                        source: error,
                    });
                }
                Err(error) if is_refused(&error) => {}
                Err(error) => return Err(Error::io("open", path)(error)),
            }
        }
        let file = open(&self.own).map_err(Error::io("open", &self.own))?;
        files.push((self.own.clone(), file));
        // Always in this order, so that two processes don't wait for each other.
        for (path, file) in &files {
            file.lock().map_err(Error::io("lock", path))?;
        }
        let in_data = self.in_data.as_ref();
        Ok(Copies {
            is_shared: files.iter().any(|(path, _)| Some(path) == in_data),
            files,
        })
    }
}

/// Files that no other process writes to now.
#[derive(Debug)]
pub(super) struct Copies {
    files: Vec<(PathBuf, File)>,
    /// The data's folder has one of them.
    is_shared: bool,
}

impl Copies {
    /// Whether run directories elsewhere find it, too.
    pub(super) const fn are_shared(&self) -> bool {
        self.is_shared
    }

    /// Brings every file to the state of `all`, which continues what each of them holds.
    pub(super) fn catch_up(&mut self, all: &Chain) -> Result<()> {
        for (path, file) in &mut self.files {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)
                .map_err(Error::io("read", path))?;
            let known = Chain::parse(all.start(), &bytes);
            let mended = match known.tail {
                Tail::Whole => Ok(()),
                Tail::NoNewline => file.write_all(b"\n"),
                Tail::Partial(start) => file.set_len(start),
            };
            let missing = all.lines.iter().skip(known.lines.len());
            let bytes: Vec<u8> = missing.flat_map(Line::to_bytes).collect();
            mended
                .and_then(|()| file.write_all(&bytes))
                .and_then(|()| file.sync_all())
                .map_err(Error::io("mend", path))?;
        }
        Ok(())
    }

    /// Adds a line to each.
    pub(super) fn append(&mut self, line: &Line) -> Result<()> {
        for (path, file) in &mut self.files {
            file.write_all(&line.to_bytes())
                .and_then(|()| file.sync_all())
                .map_err(Error::io("append to", path))?;
        }
        Ok(())
    }
}

/// Makes its folder, but none above that: data that isn't there has no ledger. Whoever may write to the data's folder may
/// write to what is made.
fn open_shared(path: &Path) -> io::Result<File> {
    let folder = path.parent().unwrap_or(path);
    let data = folder.parent().unwrap_or(folder);
    match fs::create_dir(folder) {
        Ok(()) => open_to_writers_of(data, folder, 0o777),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let is_new = !path.exists();
    let file = open(path)?;
    if is_new {
        open_to_writers_of(data, path, 0o666);
    }
    Ok(file)
}

/// As far as the file system knows permissions, and lets them be changed.
#[cfg(unix)]
fn open_to_writers_of(folder: &Path, path: &Path, mask: u32) {
    use std::os::unix::fs::PermissionsExt;
    if let Ok(of_folder) = fs::metadata(folder) {
        let mode = of_folder.permissions().mode() & mask;
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    }
}

#[cfg(not(unix))]
fn open_to_writers_of(_: &Path, _: &Path, _: u32) {}

fn open(path: &Path) -> io::Result<File> {
    let is_new = !path.exists();
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)?;
    if is_new {
        sync_folder(&path.parent().map_or_else(|| ".".into(), or_here))?;
    }
    Ok(file)
}

fn or_here(folder: &Path) -> PathBuf {
    match folder.as_os_str().is_empty() {
        true => ".".into(),
        false => folder.to_owned(),
    }
}

fn is_nowhere(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotADirectory | NotFound)
}

/// Whether there is a file, or nobody can tell.
fn may_exist(path: &Path) -> bool {
    match path.try_exists() {
        Ok(exists) => exists,
        Err(error) => !is_nowhere(&error),
    }
}

/// Nothing can be kept there: read-only data, somebody else's, or none.
fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    is_nowhere(error) || matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}
