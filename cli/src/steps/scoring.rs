//! Logits of a split through the deployed session, kept in the run directory.

use super::{Run, split::Splits};
use anyhow::{Context, anyhow, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stage1_core::{
    artifact::{Digest, Document, json},
    certificate::Fingerprint,
    logits::LogitSet,
    split::{Split, SplitSample},
};
use stage1_runtime::{Device, Scorer, ScorerOptions};
use std::path::{Path, PathBuf};

/// What the logits beside it were made from: they are used again only for the very same.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    schema_version: u32,
    fingerprint: Fingerprint,
    threads: usize,
    splits_digest: Digest,
    split: Split,
    logits: Digest,
}

impl Document for Stamp {
    const KIND: &'static str = "logits stamp";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Opens the run's bundle as it will be deployed.
pub(crate) fn open_session(run: &Run) -> anyhow::Result<Scorer> {
    let dir = run.config.bundle_dir();
    let options = ScorerOptions {
        device: Device::Cpu,
        threads: run.config.thread_count(),
        ..ScorerOptions::default()
    };
    Scorer::open(&dir, &options)
        .with_context(|| format!("cannot open the bundle {}", dir.display()))
}

/// The logits of `split`, in the order of `splits.json`.
pub(crate) fn logits(
    run: &Run,
    splits: &Splits,
    scorer: &mut Scorer,
    split: Split,
) -> anyhow::Result<LogitSet> {
    let path = run.config.logits_path(split);
    let stamp_path = path.with_extension("json");
    let mut stamp = Stamp {
        schema_version: Stamp::SCHEMA_VERSION,
        fingerprint: scorer.fingerprint(),
        threads: run.config.thread_count(),
        splits_digest: splits.digest,
        split,
        logits: Digest::of_bytes(b""),
    };
    if let Some(logits) = reuse(&path, &stamp_path, &mut stamp) {
        return Ok(logits);
    }
    let set = score(run, splits, scorer, split)?;
    stamp.logits = set.save(&path)?;
    json::save(&stamp, &stamp_path)?;
    Ok(set)
}

/// A stamp that can't be read, or names other inputs, means that the logits are made again.
fn reuse(path: &Path, stamp_path: &Path, want: &mut Stamp) -> Option<LogitSet> {
    let (stamp, _): (Stamp, _) = json::load(stamp_path).ok()?;
    want.logits = stamp.logits;
    (stamp == *want && stamp.logits.verify_file(path).is_ok()).then(|| LogitSet::load(path).ok())?
}

fn score(
    run: &Run,
    splits: &Splits,
    scorer: &mut Scorer,
    split: Split,
) -> anyhow::Result<LogitSet> {
    let samples: Vec<_> = splits.manifest.of(split).collect();
    let paths: Vec<_> = samples
        .iter()
        .map(|sample| splits.root.join(&sample.path))
        .collect();
    verify_contents(&samples, &paths)?;
    run.output.note(&format!(
        "scoring {} images of {split} through the deployed session",
        paths.len()
    ));
    let mut logits = Vec::with_capacity(paths.len() * splits.manifest.labels.len());
    for scored in scorer.score_paths(&paths, &run.progress)? {
        logits.extend(
            scored
                .map_err(|error| anyhow!(error))
                .with_context(|| format!("cannot score {split}"))?,
        );
    }
    stage1_core::progress::Progress::finish(&run.progress);
    let set = LogitSet {
        logits,
        classes: splits.manifest.labels.len(),
        labels: samples
            .iter()
            .map(|sample| i64::try_from(sample.label))
            .collect::<Result<_, _>>()?,
        ids: samples.iter().map(|sample| sample.path.clone()).collect(),
        units: Some(samples.iter().map(|sample| sample.unit).collect()),
        split: None,
        // No model has a gate yet; a policy on one refuses these rows by name.
        gate: None,
        source: Some(scorer.source()),
    };
    set.validate()?;
    Ok(set)
}

/// A split is a promise about contents, not about names.
fn verify_contents(samples: &[&SplitSample], paths: &[PathBuf]) -> anyhow::Result<()> {
    samples.par_iter().zip(paths).try_for_each(|(sample, path)| {
        let Some(want) = sample.digest else { return Ok(()) };
        let got = Digest::of_file(path)?;
        if got != want {
            bail!(
                "{}: the file was changed since the split (recorded digest {}, found {}); restore it, or split again with --overwrite",
                path.display(),
                want.short(),
                got.short()
            );
        }
        Ok(())
    })
}
