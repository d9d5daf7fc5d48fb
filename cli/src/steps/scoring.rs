//! Logits of a split through the deployed session, kept in the run directory.

use super::{Run, split::Splits};
use crate::commands::session;
use anyhow::{Context, anyhow, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use stage1_core::{
    artifact::{Digest, Document, json},
    bundle::Bundle,
    certificate::Fingerprint,
    config::Config,
    data::{Listing, OnBadImage},
    logits::LogitSet,
    preprocess::DecodeError,
    split::{Split, SplitSample},
};
use stage1_runtime::{ImageError, Scorer, ScorerOptions};
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
    /// Images that can't be decoded, where the configuration says to skip them and the split didn't read them.
    left_out: Listing,
}

impl Document for Stamp {
    const KIND: &'static str = "logits stamp";
    const SCHEMA_VERSION: u32 = 2;

    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

/// How the run's models are compared with one another: on the CPU, wherever they are deployed.
pub(crate) fn options(run: &Run) -> ScorerOptions {
    ScorerOptions {
        threads: run.config.thread_count(),
        limits: super::limits(&run.config),
        ..ScorerOptions::default()
    }
}

/// Opens a variant of the run's bundle as it will be deployed.
pub(crate) fn open_session(run: &Run, variant: &str) -> anyhow::Result<Scorer> {
    let deploy = &run.config.deploy;
    let scorer = open(
        run,
        ScorerOptions {
            variant: Some(variant.to_owned()),
            devices: deploy.device.clone(),
            providers: deploy.providers(),
            ..options(run)
        },
    )?;
    session::tell(&deploy.device, scorer.climb(), run.output);
    Ok(scorer)
}

/// Opens a variant as further ones are compared with it.
pub(crate) fn open_to_compare(run: &Run, variant: &str) -> anyhow::Result<Scorer> {
    let variant = Some(variant.to_owned());
    open(
        run,
        ScorerOptions {
            variant,
            ..options(run)
        },
    )
}

fn open(run: &Run, options: ScorerOptions) -> anyhow::Result<Scorer> {
    let dir = run.config.bundle_dir();
    Scorer::open(&dir, &options)
        .with_context(|| format!("cannot open the bundle {}", dir.display()))
}

/// The logits of `split`, in the order of `splits.json`.
pub(crate) fn logits(
    run: &Run,
    splits: &Splits,
    scorer: &Scorer,
    split: Split,
) -> anyhow::Result<LogitSet> {
    let path = run.config.variant_logits_path(scorer.variant(), split);
    let stamp_path = path.with_extension("json");
    let mut stamp = Stamp {
        schema_version: Stamp::SCHEMA_VERSION,
        fingerprint: scorer.fingerprint(),
        threads: run.config.thread_count(),
        splits_digest: splits.digest,
        split,
        logits: Digest::of_bytes(b""),
        left_out: Listing::default(),
    };
    if let Some(logits) = reuse(&path, &stamp_path, &mut stamp) {
        return Ok(logits);
    }
    let (set, left_out) = score(run, splits, scorer, split)?;
    stamp.left_out = left_out;
    stamp.logits = set.save(&path)?;
    json::save(&stamp, &stamp_path)?;
    Ok(set)
}

/// A stamp that can't be read, or names other inputs, means that the logits are made again.
fn reuse(path: &Path, stamp_path: &Path, want: &mut Stamp) -> Option<LogitSet> {
    let (stamp, _): (Stamp, _) = json::load(stamp_path).ok()?;
    (want.logits, want.left_out) = (stamp.logits, stamp.left_out.clone());
    (stamp == *want && stamp.logits.verify_file(path).is_ok()).then(|| LogitSet::load(path).ok())?
}

fn score(
    run: &Run,
    splits: &Splits,
    scorer: &Scorer,
    split: Split,
) -> anyhow::Result<(LogitSet, Listing)> {
    let samples: Vec<_> = splits.manifest.of(split).collect();
    let paths: Vec<_> = samples
        .iter()
        .map(|sample| splits.root.join(&sample.path))
        .collect();
    verify_contents(&samples, &paths)?;
    run.output.note(&format!(
        "scoring {} images of {split} through the deployed session of {}",
        paths.len(),
        scorer.variant()
    ));
    let mut logits = Vec::with_capacity(paths.len() * splits.manifest.labels.len());
    let mut gates = Vec::new();
    let (mut kept, mut left_out) = (Vec::with_capacity(paths.len()), Listing::default());
    for (sample, scored) in samples
        .iter()
        .zip(scorer.score_paths(&paths, &run.progress)?)
    {
        match scored {
            Ok(scores) => {
                logits.extend(scores.logits);
                gates.extend(scores.gate);
                kept.push(*sample);
            }
            Err(error) if may_skip(run, sample, &error) => left_out.push(error.to_string()),
            Err(error) => {
                return Err(anyhow!(error)).with_context(|| format!("cannot score {split}"));
            }
        }
    }
    let samples = kept;
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
        gate: scorer.bundle().manifest().gate.as_ref().map(|_| gates),
        source: Some(scorer.source()),
    };
    if let Some(images) = left_out.clone().non_empty() {
        run.output.warn(&format!(
            "{} image(s) of {split} can't be decoded and were left out: {images}",
            images.count
        ));
    }
    set.validate()
        .with_context(|| format!("cannot score {split}"))?;
    Ok((set, left_out))
}

/// As the trainer does: what can't be decoded is skipped when the configuration says so, a file that isn't there never is.
/// An image that the split has read was decoded then, so that its failure now has another cause.
fn may_skip(run: &Run, sample: &SplitSample, error: &ImageError) -> bool {
    let is_missing = match error {
        ImageError::Decode(DecodeError::InFile { source, .. }) => {
            matches!(**source, DecodeError::Io { .. })
        }
        _ => false,
    };
    run.config.data.options.on_bad_image == OnBadImage::Skip
        && sample.digest.is_none()
        && !is_missing
}

/// Scores those of `wanted` again whose logits are gone or damaged: the model and the rows are the same, and so are the
/// results.
pub(crate) fn restore(
    run: &Run,
    splits: &Splits,
    bundle: &Bundle,
    variant: &str,
    wanted: &[Split],
) -> anyhow::Result<()> {
    let is_gone =
        |split: &&Split| known(&run.config, splits.digest, bundle, variant, **split).is_err();
    let gone: Vec<_> = wanted.iter().filter(is_gone).collect();
    if gone.is_empty() {
        return Ok(());
    }
    let scorer = open_session(run, variant)?;
    for split in gone {
        logits(run, splits, &scorer, *split)?;
    }
    Ok(())
}

/// The logits of `split` as they were scored through `bundle`, with the images that were left out.
pub(crate) fn known(
    config: &Config,
    splits_digest: Digest,
    bundle: &Bundle,
    variant: &str,
    split: Split,
) -> anyhow::Result<(LogitSet, Listing)> {
    let path = config.variant_logits_path(variant, split);
    let (stamp, _): (Stamp, _) = json::load(&path.with_extension("json"))?;
    let model = bundle.variant(variant)?.model.digest;
    if stamp.fingerprint.model_digest != model || stamp.splits_digest != splits_digest {
        bail!(
            "{}: made by another model, or from other splits",
            path.display()
        );
    }
    stamp.logits.verify_file(&path)?;
    Ok((LogitSet::load(&path)?, stamp.left_out))
}

/// A split is a promise about contents, not about names.
fn verify_contents(samples: &[&SplitSample], paths: &[PathBuf]) -> anyhow::Result<()> {
    samples.par_iter().zip(paths).try_for_each(|(sample, path)| {
        let Some(want) = sample.digest else { return Ok(()) };
        let got = Digest::of_file(path)?;
        if got != want {
            bail!(
                "{}: the file was changed since the split (recorded digest {}, found {}); restore it, or divide again with `stage1 split --overwrite`",
                path.display(),
                want.short(),
                got.short()
            );
        }
        Ok(())
    })
}
