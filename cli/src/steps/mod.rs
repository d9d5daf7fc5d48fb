//! The steps of a run, in their order. Each leaves artifacts in the run directory, takes up what is there when it was
//! made from the same inputs, and refuses to replace what was made from others unless told to.

pub(crate) mod ab_test;
pub(crate) mod calibrate;
pub(crate) mod export;
pub(crate) mod gate;
pub(crate) mod latency;
pub(crate) mod report;
pub(crate) mod scoring;
pub(crate) mod selection;
pub(crate) mod split;
pub(crate) mod train;
pub(crate) mod triton;
pub(crate) mod validate;
pub(crate) mod variants;

use crate::{
    args::{ConfigSource, StepArgs},
    output::Output,
    progress::Steps,
};
use anyhow::{Context, bail};
use stage1_core::{
    artifact::{Digest, Lock, atomic},
    config::Config,
    ledger::{self, Kind, Ledger},
    preprocess::Limits,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// What every step knows.
pub(crate) struct Run {
    pub(crate) config: Config,
    /// Where the configuration comes from: the trainer reads it for itself.
    pub(crate) source: ConfigSource,
    pub(crate) overwrite: bool,
    pub(crate) output: Output,
    pub(crate) progress: Steps,
    /// Two commands at work in one run directory would replace each other's results.
    _alone: Lock,
}

impl Run {
    /// Reads the configuration and takes the run directory for itself.
    pub(crate) fn open(args: &StepArgs, output: Output) -> anyhow::Result<Self> {
        let config = Config::load(&args.source.config, &args.source.overrides)?;
        check_run_dir(&config)?;
        let alone = Lock::take(&config.run_dir.join(".lock"), Duration::ZERO)?;
        atomic::sweep(&config.run_dir)?;
        start_threads(config.thread_count())?;
        Ok(Self {
            config,
            source: args.source.clone(),
            overwrite: args.overwrite,
            output,
            progress: Steps::new(output),
            _alone: alone,
        })
    }

    /// The same with further overrides, which name another run directory.
    pub(crate) fn beside(&self, overrides: &[String]) -> anyhow::Result<Self> {
        let mut source = self.source.clone();
        source.overrides.extend(overrides.iter().cloned());
        let config = Config::load(&source.config, &source.overrides)?;
        check_run_dir(&config)?;
        let alone = Lock::take(&config.run_dir.join(".lock"), Duration::ZERO)?;
        atomic::sweep(&config.run_dir)?;
        Ok(Self {
            config,
            source,
            overwrite: self.overwrite,
            output: self.output,
            progress: Steps::new(self.output),
            _alone: alone,
        })
    }

    /// Saves the resolved configuration beside the results: last, so that a command that was refused doesn't describe
    /// results that others made.
    pub(crate) fn record(&self) -> anyhow::Result<()> {
        let (path, yaml) = (self.config.resolved_path(), self.config.to_yaml());
        if fs::read_to_string(&path).is_ok_and(|known| known == yaml) {
            return Ok(());
        }
        atomic::write_bytes(&path, yaml.as_bytes())
            .context("cannot save the resolved configuration")
    }

    /// Tells that a step's result is there already.
    pub(crate) fn reused(&self, step: &str) {
        self.output.note(&format!("{step}: up to date"));
    }
}

/// The ledger of a run's splits, which all run directories of the same splits share.
pub(crate) fn ledger_of(config: &Config, splits: Digest, kind: Kind) -> ledger::Result<Ledger> {
    let images = (&*config.data.source, config.data.options.root.as_deref());
    Ledger::open_of_run(&config.splits_path(), images, splits, kind)
}

/// After an append: warns if other run directories can't know of it.
pub(crate) fn tell_if_private(ledger: &Ledger, output: Output) {
    if ledger.is_private() {
        output.warn(&format!(
            "the data's folder can't be written to, so this use of the data is on record in {} and beside other run directories of \
             the same folder only: one elsewhere would count from one again",
            ledger.path().display()
        ));
    }
}

/// Every folder of a data folder is a class: results there would be one at the next start.
fn check_run_dir(config: &Config) -> anyhow::Result<()> {
    let source = &config.data.source;
    if !source.is_dir() {
        return Ok(());
    }
    let source = resolve(source)?;
    for (key, dir) in [
        ("run_dir", config.run_dir.clone()),
        ("train.cache_dir", config.cache_dir()),
    ] {
        let place = resolve(&dir)?;
        let Ok(below) = place.strip_prefix(&source) else {
            continue;
        };
        let is_hidden = |part: &Path| part.to_string_lossy().starts_with('.');
        if !below.iter().any(|part| is_hidden(Path::new(part))) {
            bail!(
                "{key}: {} lies in the data folder {}, where every folder is a class; set {key} to a folder outside it",
                place.display(),
                source.display()
            );
        }
    }
    Ok(())
}

/// The real path, of what may not be there yet.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut missing = Vec::new();
    for place in path.ancestors() {
        if let Ok(real) = fs::canonicalize(place) {
            return Ok(missing
                .iter()
                .rev()
                .fold(real, |path: PathBuf, part| path.join(part)));
        }
        missing.extend(place.file_name());
    }
    Ok(path)
}

/// What one image may cost: what the configuration allowed for the split holds for every step.
pub(crate) fn limits(config: &Config) -> Limits {
    Limits {
        max_pixels: config.data.options.max_pixels,
        ..Limits::default()
    }
}

fn start_threads(threads: usize) -> anyhow::Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("cannot start the thread pool")
}
