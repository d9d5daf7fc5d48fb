//! Which splits chose the images that a training begins with the knowledge of. A backbone, an adapter or a checkpoint that was
//! trained under other splits may have seen what this run holds out, and then no certificate of this run holds.

use crate::{Error, Result, events::Events};
use stage1_core::{
    artifact::{Digest, json},
    checkpoint::Checkpoint,
    config::Config,
    model::Adapter,
    pretrained::Pretrained,
    split::SplitManifest,
};
use std::path::Path;

/// Checks all that `config` begins with; tells where nobody can know.
///
/// # Errors
/// [`Error::TrainedElsewhere`], and what can't be read.
pub(crate) fn check(config: &Config, events: &dyn Events) -> Result<()> {
    backbone(config, &config.backbone.path, "backbone.path")?;
    let start = &config.train.init_from;
    if config.backbone.adapter.is_none() && start.is_none() {
        return Ok(());
    }
    let splits = splits(config)?;
    if let Some(dir) = &config.backbone.adapter {
        adapter(dir, splits, events)?;
    }
    if let Some(dir) = start {
        let seen = Checkpoint::load(dir)?.splits_digest;
        same(dir, "train.init_from", "checkpoint", seen, splits)?;
    }
    Ok(())
}

/// A backbone that we trained, in the folder `dir`; others know nothing of any splits.
///
/// # Errors
/// As [`check`].
pub(crate) fn backbone(config: &Config, dir: &Path, key: &'static str) -> Result<()> {
    if !Pretrained::is_in(dir) {
        return Ok(());
    }
    let seen = Pretrained::read(dir)?.splits_digest;
    same(dir, key, "backbone", seen, splits(config)?)
}

/// What an adapter says itself, and what the checkpoint says that it lies in.
fn adapter(dir: &Path, splits: Digest, events: &dyn Events) -> Result<()> {
    let own = Adapter::open(dir)?.splits_digest();
    let around = Checkpoint::around_adapter(dir).map(|checkpoint| checkpoint.splits_digest);
    for seen in [own, around].into_iter().flatten() {
        same(dir, "backbone.adapter", "adapter", seen, splits)?;
    }
    if own.or(around).is_none() {
        events.note(&format!(
            "{}: this adapter (backbone.adapter) doesn't say which images it was trained on, so that nobody can check it: if some \
             of val_calib or val_test were among them, no certificate of this run holds",
            dir.display()
        ));
    }
    Ok(())
}

fn splits(config: &Config) -> Result<Digest> {
    let (_, digest): (SplitManifest, _) = json::load(&config.splits_path())?;
    Ok(digest)
}

fn same(
    path: &Path,
    key: &'static str,
    what: &'static str,
    got: Digest,
    want: Digest,
) -> Result<()> {
    if got == want {
        return Ok(());
    }
    Err(Error::TrainedElsewhere {
        path: path.to_owned(),
        key,
        what,
        got,
        want,
    })
}
