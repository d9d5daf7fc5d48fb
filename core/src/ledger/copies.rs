//! The files of a ledger: all hold the same lines, and those that were left behind are brought up to date.

use super::{
    Error, Result,
    chain::{Chain, Line, Tail},
};
use crate::artifact::Digest;
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
}

impl Places {
    pub(super) const fn alone(own: PathBuf) -> Self {
        Self {
            own,
            shared: Vec::new(),
        }
    }

    /// For the run directory that holds `own`, and images at `source`: a folder, or a table of their paths.
    pub(super) fn of_run(own: PathBuf, source: &Path) -> Self {
        let data = match source.is_dir() {
            true => Some(source.to_owned()),
            false => source.parent().map(or_here),
        };
        let run_dir = own.parent().map(or_here);
        let above =
            run_dir.and_then(|dir| fs::canonicalize(dir).ok()?.parent().map(Path::to_owned));
        let name = own.file_name().unwrap_or_default();
        let shared = [data, above].into_iter().flatten();
        Self {
            shared: shared
                .map(|folder| folder.join(SHARED).join(name))
                .collect(),
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
        let (mut files, mut is_shared) = (Vec::new(), false);
        for (place, path) in self.shared.iter().enumerate() {
            match open_shared(path) {
                Ok(file) => {
                    files.push((path.clone(), file));
                    is_shared = place == 0;
                    break;
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
        Ok(Copies { files, is_shared })
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

/// Makes its folder, but none above that: data that isn't there has no ledger.
fn open_shared(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent()
        && let Err(error) = fs::create_dir(folder)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    open(path)
}

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

/// Nothing can be kept there: read-only data, somebody else's, or none.
fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    is_nowhere(error) || matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
