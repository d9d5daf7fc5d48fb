//! Which images are meant by paths on the command line: files, folders, patterns, lists, and standard input.
//!
//! They are found one after the other, so that a million of them take no more memory than the names in one folder.

mod folder;
mod list;

use anyhow::{Context, bail};
use list::List;
use std::{
    io,
    path::{Path, PathBuf},
};

/// An image, and the name that it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// As a list has it, else the path.
    pub(crate) id: String,
    pub(crate) path: PathBuf,
}

/// Images in order, or why there are no more.
pub(crate) type Images<'a> = Box<dyn Iterator<Item = anyhow::Result<Image>> + 'a>;

/// What the command line names, in its order.
#[derive(Debug)]
pub(crate) struct Inputs {
    sources: Vec<Source>,
}

#[derive(Debug)]
enum Source {
    /// Stands for itself. If it isn't there, its record will say so.
    File(PathBuf),
    /// Its images at any depth, sorted; hidden files and other kinds are left out.
    Folder(PathBuf),
    /// The files that match it, sorted.
    Pattern(String),
    /// The images that it names.
    List(List),
    /// A path per line.
    Stdin { root: PathBuf },
}

impl Inputs {
    /// `-` is standard input; what ends in `.csv`, `.txt`, `.jsonl` or `.ndjson` is a list; what isn't there and has one of
    /// `*?[` is a pattern. Paths in lists are relative to `root`, or else to the list's folder.
    pub(crate) fn new(paths: &[PathBuf], root: Option<&Path>) -> anyhow::Result<Self> {
        let sources = paths.iter().map(|path| Source::new(path, root)).collect();
        let inputs = Self { sources };
        let is_stdin = |source: &&Source| matches!(source, Source::Stdin { .. });
        if inputs.sources.iter().filter(is_stdin).count() > 1 {
            bail!("`-` is given twice; standard input can be read only once");
        }
        Ok(inputs)
    }

    /// How many images there are; none if that shows only in the end, with standard input. All else is gone through, so that
    /// a folder without images, a pattern that matches nothing and a damaged list are found before anything starts.
    pub(crate) fn count(&self) -> anyhow::Result<Option<u64>> {
        let mut total = Some(0);
        for source in &self.sources {
            let count = source.count()?;
            total = total.zip(count).map(|(total, count)| total + count);
        }
        Ok(total)
    }

    /// The images, each found when it is asked for.
    pub(crate) fn images(&self) -> Images<'_> {
        Box::new(self.sources.iter().flat_map(|source| {
            source
                .images()
                .unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
        }))
    }

    /// All of them at once.
    pub(crate) fn collect(&self) -> anyhow::Result<Vec<Image>> {
        self.count()?;
        self.images().collect()
    }
}

impl Source {
    fn new(path: &Path, root: Option<&Path>) -> Self {
        if path.as_os_str() == "-" {
            let root = root.unwrap_or(Path::new("")).to_owned();
            return Self::Stdin { root };
        }
        if path.is_dir() {
            return Self::Folder(path.to_owned());
        }
        if let Some(list) = List::at(path, root) {
            return Self::List(list);
        }
        match path.to_str() {
            Some(text) if text.contains(['*', '?', '[']) && !path.exists() => {
                Self::Pattern(text.to_owned())
            }
            _ => Self::File(path.to_owned()),
        }
    }

    fn count(&self) -> anyhow::Result<Option<u64>> {
        if matches!(self, Self::Stdin { .. }) {
            return Ok(None);
        }
        let mut count = 0;
        for image in self.images()? {
            image?;
            count += 1;
        }
        match self {
            Self::Folder(path) if count == 0 => {
                bail!("{}: no images in this folder", path.display())
            }
            Self::Pattern(pattern) if count == 0 => {
                bail!("{pattern}: no file matches this pattern")
            }
            Self::List(list) if count == 0 => {
                bail!("{}: no images in this list", list.path().display())
            }
            _ => Ok(Some(count)),
        }
    }

    fn images(&self) -> anyhow::Result<Images<'_>> {
        Ok(match self {
            Self::File(path) => Box::new(std::iter::once(Ok(Image::at(path.clone())))),
            Self::Folder(path) => Box::new(folder::Walk::new(path).map(|path| path.map(Image::at))),
            Self::Pattern(pattern) => Box::new(matches(pattern)?),
            Self::List(list) => list.images()?,
            Self::Stdin { root } => {
                list::lines(io::stdin().lock(), Path::new("standard input"), root)
            }
        })
    }
}

impl Image {
    fn at(path: PathBuf) -> Self {
        Self {
            id: path.display().to_string(),
            path,
        }
    }
}

/// The files that match; hidden ones only where the pattern begins with a dot.
fn matches(pattern: &str) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Image>> + use<>> {
    let options = glob::MatchOptions {
        require_literal_leading_dot: true,
        ..glob::MatchOptions::default()
    };
    let paths = glob::glob_with(pattern, options)
        .with_context(|| format!("{pattern}: no such file, and not a pattern either"))?;
    let is_folder = |path: &Result<PathBuf, _>| path.as_ref().is_ok_and(|path| path.is_dir());
    Ok(paths
        .filter(move |path| !is_folder(path))
        .map(|path| Ok(Image::at(path?))))
}

#[cfg(test)]
mod tests;
