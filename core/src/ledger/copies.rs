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
    /// With the images, where any other run directory finds it.
    in_data: Vec<PathBuf>,
    /// Above the run directory, where its neighbours find it: used if none of those can be written to.
    above: Option<PathBuf>,
}

impl Places {
    pub(super) const fn alone(own: PathBuf) -> Self {
        Self {
            own,
            in_data: Vec::new(),
            above: None,
        }
    }

    /// For the run directory that holds `own`, and images at `source`: a folder, or a table of paths, which begin in `root` if
    /// that is named.
    pub(super) fn of_run(own: PathBuf, source: &Path, root: Option<&Path>) -> Self {
        // Images that aren't there have no folder. A table may be a link, and what its paths begin in be named or not.
        let real = |path: &Path| fs::canonicalize(path).ok();
        let folders = match source.is_dir() {
            true => vec![real(source)],
            false => vec![
                root.and_then(real),
                source.is_file().then(|| real(&folder_of(source))).flatten(),
                real(source).map(|table| folder_of(&table)),
            ],
        };
        let run_dir = real(&folder_of(&own));
        let name = own.file_name().unwrap_or_default();
        let place = |folder: &Path| {
            let folder = folder.join(SHARED);
            // A run directory may be that very folder.
            match Some(&folder) == run_dir.as_ref() {
                true => own.clone(),
                false => folder.join(name),
            }
        };
        let above = run_dir.as_deref().and_then(Path::parent).map(place);
        let mut in_data: Vec<_> = folders
            .iter()
            .flatten()
            .map(|folder| place(folder))
            .collect();
        // Always in this order, so that two processes don't wait for each other.
        in_data.sort();
        in_data.dedup();
        Self {
            above: above.filter(|path| *path != own),
            in_data,
            own,
        }
    }

    /// All of them, each once.
    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        let others = self.in_data.iter().chain(&self.above);
        others.filter(|path| **path != self.own).chain([&self.own])
    }

    /// What all of them say together; nothing is written.
    pub(super) fn read(&self, start: Digest) -> Result<Chain> {
        let mut all = Chain::parse(start, &[]);
        for path in self.all() {
            let bytes = match fs::read(path) {
                Err(error) if is_nowhere(&error) => continue,
                read => read.map_err(Error::io("read", path))?,
            };
            all = all.joined(Chain::parse(start, &bytes));
        }
        Ok(all)
    }

    /// Whether other run directories are to find it.
    pub(super) fn are_shared(&self) -> bool {
        self.in_data.iter().chain(&self.above).next().is_some()
    }

    /// The first file with a line that is wrong.
    pub(super) fn damaged(&self, start: Digest) -> &Path {
        let is_damaged = |path: &&PathBuf| {
            fs::read(path).is_ok_and(|bytes| Chain::parse(start, &bytes).fault.is_some())
        };
        let damaged = self.all().find(is_damaged);
        damaged.unwrap_or(&self.own)
    }

    /// Opens the files that are written to, for this process alone until they are dropped.
    pub(super) fn lock(&self) -> Result<Copies> {
        let mut files = Vec::new();
        for path in self.in_data.iter().filter(|path| **path != self.own) {
            add(&mut files, shared(path)?);
        }
        let is_shared = !files.is_empty() || self.in_data.contains(&self.own);
        if let Some(path) = &self.above
            && !is_shared
        {
            add(&mut files, shared(path)?);
        }
        let file = open(&self.own).map_err(Error::io("open", &self.own))?;
        add(&mut files, Some((self.own.clone(), file)));
        for (path, file) in &files {
            file.lock().map_err(Error::io("lock", path))?;
        }
        Ok(Copies { files, is_shared })
    }
}

/// One file by two names is not to be locked twice.
fn add(files: &mut Vec<(PathBuf, File)>, new: Option<(PathBuf, File)>) {
    let is_known = |file: &File| files.iter().any(|(_, known)| is_same(known, file));
    if let Some((path, file)) = new
        && !is_known(&file)
    {
        files.push((path, file));
    }
}

/// A file that others share; none where nothing can be kept.
fn shared(path: &Path) -> Result<Option<(PathBuf, File)>> {
    match open_shared(path) {
        Ok(file) => Ok(Some((path.to_owned(), file))),
        // Others may go on there, unseen from elsewhere.
        Err(source) if is_refused(&source) && may_exist(path) => Err(Error::NotWritable {
            path: path.to_owned(),
            source,
        }),
        Err(error) if is_refused(&error) => Ok(None),
        Err(error) => Err(Error::io("open", path)(error)),
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
        Ok(()) => open_to_writers_of(data, folder, 0o7777),
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

/// As far as the file system knows permissions and groups, and lets them be changed.
#[cfg(unix)]
fn open_to_writers_of(folder: &Path, path: &Path, mask: u32) {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    if let Ok(of_folder) = fs::metadata(folder) {
        let mode = of_folder.mode() & mask;
        // The owner's, where one may give it away.
        let owner = chown(path, Some(of_folder.uid()), Some(of_folder.gid()));
        let _ = owner.or_else(|_| chown(path, None, Some(of_folder.gid())));
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
        sync_folder(&folder_of(path))?;
    }
    Ok(file)
}

/// `.` for a plain name.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => ".".into(),
    }
}

fn is_nowhere(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotADirectory | NotFound)
}

#[cfg(unix)]
fn is_same(a: &File, b: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |file: &File| file.metadata().map(|of| (of.dev(), of.ino())).ok();
    place(a).is_some() && place(a) == place(b)
}

#[cfg(not(unix))]
fn is_same(_: &File, _: &File) -> bool {
    false
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
