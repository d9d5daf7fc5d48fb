//! Files that name images: a path per line, a CSV with a column `path`, or JSON lines with a key `path`.

use super::{Image, Images};
use anyhow::{Context, bail};
use serde::Deserialize;
use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

/// A list, and the folder that its paths are relative to.
#[derive(Debug)]
pub(super) struct List {
    path: PathBuf,
    root: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Csv,
    JsonLines,
    Text,
}

/// What is read of a JSON line.
#[derive(Deserialize)]
struct Line {
    path: String,
}

impl List {
    /// By the extension of its name.
    pub(super) fn at(path: &Path, root: Option<&Path>) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        let kind = match &*extension {
            "csv" => Kind::Csv,
            "jsonl" | "ndjson" => Kind::JsonLines,
            "txt" => Kind::Text,
            _ => return None,
        };
        Some(Self {
            path: path.to_owned(),
            root: root.or(path.parent()).unwrap_or(Path::new("")).to_owned(),
            kind,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn images(&self) -> anyhow::Result<Images<'_>> {
        let open = || format!("{}: cannot open the list", self.path.display());
        let file = BufReader::new(File::open(&self.path).with_context(open)?);
        match self.kind {
            Kind::Csv => self.csv(file),
            Kind::JsonLines => Ok(self.json_lines(file)),
            Kind::Text => Ok(lines(file, &self.path, &self.root)),
        }
    }

    fn csv<'a>(&'a self, file: impl BufRead + 'a) -> anyhow::Result<Images<'a>> {
        let named = || format!("{}: cannot read the table", self.path.display());
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .from_reader(file);
        let header = reader.headers().with_context(named)?;
        let Some(column) = header.iter().position(|name| name == "path") else {
            let found: Vec<&str> = header.iter().collect();
            bail!(
                "{}: no column `path`, found {}",
                self.path.display(),
                found.join(", ")
            );
        };
        let image = move |record: csv::Result<csv::StringRecord>| {
            let record = record.with_context(named)?;
            let line = record.position().map_or(0, csv::Position::line);
            self.image(record.get(column).unwrap_or_default(), line)
        };
        Ok(Box::new(reader.into_records().map(image)))
    }

    fn json_lines<'a>(&'a self, file: impl BufRead + 'a) -> Images<'a> {
        let image = move |(number, line): (u64, std::io::Result<String>)| {
            let named = || format!("{} line {number}", self.path.display());
            let line = match line.with_context(named) {
                Ok(line) if line.trim().is_empty() => return None,
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            let parsed = serde_json::from_str(&line).with_context(named);
            Some(parsed.and_then(|line: Line| self.image(&line.path, number)))
        };
        Box::new((1..).zip(file.lines()).filter_map(image))
    }

    fn image(&self, path: &str, line: u64) -> anyhow::Result<Image> {
        if path.is_empty() {
            bail!("{} line {line}: `path` is empty", self.path.display());
        }
        Ok(Image {
            id: path.to_owned(),
            path: self.root.join(path),
        })
    }
}

/// A path per line, whatever its bytes; lines of nothing but white space are left out.
pub(super) fn lines<'a>(reader: impl BufRead + 'a, name: &'a Path, root: &'a Path) -> Images<'a> {
    let image = move |(number, line): (u64, std::io::Result<Vec<u8>>)| {
        let named = || format!("{} line {number}", name.display());
        let mut line = match line.with_context(named) {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        if line.ends_with(b"\r") {
            line.pop();
        }
        if line.trim_ascii().is_empty() {
            return None;
        }
        Some(path_of(line).with_context(named).map(|path| Image {
            id: path.display().to_string(),
            path: root.join(path),
        }))
    };
    Box::new((1..).zip(reader.split(b'\n')).filter_map(image))
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
fn path_of(bytes: Vec<u8>) -> anyhow::Result<PathBuf> {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};
    Ok(OsString::from_vec(bytes).into())
}

#[cfg(not(unix))]
fn path_of(bytes: Vec<u8>) -> anyhow::Result<PathBuf> {
    Ok(String::from_utf8(bytes)?.into())
}
