//! The form of PyTorch 1.6 and later: an archive of `<root>/data.pkl` and `<root>/data/<key>`, uncompressed.

use super::{
    TorchError,
    error::Result,
    pickle, take,
    value::{Root, Storage},
};
use ::zip::{CompressionMethod, ZipArchive, read::ZipFile, result::ZipError};
use std::io::{Read, Seek};

const PICKLE: &str = "data.pkl";

pub(super) struct Zip<R> {
    archive: ZipArchive<R>,
    /// With the slash.
    root: String,
}

impl<R: Read + Seek> Zip<R> {
    pub(super) fn open(reader: R) -> Result<(Root, Self)> {
        let archive = ZipArchive::new(reader).map_err(|error| broken(&error))?;
        let mut zip = Self {
            root: root(&archive)?,
            archive,
        };
        zip.check_byte_order()?;
        let value = pickle::run(&mut zip.entry(PICKLE)?, 0)?;
        Ok((value, zip))
    }

    pub(super) fn storage(&mut self, storage: &Storage) -> Result<Vec<u8>> {
        let name = format!("data/{}", storage.key);
        let mut entry = self.entry(&name)?;
        match storage.bytes() {
            Some(bytes) if bytes as u64 == entry.size() => take(&mut entry, bytes, &name),
            _ => Err(TorchError::Container {
                reason: format!(
                    "entry `{name}` has {} bytes, the pickle announces {} elements of {}",
                    entry.size(),
                    storage.count,
                    storage.element.name()
                ),
            }),
        }
    }

    /// An entry below the root. `torch.save` never compresses; what isn't compressed isn't larger than the file.
    fn entry(&mut self, name: &str) -> Result<ZipFile<'_>> {
        let full = format!("{}{name}", self.root);
        let entry = self.archive.by_name(&full).map_err(|error| match error {
            ZipError::FileNotFound => TorchError::Container {
                reason: format!("the archive has no entry `{full}`"),
            },
            other => broken(&other),
        })?;
        match entry.compression() {
            CompressionMethod::Stored => Ok(entry),
            other => Err(TorchError::Container {
                reason: format!("entry `{full}` is compressed ({other}), torch.save stores"),
            }),
        }
    }

    /// Newer versions say it; older ones were only ever little-endian in practice.
    fn check_byte_order(&mut self) -> Result<()> {
        let full = format!("{}byteorder", self.root);
        if self.archive.by_name(&full).is_err() {
            return Ok(());
        }
        let mut order = Vec::new();
        let entry = self.entry("byteorder")?;
        let read = entry.take(16).read_to_end(&mut order);
        read.map_err(|source| TorchError::Read { source })?;
        match &order[..] {
            b"little" => Ok(()),
            other => Err(TorchError::Container {
                reason: format!(
                    "its byte order is `{}`, expected little",
                    String::from_utf8_lossy(other)
                ),
            }),
        }
    }
}

/// The one folder with a pickle.
fn root<R: Read + Seek>(archive: &ZipArchive<R>) -> Result<String> {
    let roots: Vec<_> = archive
        .file_names()
        .filter_map(|name| name.strip_suffix(PICKLE))
        .filter(|root| root.ends_with('/') && root.matches('/').count() == 1)
        .collect();
    match roots[..] {
        [root] => Ok(root.to_owned()),
        _ => Err(TorchError::Container {
            reason: format!(
                "the archive has {} entries `<name>/{PICKLE}`, expected one",
                roots.len()
            ),
        }),
    }
}

fn broken(error: &ZipError) -> TorchError {
    TorchError::Container {
        reason: format!("the archive can't be read: {error}"),
    }
}
