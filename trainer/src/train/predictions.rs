//! What a checkpoint says of val_select, image by image: for comparisons of trainings, and of scores.

use super::{Job, data_root};
use crate::{
    Error, Result,
    backbone::Backbone,
    events::Events,
    fit,
    head::{Head, values},
};
use stage1_core::{
    artifact::{Lock, atomic},
    checkpoint::Checkpoint,
    config::Config,
    logits::{LogitSet, Source},
    model::BackboneSpec,
    split::Split,
};
use std::path::Path;
use tch::no_grad;

/// Writes libtorch's logits of val_select, by the checkpoint of `config`, to `path`, unless they are there already; how
/// many images' features were computed. No image of val_calib or val_test is opened.
///
/// # Errors
/// [`Error`], as for training.
pub fn select_logits(config: &Config, path: &Path, events: &dyn Events) -> Result<usize> {
    let dir = config.checkpoint_dir();
    let checkpoint = Checkpoint::load(&dir)?;
    if is_there(path, &checkpoint) {
        return Ok(0);
    }
    let decided = match (config.backbone.blocks.is_auto(), &checkpoint.backbone) {
        (true, BackboneSpec::Vit(vit)) => Some(config.at_depth(vit.layers)),
        _ => None,
    };
    let config = decided.as_ref().unwrap_or(config);
    let (set, computed) = Job::open(config, events)?.select_logits(&checkpoint, &dir)?;
    set.save(path)?;
    Ok(computed)
}

fn is_there(path: &Path, checkpoint: &Checkpoint) -> bool {
    let source = LogitSet::load(path).ok().and_then(|set| set.source);
    source.is_some_and(|source| source.model_digest == checkpoint.digest())
}

impl Job<'_> {
    fn select_logits(&self, checkpoint: &Checkpoint, dir: &Path) -> Result<(LogitSet, usize)> {
        let weights = checkpoint.weights(dir, &self.config.backbone)?;
        if weights.digest() != checkpoint.backbone_digest {
            return Err(Error::OtherBackbone {
                path: dir.to_owned(),
                want: checkpoint.backbone_digest,
                got: weights.digest(),
            });
        }
        let adapted = checkpoint
            .has_adapter()
            .then(|| Backbone::new(&weights, self.backbone.device()));
        let mut extractor = self.extractor();
        extractor.backbone = adapted.as_ref().unwrap_or(&self.backbone);
        let samples: Vec<_> = self.splits.of(Split::ValSelect).collect();
        let part = super::Part::find(&samples, &data_root(self.config), self.events)?;
        let cache_dir = self.config.cache_dir();
        let _in_use = Lock::share(&cache_dir.join(".lock"), || atomic::sweep(&cache_dir))?;
        let mut caches = self.caches(&weights)?;
        let found = self.fill_caches(&extractor, &mut caches, &part.images)?;
        let kept = samples.iter().zip(&part.images);
        let kept: Vec<_> = kept
            .filter(|(_, image)| !found.bad.contains(&image.digest))
            .map(|(sample, _)| *sample)
            .collect();
        let part = part.without(&found.bad);
        let head = self.head();
        let parameters = head
            .load(&checkpoint.head_file(dir)?)?
            .to_device(self.backbone.device());
        let rows = self.labelled(&caches, &part)?;
        let logits = values(&fit::logits(&head, &parameters, &rows.features));
        let gate = match (checkpoint.gate, self.head.trunk()) {
            (Some(spec), Some(trunk)) => {
                let gate = Head::of_gate(spec, trunk);
                let own = gate.load(&checkpoint.head_file(dir)?)?;
                let hidden = no_grad(|| head.hidden(&parameters, &rows.features));
                Some(values(&fit::logits(
                    &gate,
                    &own.to_device(hidden.device()),
                    &hidden,
                )))
            }
            _ => None,
        };
        let set = LogitSet {
            logits,
            classes: self.splits.labels.len(),
            labels: kept.iter().map(|sample| sample.label as i64).collect(),
            ids: kept.iter().map(|sample| sample.path.clone()).collect(),
            units: Some(kept.iter().map(|sample| sample.unit).collect()),
            split: None,
            gate,
            source: Some(Source {
                provider: "cpu".to_owned(),
                provider_version: "libtorch".to_owned(),
                precision: "fp32".to_owned(),
                model_digest: checkpoint.digest(),
                preprocessing_digest: self.config.preprocess.digest(),
            }),
        };
        Ok((set, found.computed))
    }
}
