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

use crate::{args::StepArgs, output::Output, progress::Steps};
use anyhow::Context;
use stage1_core::{artifact::atomic, config::Config};

/// What every step knows.
pub(crate) struct Run {
    pub(crate) config: Config,
    pub(crate) overwrite: bool,
    pub(crate) output: Output,
    pub(crate) progress: Steps,
}

impl Run {
    /// Reads the configuration and records the resolved one in the run directory.
    pub(crate) fn open(args: &StepArgs, output: Output) -> anyhow::Result<Self> {
        let config = Config::load(&args.source.config, &args.source.overrides)?;
        let path = config.resolved_path();
        atomic::write_bytes(&path, config.to_yaml().as_bytes())
            .context("cannot save the resolved configuration")?;
        start_threads(config.thread_count())?;
        Ok(Self {
            config,
            overwrite: args.overwrite,
            output,
            progress: Steps::new(output),
        })
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
