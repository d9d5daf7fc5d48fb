//! Images below a folder.

use anyhow::{Context, bail};
use stage1_core::data::has_image_extension;
use std::{
    ffi::OsString,
    fs::{self, DirEntry},
    io,
    path::{Path, PathBuf},
    vec,
};

/// The images of a folder at any depth, sorted; hidden files and other kinds are left out. Links are followed.
pub(super) struct Walk {
    /// To be opened next.
    next: Option<PathBuf>,
    /// From the first folder to the one that is being listed.
    open: Vec<Open>,
}

/// A folder, and what is left of it.
struct Open {
    path: PathBuf,
    /// Without links: it is found again if a link leads back to it.
    real: PathBuf,
    entries: vec::IntoIter<Entry>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    name: OsString,
    is_folder: bool,
}

impl Walk {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            next: Some(folder.to_owned()),
            open: Vec::new(),
        }
    }

    fn enter(&mut self, path: PathBuf) -> anyhow::Result<()> {
        let real = path
            .canonicalize()
            .with_context(|| format!("{}: cannot open", path.display()))?;
        if self.open.iter().any(|above| above.real == real) {
            bail!(
                "{}: this link leads back to a folder above it",
                path.display()
            );
        }
        let entries = entries(&path).with_context(|| format!("{}: cannot list", path.display()))?;
        self.open.push(Open {
            path,
            real,
            entries: entries.into_iter(),
        });
        Ok(())
    }
}

impl Iterator for Walk {
    type Item = anyhow::Result<PathBuf>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(folder) = self.next.take()
                && let Err(error) = self.enter(folder)
            {
                self.open.clear();
                return Some(Err(error));
            }
            let folder = self.open.last_mut()?;
            let Some(entry) = folder.entries.next() else {
                self.open.pop();
                continue;
            };
            let path = folder.path.join(&entry.name);
            if !entry.is_folder {
                return Some(Ok(path));
            }
            self.next = Some(path);
        }
    }
}

/// Folders and images, sorted by name.
fn entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = Entry::of(&entry?)?;
        let is_hidden = entry.name.as_encoded_bytes().starts_with(b".");
        if !is_hidden && (entry.is_folder || has_image_extension(Path::new(&entry.name))) {
            entries.push(entry);
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

impl Entry {
    fn of(entry: &DirEntry) -> io::Result<Self> {
        let kind = entry.file_type()?;
        Ok(Self {
            name: entry.file_name(),
            is_folder: kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()),
        })
    }
}
