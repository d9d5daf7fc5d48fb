//! Where ONNX Runtime is looked for.

use crate::native;
use std::{
    env, fmt,
    path::{Path, PathBuf},
};

/// The oldest ONNX Runtime that has the interface that this program is built on.
pub const MIN_VERSION: (u32, u32) = (1, 24);

/// A place that was tried in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The library, or the folder that held none.
    pub path: PathBuf,
    /// Why this place was tried.
    pub origin: &'static str,
    /// What was wrong there.
    pub reason: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}): {}",
            self.path.display(),
            self.origin,
            self.reason
        )
    }
}

/// A library that can be loaded.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) origin: &'static str,
    pub(crate) version: String,
}

/// Finds a library. What the caller or `ORT_DYLIB_PATH` names is the only candidate: a choice is never replaced in
/// silence.
pub(crate) fn find(asked: Option<&Path>) -> Result<Found, Vec<Attempt>> {
    if let Some(path) = asked {
        return probe(path.to_owned(), "asked for").map_err(|attempt| vec![attempt]);
    }
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return probe(path.into(), "ORT_DYLIB_PATH").map_err(|attempt| vec![attempt]);
    }
    let mut tried = Vec::new();
    for (folder, origin) in folders() {
        let libraries = libraries_in(&folder);
        if libraries.is_empty() {
            let reason = "holds no ONNX Runtime".to_owned();
            tried.push(Attempt {
                path: folder,
                origin,
                reason,
            });
        }
        for path in libraries {
            match probe(path, origin) {
                Ok(found) => return Ok(found),
                Err(attempt) => tried.push(attempt),
            }
        }
    }
    for name in system_names() {
        match load(PathBuf::from(name), "the system's libraries") {
            Ok(found) => return Ok(found),
            Err(attempt) => tried.push(attempt),
        }
    }
    Err(tried)
}

/// Beside the executable, `../lib`, and `.native` of the workspace that the executable was built in.
fn folders() -> Vec<(PathBuf, &'static str)> {
    let Ok(executable) = env::current_exe().and_then(|path| path.canonicalize()) else {
        return Vec::new();
    };
    let ancestors: Vec<_> = executable.ancestors().skip(1).map(Path::to_owned).collect();
    let mut folders = Vec::new();
    if let Some(folder) = ancestors.first() {
        folders.push((folder.clone(), "beside the executable"));
    }
    if let Some(parent) = ancestors.get(1) {
        folders.push((parent.join("lib"), "../lib of the executable"));
    }
    let native = |folder: &PathBuf| folder.join(".native/onnxruntime/lib");
    let laid_out = ancestors
        .iter()
        .map(native)
        .filter(|folder| folder.is_dir());
    folders.extend(laid_out.map(|folder| (folder, "laid out by `cargo xtask setup`")));
    folders
}

/// The platform's library names: without a version, and the major version's.
fn system_names() -> Vec<String> {
    let plain = format!(
        "{}onnxruntime{}",
        env::consts::DLL_PREFIX,
        env::consts::DLL_SUFFIX
    );
    if cfg!(target_os = "linux") {
        return vec![format!("{plain}.1"), plain];
    }
    vec![plain]
}

/// ONNX Runtimes in a folder, the unversioned name first, then by name downwards.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let stem = format!("{}onnxruntime", env::consts::DLL_PREFIX);
    let suffix = env::consts::DLL_SUFFIX;
    let plain = format!("{stem}{suffix}");
    let fits = |name: &str| {
        name == plain
            || name
                .strip_prefix(&format!("{plain}."))
                .is_some_and(is_version)
            || name
                .strip_prefix(&format!("{stem}."))
                .and_then(|rest| rest.strip_suffix(suffix))
                .is_some_and(is_version)
    };
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.retain(|name| fits(name));
    names.sort_by_key(|name| (*name != plain, std::cmp::Reverse(version_of(name))));
    names.into_iter().map(|name| folder.join(name)).collect()
}

fn is_version(text: &str) -> bool {
    !text.is_empty() && text.split('.').all(|part| part.parse::<u32>().is_ok())
}

fn version_of(text: &str) -> Vec<u32> {
    text.split('.')
        .filter_map(|part| part.parse().ok())
        .collect()
}

fn probe(path: PathBuf, origin: &'static str) -> Result<Found, Attempt> {
    if !path.is_file() {
        let reason = "no such file (the full path of the library is expected)".to_owned();
        return Err(Attempt {
            path,
            origin,
            reason,
        });
    }
    // `ort` takes a relative path as relative to the executable, everyone else to the working directory.
    match path.canonicalize() {
        Ok(path) => load(path, origin),
        Err(error) => Err(Attempt {
            path,
            origin,
            reason: error.to_string(),
        }),
    }
}

fn load(path: PathBuf, origin: &'static str) -> Result<Found, Attempt> {
    let version = match native::library_version(&path) {
        Ok(version) => version,
        Err(reason) => {
            return Err(Attempt {
                path,
                origin,
                reason,
            });
        }
    };
    let parts = version_of(&version);
    let (major, minor) = (
        parts.first().copied().unwrap_or(0),
        parts.get(1).copied().unwrap_or(0),
    );
    if (major, minor) < MIN_VERSION {
        let reason = format!(
            "is ONNX Runtime {version}, {}.{} or newer is needed",
            MIN_VERSION.0, MIN_VERSION.1
        );
        return Err(Attempt {
            path,
            origin,
            reason,
        });
    }
    Ok(Found {
        path,
        origin,
        version,
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_searched_newest_first_and_for_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "libonnxruntime.so.1.9.0",
            "libonnxruntime.so.1.31.1",
            "libonnxruntime_providers_shared.so",
            "libonnxruntime.so.bak",
            "libonnxruntime.so",
            "onnxruntime.so",
        ] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = libraries_in(dir.path());
        let names: Vec<_> = found
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "libonnxruntime.so",
                "libonnxruntime.so.1.31.1",
                "libonnxruntime.so.1.9.0"
            ]
        );
    }

    #[test]
    fn what_was_asked_for_is_the_only_candidate() {
        let dir = tempfile::tempdir().unwrap();
        let cases = [
            ("absent.so", None, "no such file"),
            ("text.so", Some("not a library"), "text.so"),
        ];
        for (name, content, want) in cases {
            let path = dir.path().join(name);
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let tried = find(Some(&path)).unwrap_err();
            assert_eq!(tried.len(), 1, "{tried:?}");
            assert!(tried[0].to_string().contains(want), "{}", tried[0]);
        }
    }
}
