//! Engines that TensorRT has built, kept between processes.
//!
//! An engine is native code for one model, one GPU and one version of everything. ONNX Runtime names its file by the graph's
//! structure alone, so that two models of one architecture would share it (microsoft/onnxruntime#6455): each session gets a
//! folder of its own, named by all that an engine depends on. It is private, its files are listed with their digests, and a
//! folder appears only once it is whole.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use stage1_core::artifact::{Digest, Document, Hasher, json};
use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// What an engine depends on; no two of these share one.
pub(crate) struct Origin<'a> {
    pub(crate) model: Digest,
    pub(crate) weights: Option<Digest>,
    /// All options of the provider, shapes among them.
    pub(crate) options: &'a BTreeMap<String, String>,
    /// Of ONNX Runtime, TensorRT, CUDA and the driver, and the GPUs.
    pub(crate) system: &'a str,
}

impl Origin<'_> {
    fn key(&self) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(self.model.as_bytes());
        hasher.field(
            self.weights
                .as_ref()
                .map_or(&[], |digest| &digest.as_bytes()[..]),
        );
        for (name, value) in self.options {
            hasher.field(name.as_bytes()).field(value.as_bytes());
        }
        hasher.field(self.system.as_bytes());
        hasher.finish()
    }
}

/// `manifest.json` of a folder of engines.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    schema_version: u32,
    files: BTreeMap<String, Digest>,
}

impl Document for Manifest {
    const KIND: &'static str = "engine manifest";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        let is_plain = |name: &String| !name.contains('/') && name != MANIFEST;
        match self.files.keys().find(|name| !is_plain(name)) {
            Some(name) => Err(format!("files: {name:?} isn't an engine's name")),
            None => Ok(()),
        }
    }
}

const MANIFEST: &str = "manifest.json";

/// The folder of one session's engines, locked while they are built.
pub(crate) struct Engines {
    /// Where they are, once whole.
    kept: PathBuf,
    /// Where TensorRT reads and writes.
    folder: PathBuf,
    /// Others who want the same engines wait.
    _lock: File,
}

/// Where engines are kept unless `trt_engine_cache_path` says otherwise.
pub(crate) fn default_root() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    let cache = set("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")));
    Some(cache?.join("stage1/tensorrt"))
}

impl Engines {
    /// The engines of `origin` below `root`, verified; or an empty folder to build them in.
    ///
    /// # Errors
    /// [`Error::Engines`] when others may write there, or a file isn't what was written; waits for whoever builds the same.
    pub(crate) fn open(root: &Path, origin: &Origin<'_>) -> Result<Self> {
        let failed = |reason: String| Error::Engines {
            dir: root.to_owned(),
            reason,
        };
        let io = |error: io::Error| failed(error.to_string());
        create_private(root).map_err(io)?;
        let key = origin.key();
        let lock = File::create(root.join(format!("{key}.lock"))).map_err(io)?;
        check_private(root, &lock).map_err(failed)?;
        lock.lock().map_err(io)?;
        let kept = root.join(key.to_string());
        let folder = match kept.exists() {
            true => {
                check_private(&kept, &lock).map_err(failed)?;
                verify(&kept).map_err(failed)?;
                kept.clone()
            }
            false => {
                // Left over by whoever died here.
                let folder = root.join(format!("{key}.building"));
                match fs::remove_dir_all(&folder) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
                    _ => create_private(&folder).map_err(io)?,
                }
                folder
            }
        };
        Ok(Self {
            kept,
            folder,
            _lock: lock,
        })
    }

    /// What the provider gets as `trt_engine_cache_path`.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps what was built, for the next session.
    ///
    /// # Errors
    /// [`Error::Engines`].
    pub(crate) fn keep(self) -> Result<()> {
        if self.folder == self.kept {
            return Ok(());
        }
        let keep = || -> Result<(), String> {
            let manifest = Manifest {
                schema_version: Manifest::SCHEMA_VERSION,
                files: digests(&self.folder)?,
            };
            json::save(&manifest, &self.folder.join(MANIFEST))
                .map_err(|error| error.to_string())?;
            fs::rename(&self.folder, &self.kept).map_err(|error| error.to_string())
        };
        keep().map_err(|reason| Error::Engines {
            dir: self.kept.clone(),
            reason,
        })
    }
}

fn verify(dir: &Path) -> Result<(), String> {
    let (manifest, _): (Manifest, _) =
        json::load(&dir.join(MANIFEST)).map_err(|error| error.to_string())?;
    match digests(dir)? == manifest.files {
        true => Ok(()),
        false => Err(format!(
            "the engines in {} aren't those that were written there: an engine is native code, and isn't run; remove the folder",
            dir.display()
        )),
    }
}

fn digests(dir: &Path) -> Result<BTreeMap<String, Digest>, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != MANIFEST {
            let digest = Digest::of_file(&entry.path()).map_err(|error| error.to_string())?;
            found.insert(name, digest);
        }
    }
    Ok(found)
}

#[cfg(unix)]
fn create_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// Whether only the owner of `mine` may write into the folder.
#[cfg(unix)]
fn check_private(dir: &Path, mine: &File) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    let text = |error: io::Error| error.to_string();
    let folder = fs::symlink_metadata(dir).map_err(text)?;
    let mine = mine.metadata().map_err(text)?;
    if !folder.is_dir() {
        return Err(format!(
            "{} is no folder (a link isn't followed)",
            dir.display()
        ));
    }
    if folder.mode() & 0o022 != 0 || folder.uid() != mine.uid() {
        return Err(format!(
            "others may write into {} (mode {:o}, owner {}), and an engine is native code; `chmod 700` it, or set trt_engine_cache_path",
            dir.display(),
            folder.mode() & 0o777,
            folder.uid()
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn create_private(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)
}

#[cfg(not(unix))]
fn check_private(_: &Path, _: &File) -> Result<(), String> {
    Err("engines can't be protected on this system; set trt_engine_cache_enable=0".to_owned())
}

#[cfg(all(test, unix))]
#[expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn origin(options: &BTreeMap<String, String>) -> Origin<'_> {
        Origin {
            model: Digest::of_bytes(b"model"),
            weights: None,
            options,
            system: "onnxruntime 1.31.1, tensorrt 101300",
        }
    }

    fn built(root: &Path) -> PathBuf {
        let options = BTreeMap::new();
        let engines = Engines::open(root, &origin(&options)).unwrap();
        assert!(
            engines
                .folder()
                .ends_with(format!("{}.building", origin(&options).key()))
        );
        fs::write(engines.folder().join("a.engine"), b"native code").unwrap();
        engines.keep().unwrap();
        root.join(origin(&options).key().to_string())
    }

    #[test]
    fn engines_are_kept_whole_private_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("cache");
        let kept = built(&root);
        for folder in [&root, &kept] {
            assert_eq!(
                fs::metadata(folder).unwrap().permissions().mode() & 0o777,
                0o700
            );
        }
        let options = BTreeMap::new();
        let again = Engines::open(&root, &origin(&options)).unwrap();
        assert_eq!(again.folder(), kept);
        assert_eq!(fs::read(kept.join("a.engine")).unwrap(), b"native code");
        again.keep().unwrap();
    }

    #[test]
    fn whoever_died_while_building_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let options = BTreeMap::new();
        let begun = Engines::open(dir.path(), &origin(&options));
        // A temporary folder is private already.
        let begun = begun.unwrap();
        fs::write(begun.folder().join("half.engine"), b"ha").unwrap();
        drop(begun);
        let kept = built(dir.path());
        assert!(!kept.join("half.engine").exists());
    }

    #[test]
    fn everything_that_an_engine_depends_on_is_in_its_key() {
        let (plain, fp16) = (
            BTreeMap::new(),
            BTreeMap::from([("trt_fp16_enable".to_owned(), "1".to_owned())]),
        );
        let base = origin(&plain);
        let others = [
            Origin {
                model: Digest::of_bytes(b"other"),
                ..origin(&plain)
            },
            Origin {
                weights: Some(Digest::of_bytes(b"weights")),
                ..origin(&plain)
            },
            origin(&fp16),
            Origin {
                system: "onnxruntime 1.31.1, tensorrt 101301",
                ..origin(&plain)
            },
        ];
        for other in others {
            assert_ne!(other.key(), base.key());
        }
        assert_eq!(origin(&plain).key(), base.key());
    }

    #[test]
    fn changed_engines_and_open_folders_are_refused() {
        type Change = fn(&Path, &Path);
        let cases: [(&str, Change, &str); 5] = [
            (
                "a changed byte",
                |kept, _| fs::write(kept.join("a.engine"), b"Native code").unwrap(),
                "aren't those that were written",
            ),
            (
                "one more",
                |kept, _| fs::write(kept.join("b.engine"), b"x").unwrap(),
                "aren't those that were written",
            ),
            (
                "one less",
                |kept, _| fs::remove_file(kept.join("a.engine")).unwrap(),
                "aren't those that were written",
            ),
            (
                "an open root",
                |_, root| fs::set_permissions(root, fs::Permissions::from_mode(0o777)).unwrap(),
                "others may write into",
            ),
            (
                "an open folder",
                |kept, _| fs::set_permissions(kept, fs::Permissions::from_mode(0o770)).unwrap(),
                "others may write into",
            ),
        ];
        for (name, change, want) in cases {
            let dir = tempfile::tempdir().unwrap();
            let kept = built(dir.path());
            change(&kept, dir.path());
            let options = BTreeMap::new();
            let Err(error) = Engines::open(dir.path(), &origin(&options)) else {
                panic!("{name}: accepted");
            };
            assert!(error.to_string().contains(want), "{name}: {error}");
        }
    }
}
