//! Files of features: one row per image, in safetensors or Parquet by the file's extension.
//!
//! | | safetensors | Parquet |
//! |---|---|---|
//! | features | `features` f32 `[N, D]` | `features`, a list of D floats |
//! | images | `id` u8 `[N, width]`: UTF-8, zeros at the end | `id`, a string |
//! | how they were made | metadata `stage1`: JSON, as in other files | file metadata |
//!
//! Rows wait in a temporary file beside the result, so that memory doesn't grow with them; the result appears whole.

mod parquet;
mod safetensors;

use anyhow::{Context, bail};
use stage1_core::artifact::atomic;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// How a file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Safetensors,
    Parquet,
}

impl Format {
    fn of(path: &Path) -> anyhow::Result<Self> {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("safetensors") => Ok(Self::Safetensors),
            Some("parquet") => Ok(Self::Parquet),
            _ => bail!(
                "{}: features are written as .safetensors or .parquet; give --out one of these extensions",
                path.display()
            ),
        }
    }
}

/// A file of features in the making.
pub(crate) struct FeatureFile {
    path: PathBuf,
    format: Format,
    spool: BufWriter<File>,
    rows: Rows,
}

/// What is known of the rows beside their values.
struct Rows {
    ids: Vec<String>,
    width: usize,
}

impl FeatureFile {
    /// Begins a file of rows of `width` numbers. Nothing is at `path` until [`FeatureFile::finish`].
    ///
    /// # Errors
    /// When the extension is another, or nothing can be written into the folder.
    pub(crate) fn create(path: &Path, width: usize) -> anyhow::Result<Self> {
        let format = Format::of(path)?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let spool = fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder));
        let spool = spool.with_context(|| format!("cannot write into {}", folder.display()))?;
        Ok(Self {
            path: path.to_owned(),
            format,
            spool: BufWriter::with_capacity(1 << 20, spool),
            rows: Rows {
                ids: Vec::new(),
                width,
            },
        })
    }

    /// Fails for a path that [`FeatureFile::create`] would refuse, or where something is that must not be replaced.
    pub(crate) fn check(path: &Path, overwrite: bool) -> anyhow::Result<()> {
        Format::of(path)?;
        if path.exists() && !overwrite {
            bail!(
                "{} exists; choose another name with --out, or replace it with --overwrite",
                path.display()
            );
        }
        Ok(())
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, id: String, features: &[f32]) -> io::Result<()> {
        assert_eq!(features.len(), self.rows.width, "a row of the file's width");
        for value in features {
            self.spool.write_all(&value.to_le_bytes())?;
        }
        self.rows.ids.push(id);
        Ok(())
    }

    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.ids.len()
    }

    /// Writes the file as a whole.
    ///
    /// # Errors
    /// When it can't be written; what was at the path is then still there.
    pub(crate) fn finish(self, metadata: &BTreeMap<String, String>) -> anyhow::Result<()> {
        let mut spool = self
            .spool
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        spool.rewind()?;
        let mut values = Values(BufReader::with_capacity(1 << 20, spool));
        let rows = self.rows;
        atomic::write(&self.path, |out| match self.format {
            Format::Safetensors => safetensors::write(out, &rows, &mut values, metadata),
            Format::Parquet => parquet::write(out, &rows, &mut values, metadata),
        })?;
        Ok(())
    }
}

/// The values of the rows, in order.
struct Values(BufReader<File>);

impl Values {
    /// The next `count`.
    fn take(&mut self, count: usize) -> io::Result<Vec<f32>> {
        let mut bytes = vec![0; 4 * count];
        self.0.read_exact(&mut bytes)?;
        let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        Ok(bytes.chunks_exact(4).map(value).collect())
    }

    /// All that are left, as they lie in a file.
    fn copy_to(&mut self, out: &mut dyn Write) -> io::Result<u64> {
        io::copy(&mut self.0, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_extensions_and_existing_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a.csv", "a", "parquet"] {
            let error = FeatureFile::check(&at(name), true).unwrap_err().to_string();
            assert!(error.contains(".safetensors or .parquet"), "{error}");
        }
        fs::write(at("a.PARQUET"), "old").unwrap();
        let error = FeatureFile::check(&at("a.PARQUET"), false).unwrap_err();
        assert!(error.to_string().contains("--overwrite"), "{error}");
        FeatureFile::check(&at("a.PARQUET"), true).unwrap();
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let mut file = FeatureFile::create(&path, 2).unwrap();
        file.push("x".to_owned(), &[1.0, 2.0]).unwrap();
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
