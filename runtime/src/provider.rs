//! What a session's provider is told, and what of it a fingerprint must name.

use crate::{
    Error, Result, SessionOptions, ShapeProfile, TensorInfo,
    engines::{self, Engines},
    gpu, native,
    session::{ModelSource, describe},
};
use stage1_core::{
    artifact::Digest,
    device::{Device, ProviderOptions},
};
use std::{collections::BTreeMap, path::PathBuf};

/// An execution provider, ready to be registered for one session.
pub(crate) struct Provider {
    pub(crate) options: BTreeMap<String, String>,
    /// As fingerprints name it: everything that logits depend on, beside model and CPU.
    pub(crate) version: String,
    pub(crate) profile: Option<ShapeProfile>,
    pub(crate) engines: Option<Engines>,
}

impl Provider {
    pub(crate) fn of(
        source: &ModelSource<'_>,
        options: &SessionOptions,
        onnxruntime: &str,
    ) -> Result<Self> {
        options.providers.check()?;
        let mut provider = Self {
            options: options.providers.of(options.device),
            version: version(onnxruntime, options.device, &options.providers),
            profile: None,
            engines: None,
        };
        if options.device == Device::Tensorrt {
            let own = ShapeProfile::of_options(&provider.options)?;
            provider.profile = own.or_else(|| options.profile.clone());
            let shapes = provider.profile.iter().flat_map(ShapeProfile::options);
            provider.options.extend(shapes);
            provider.keep_engines(source)?;
        }
        Ok(provider)
    }

    /// Gives TensorRT a folder of its own; not where that is switched off, nor without TensorRT, so that registering it says
    /// what is missing.
    fn keep_engines(&mut self, source: &ModelSource<'_>) -> Result<()> {
        let is_on = |name| self.options.get(name).is_some_and(|value| value == "1");
        let is_wanted = is_on("trt_engine_cache_enable") || is_on("trt_timing_cache_enable");
        if !is_wanted || native::tensorrt_version().is_none() {
            return Ok(());
        }
        let root = self.options.remove("trt_engine_cache_path");
        let root = root.map(PathBuf::from).or_else(engines::default_root);
        let root = root.ok_or_else(|| Error::Engines {
            dir: PathBuf::new(),
            reason:
                "neither XDG_CACHE_HOME nor HOME says where to keep them; set trt_engine_cache_path"
                    .to_owned(),
        })?;
        let weights = source.weights.as_ref();
        let origin = engines::Origin {
            model: source.digest,
            weights: weights.map(|weights| Digest::of_bytes(&weights.bytes)),
            options: &self.options,
            system: &self.version,
        };
        let engines = Engines::open(&root, &origin)?;
        let folder = engines.folder().display().to_string();
        for name in ["trt_engine_cache_path", "trt_timing_cache_path"] {
            self.options.insert(name.to_owned(), folder.clone());
        }
        self.engines = Some(engines);
        Ok(())
    }
}

/// TensorRT takes any number of images only between shapes that it knows.
///
/// # Errors
/// [`Error::Profile`].
pub(crate) fn check_shapes(input: &TensorInfo) -> Result<()> {
    if !input.shape.contains(&None) {
        return Ok(());
    }
    Err(Error::Profile {
        reason: format!(
            "the input is {}, and nothing says between which shapes it lies; set trt_profile_min_shapes, \
             trt_profile_opt_shapes and trt_profile_max_shapes",
            describe(input)
        ),
    })
}

/// `onnxruntime 1.31.1`; for accelerators also what they are, who drives them, and the options that may change results.
fn version(onnxruntime: &str, device: Device, options: &ProviderOptions) -> String {
    let mut parts = vec![format!("onnxruntime {onnxruntime}")];
    if device != Device::Cpu {
        parts.extend(gpu::told());
    }
    if device == Device::Tensorrt {
        let version = native::tensorrt_version();
        parts.extend(version.map(|version| format!("tensorrt {version}")));
    }
    parts.extend(options.numerics(device));
    parts.join(", ")
}
