use crate::{
    Error, Result, native,
    search::{self, Attempt, Found, MIN_VERSION},
};
use ort::{environment::Environment, ep::ExecutionProvider, logging::LogLevel};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// Why ONNX Runtime can't be used in this process. It is final: a failed load isn't tried again.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// No place holds a library that can be used.
    #[error("ONNX Runtime {}.{} or newer was not found; tried:\n{}\nrun `cargo xtask setup`, or set ORT_DYLIB_PATH to the full path of a libonnxruntime", MIN_VERSION.0, MIN_VERSION.1, list(tried))]
    NotFound {
        /// Every place, in order.
        tried: Vec<Attempt>,
    },
    /// The library was found, but doesn't start.
    #[error("{}: ONNX Runtime {version} doesn't start: {reason}; set ORT_DYLIB_PATH to another one, or remove it and run `cargo xtask setup`", library.display())]
    Start {
        /// The library.
        library: PathBuf,
        /// Its version.
        version: String,
        /// What it says.
        reason: String,
    },
}

fn list(tried: &[Attempt]) -> String {
    tried
        .iter()
        .map(|attempt| format!("  {attempt}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The ONNX Runtime of this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuntimeInfo {
    /// The library that was loaded.
    pub library: PathBuf,
    /// Why it was this one, e.g. `ORT_DYLIB_PATH`.
    pub origin: &'static str,
    /// Its version, e.g. `1.31.1`.
    pub version: String,
    /// Providers of ours that are compiled into it. Whether their own libraries and devices are there shows when a session is
    /// opened on them.
    pub compiled_providers: Vec<&'static str>,
}

pub(crate) struct Loaded {
    pub(crate) environment: Environment,
    pub(crate) info: RuntimeInfo,
}

static LOADED: OnceLock<Result<Loaded, InitError>> = OnceLock::new();

/// Loads ONNX Runtime. The first call of the process does it, and its result, good or bad, is what every later call
/// gets. Sessions call this themselves.
///
/// The library is `path`; else `ORT_DYLIB_PATH`; else the first that can be loaded beside the executable, in `../lib` of
/// it, in `.native/onnxruntime/lib` of a folder above it (where `cargo xtask setup` puts it), or under the system's name.
///
/// # Errors
/// [`Error::Init`] with every place that was tried; [`Error::AnotherLibrary`] when `path` isn't the one that is loaded.
pub fn init(path: Option<&Path>) -> Result<RuntimeInfo> {
    let loaded = loaded(path)?;
    let same = |path: &Path| {
        path.canonicalize()
            .is_ok_and(|path| path == loaded.info.library)
    };
    match path {
        Some(asked) if !same(asked) => Err(Error::AnotherLibrary {
            loaded: loaded.info.library.clone(),
            asked: asked.to_owned(),
        }),
        _ => Ok(loaded.info.clone()),
    }
}

pub(crate) fn loaded(path: Option<&Path>) -> Result<&'static Loaded> {
    let loaded = LOADED.get_or_init(|| {
        native::reuse_freed_memory();
        let found = search::find(path).map_err(|tried| InitError::NotFound { tried })?;
        start(found)
    });
    loaded.as_ref().map_err(|error| Error::Init(error.clone()))
}

fn start(found: Found) -> Result<Loaded, InitError> {
    let failed = |reason: String| InitError::Start {
        library: found.path.clone(),
        version: found.version.clone(),
        reason,
    };
    let builder = ort::init_from(&found.path).map_err(|error| failed(error.to_string()))?;
    let built = builder.with_name("stage1").with_telemetry(false).build();
    let environment = built.map_err(|error| failed(error.to_string()))?;
    // Below warnings it formats a message for every node of every graph.
    environment.set_log_level(LogLevel::Warning);
    let compiled_providers = compiled_providers().map_err(|error| failed(error.to_string()))?;
    tracing::info!(library = %found.path.display(), version = found.version, "loaded ONNX Runtime");
    Ok(Loaded {
        environment,
        info: RuntimeInfo {
            library: found.path,
            origin: found.origin,
            version: found.version,
            compiled_providers,
        },
    })
}

fn compiled_providers() -> ort::Result<Vec<&'static str>> {
    let mut providers = vec!["cpu"];
    if ort::ep::CUDA::is_available()? {
        providers.push("cuda");
    }
    if ort::ep::TensorRT::is_available()? {
        providers.push("tensorrt");
    }
    Ok(providers)
}
