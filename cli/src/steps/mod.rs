//! The steps of a run, in their order. Each leaves artifacts in the run directory, takes up what is there when it was
//! made from the same inputs, and refuses to replace what was made from others unless told to.

pub(crate) mod calibrate;
pub(crate) mod export;
pub(crate) mod latency;
pub(crate) mod report;
pub(crate) mod scoring;
pub(crate) mod split;
pub(crate) mod train;
pub(crate) mod validate;

use crate::{
    args::{ConfigSource, StepArgs},
    output::Output,
    progress::Steps,
};
use anyhow::Context;
use stage1_core::{artifact::atomic, config::Config};
use std::fs;

/// What every step knows.
pub(crate) struct Run {
    pub(crate) config: Config,
    /// Where the configuration comes from: the trainer reads it for itself.
    pub(crate) source: ConfigSource,
    pub(crate) overwrite: bool,
    pub(crate) output: Output,
    pub(crate) progress: Steps,
}

impl Run {
    /// Reads the configuration.
    pub(crate) fn open(args: &StepArgs, output: Output) -> anyhow::Result<Self> {
        let config = Config::load(&args.source.config, &args.source.overrides)?;
        start_threads(config.thread_count())?;
        Ok(Self {
            config,
            source: args.source.clone(),
            overwrite: args.overwrite,
            output,
            progress: Steps::new(output),
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

fn start_threads(threads: usize) -> anyhow::Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("cannot start the thread pool")
}
