//! The bundles that are served, by name, and how they are exchanged.

use crate::{
    engine::Engine,
    failure::{Failure, Result},
    metrics::Metrics,
    model::Model,
    options::{BundleSource, Options},
};
use stage1_core::{artifact::Digest, bundle::MANIFEST};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

/// What is known of a name.
struct Entry {
    source: BundleSource,
    now: Mutex<Now>,
    /// Held while a bundle is loaded: one at a time.
    loading: AsyncMutex<()>,
}

#[derive(Default)]
struct Now {
    model: Option<Arc<Model>>,
    /// Why the last attempt to load failed.
    failure: Option<LoadFailure>,
}

struct LoadFailure {
    text: String,
    /// Of what bundle.
    digest: Option<Digest>,
    at: Instant,
}

impl LoadFailure {
    /// How long the same bundle isn't tried again: its files may have come later than its record, or a disk have failed.
    const PAUSE: Duration = Duration::from_secs(30);

    fn is_of(&self, digest: Digest) -> bool {
        self.digest == Some(digest) && self.at.elapsed() < Self::PAUSE
    }
}

impl Entry {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of an attempt to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// The bundle on disk is the one that is served.
    Unchanged,
    /// It is served from now on.
    Exchanged,
}

/// A line of the repository's index.
pub(crate) struct IndexEntry {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) is_ready: bool,
    pub(crate) reason: String,
}

pub(crate) struct Models {
    entries: BTreeMap<String, Entry>,
    options: Arc<Options>,
    metrics: Arc<Metrics>,
    decoders: Arc<Semaphore>,
}

impl Models {
    /// The names, with nothing loaded yet.
    pub(crate) fn new(options: Arc<Options>, metrics: Arc<Metrics>) -> Self {
        let entries = options.bundles.iter().map(|source| {
            let entry = Entry {
                source: source.clone(),
                now: Mutex::default(),
                loading: AsyncMutex::default(),
            };
            (source.name.clone(), entry)
        });
        let decoders = match options.batching.decoders {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        Self {
            entries: entries.collect(),
            decoders: Arc::new(Semaphore::new(decoders)),
            options,
            metrics,
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether all of them are served.
    pub(crate) fn are_ready(&self) -> bool {
        self.entries
            .values()
            .all(|entry| entry.now().model.is_some())
    }

    /// All that are served.
    pub(crate) fn served(&self) -> Vec<Arc<Model>> {
        self.entries
            .values()
            .filter_map(|entry| entry.now().model.clone())
            .collect()
    }

    /// The bundle `name`; `version` may be empty, and else must be the one that is served.
    pub(crate) fn get(&self, name: &str, version: &str) -> Result<Arc<Model>> {
        let model = self.entry(name)?.now().model.clone();
        let Some(model) = model else {
            return Err(Failure::Unavailable {
                what: format!("`{name}` isn't loaded"),
                after: Duration::from_secs(5),
            });
        };
        let served = model.about().version();
        if !version.is_empty() && version != served {
            return Err(Failure::NotFound(format!(
                "`{name}` has no version `{version}`, it is at version `{served}`"
            )));
        }
        Ok(model)
    }

    /// The only bundle, or the one that `name` names.
    pub(crate) fn choose(&self, name: Option<&str>) -> Result<Arc<Model>> {
        match (name, self.entries.len()) {
            (Some(name), _) => self.get(name, ""),
            (None, 1) => self.get(self.names().next().expect("there is one"), ""),
            (None, _) => Err(Failure::Invalid(format!(
                "this server has several bundles: say which with `?model=NAME`, one of {}",
                self.list()
            ))),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let entry = self.entries.get(name);
        entry.ok_or_else(|| {
            let name: String = name.chars().take(64).collect();
            Failure::NotFound(format!(
                "there is no model `{name}`; there is {}",
                self.list()
            ))
        })
    }

    fn list(&self) -> String {
        self.names()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Why the last attempt to load `name` failed.
    pub(crate) fn failure(&self, name: &str) -> Option<String> {
        let now = self.entries.get(name)?.now();
        now.failure.as_ref().map(|failure| failure.text.clone())
    }

    pub(crate) fn index(&self) -> Vec<IndexEntry> {
        let line = |(name, entry): (&String, &Entry)| {
            let now = entry.now();
            let failure = now.failure.as_ref().map(|failure| failure.text.clone());
            IndexEntry {
                name: name.clone(),
                version: now
                    .model
                    .as_ref()
                    .map_or_else(String::new, |model| model.about().version()),
                is_ready: now.model.is_some(),
                reason: match (&now.model, failure) {
                    (Some(_), None) => String::new(),
                    (Some(_), Some(failure)) => format!(
                        "the last attempt to load failed, and the version before is served: {failure}"
                    ),
                    (None, Some(failure)) => failure,
                    (None, None) => "unloaded".to_owned(),
                },
            }
        };
        self.entries.iter().map(line).collect()
    }

    /// Loads the bundle on disk, and serves it from then on; requests that have begun end with the one that they began with. If it
    /// can't be loaded, the one before is still served.
    ///
    /// # Errors
    /// [`Failure::NotFound`]; [`Failure::Unavailable`] with what is wrong with the bundle.
    pub(crate) async fn load(&self, name: &str) -> Result<Loaded> {
        let entry = self.entry(name)?;
        let _turn = entry.loading.lock().await;
        let on_disk = Digest::of_file(&entry.source.dir.join(MANIFEST)).ok();
        let served = entry.now().model.as_ref().map(|model| model.about().digest);
        if served.is_some() && on_disk == served {
            entry.now().failure = None;
            return Ok(Loaded::Unchanged);
        }
        match self.open(&entry.source).await {
            Ok(model) => {
                let about = model.about();
                tracing::info!(
                    model = name,
                    version = about.version(),
                    variant = about.variant,
                    certified = about.is_certified(),
                    "serving a bundle"
                );
                for difference in &about.differences {
                    tracing::warn!(model = name, %difference, "the certificate doesn't cover this session: no answer is certified");
                }
                self.metrics.load(name, "loaded");
                *entry.now() = Now {
                    model: Some(Arc::new(model)),
                    failure: None,
                };
                Ok(Loaded::Exchanged)
            }
            Err(error) => {
                tracing::error!(model = name, dir = %entry.source.dir.display(), %error, "cannot load a bundle");
                self.metrics.load(name, "failed");
                entry.now().failure = Some(LoadFailure {
                    text: error.clone(),
                    digest: on_disk,
                    at: Instant::now(),
                });
                Err(Failure::Unavailable {
                    what: format!("`{name}` can't be loaded: {error}"),
                    after: Duration::from_secs(5),
                })
            }
        }
    }

    async fn open(&self, source: &BundleSource) -> Result<Model, String> {
        let (source, options) = (source.clone(), Arc::clone(&self.options));
        let (decoders, metrics) = (Arc::clone(&self.decoders), Arc::clone(&self.metrics));
        let task = tokio::task::spawn_blocking(move || {
            let engine = Engine::open(&source.dir, &options).map_err(|error| error.to_string())?;
            let model = Model::start(&source.name, engine, &options.batching, decoders, &metrics);
            model.map_err(|error| format!("no threads for it: {error}"))
        });
        task.await.map_err(|error| error.to_string())?
    }

    /// Loads all that have changed.
    pub(crate) async fn reload(&self) {
        for name in self.names() {
            // Failures are logged where they happen.
            _ = self.load(name).await;
        }
    }

    /// Loads those whose record on disk is neither the one that is served nor one that failed just now.
    pub(crate) async fn look(&self) {
        for (name, entry) in &self.entries {
            let Ok(on_disk) = Digest::of_file(&entry.source.dir.join(MANIFEST)) else {
                continue;
            };
            let is_known = {
                let now = entry.now();
                let served = now.model.as_ref().map(|model| model.about().digest);
                let has_failed = now
                    .failure
                    .as_ref()
                    .is_some_and(|failure| failure.is_of(on_disk));
                // One that a client has unloaded stays so.
                served.is_none() || served == Some(on_disk) || has_failed
            };
            if !is_known {
                _ = self.load(name).await;
            }
        }
    }

    /// Takes a bundle out of service; requests that have begun are still answered.
    pub(crate) async fn unload(&self, name: &str) -> Result<()> {
        let entry = self.entry(name)?;
        let _turn = entry.loading.lock().await;
        *entry.now() = Now::default();
        tracing::info!(model = name, "a bundle was unloaded");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_tried_again_after_a_while() {
        let digest = Digest::of_bytes(b"bundle.json");
        let mut failure = LoadFailure {
            text: "a file is missing".to_owned(),
            digest: Some(digest),
            at: Instant::now(),
        };
        assert!(failure.is_of(digest) && !failure.is_of(Digest::of_bytes(b"another")));
        failure.at = failure.at.checked_sub(LoadFailure::PAUSE).unwrap();
        assert!(!failure.is_of(digest));
    }
}
