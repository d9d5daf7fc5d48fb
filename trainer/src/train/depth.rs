//! `backbone.blocks: auto`: a head on each candidate block, from one pass of the backbone, and the shallowest one that is good
//! enough on val_select.

mod bootstrap;

use super::{Job, Part, REVISION};
use crate::{
    Error, Result,
    events::EpochRecord,
    features::{FeatureCache, Target},
    fit::{self, Start, fit},
    head::values,
    peft::Adapters,
    selection,
};
use bootstrap::{Judged, Resamples};
use stage1_core::{
    artifact::{self, Digest, Document as _, Lock, atomic, json},
    config::{Config, DepthConfig, HeadConfig, SelectionMetric, TrainConfig},
    data::OnBadImage,
    depth::{DepthCandidate, DepthChoice},
    metrics::SurestFirst,
    model::{BackboneSpec, Blocks},
    split::Split,
};
use std::{collections::BTreeSet, slice};

/// A GiB.
const GIB: f64 = (1u64 << 30) as f64;

/// The configuration with the number of blocks that was chosen, and how many images' features were computed for the choice.
pub(super) fn decide(job: &Job<'_>) -> Result<(Config, usize)> {
    let (choice, computed) = match job.known_depth() {
        Some(choice) => (choice, 0),
        None => job.choose_depth()?,
    };
    job.events.note(&choice.sentence());
    Ok((job.config.at_depth(choice.chosen), computed))
}

/// A candidate and its features.
struct Candidate {
    blocks: usize,
    cache: FeatureCache,
}

impl Job<'_> {
    /// An earlier choice that was made from the same.
    pub(super) fn known_depth(&self) -> Option<DepthChoice> {
        let (choice, _): (DepthChoice, _) = json::load(&self.config.depth_path()).ok()?;
        (choice.inputs_digest == self.depth_inputs()).then_some(choice)
    }

    fn choose_depth(&self) -> Result<(DepthChoice, usize)> {
        let (train, select) = (self.part(Split::Train)?, self.part(Split::ValSelect)?);
        let cache_dir = self.config.cache_dir();
        let _in_use = Lock::share(&cache_dir.join(".lock"), || atomic::sweep(&cache_dir))?;
        let mut candidates = self.candidates()?;
        let (computed, bad) = self.fill(&mut candidates, &train, &select)?;
        let (train, select) = (train.without(&bad), select.without(&bad));
        self.check_left(&train, &select)?;
        let choice = self.compare(&candidates, &train, &select)?;
        json::save(&choice, &self.config.depth_path())?;
        Ok((choice, computed))
    }

    /// The blocks that may be chosen, each with its cache: that of the backbone that ends there, so that a training on a
    /// fixed number of blocks uses the same.
    fn candidates(&self) -> Result<Vec<Candidate>> {
        let depth = &self.config.backbone.depth;
        let layers = self.backbone.depth();
        let asked = depth.candidates.clone();
        let asked = asked.unwrap_or_else(|| (1..=layers).collect());
        // From the deepest one on, so that one copy of the weights serves all.
        let mut weights = self.weights.clone();
        let mut candidates = Vec::with_capacity(asked.len());
        for &blocks in asked.iter().rev() {
            weights = weights.with_blocks(Blocks::First(blocks))?;
            let cache = FeatureCache::open(
                &self.config.cache_dir(),
                weights.digest(),
                self.config.preprocess.digest(),
                weights.spec().hidden(),
                &|message| self.events.warning(message),
            )?;
            candidates.push(Candidate { blocks, cache });
        }
        candidates.reverse();
        Ok(candidates)
    }

    fn fill(
        &self,
        candidates: &mut [Candidate],
        train: &Part,
        select: &Part,
    ) -> Result<(usize, BTreeSet<Digest>)> {
        let images = [train.images.as_slice(), &select.images].concat();
        self.check_space(candidates, &images.iter().map(|i| i.digest).collect())?;
        let mut targets: Vec<_> = candidates
            .iter_mut()
            .map(|candidate| Target {
                depth: candidate.blocks,
                cache: &mut candidate.cache,
            })
            .collect();
        let found = self.extractor().fill_depths(&mut targets, &images)?;
        Ok((found.computed, found.bad))
    }

    /// Refuses what would fill the disk.
    fn check_space(&self, candidates: &[Candidate], images: &BTreeSet<Digest>) -> Result<()> {
        let lacking = |c: &Candidate| images.iter().filter(|i| !c.cache.contains(**i)).count();
        let rows: usize = candidates.iter().map(lacking).sum();
        // The class token and the mean of the patches, in float32.
        let needed = (rows * self.backbone.spec().hidden() * 8) as f64 / GIB;
        let limit = self.config.backbone.depth.max_cache_gib;
        if needed <= limit {
            return Ok(());
        }
        Err(Error::DepthCache {
            images: images.len(),
            candidates: candidates.len(),
            needed,
            limit,
            cache: self.config.cache_dir(),
        })
    }

    fn compare(
        &self,
        candidates: &[Candidate],
        train: &Part,
        select: &Part,
    ) -> Result<DepthChoice> {
        let metric = self.config.train.early_stop.metric;
        self.events
            .start("heads on blocks", candidates.len() as u64);
        let mut judged = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let (epoch, found) = self.judge_depth(candidate, train, select)?;
            judged.push((candidate.blocks, epoch, found));
            self.events.advance(1);
        }
        self.events.finish();
        let (labels, units) = (select.labels.clone(), select.units.clone());
        let resamples = Resamples::new(labels, &units, self.splits.labels.len(), self.config.seed);
        let choice = self.choice(metric, &judged, &resamples);
        for candidate in &choice.candidates {
            self.events.note(&choice.line(candidate));
        }
        Ok(choice)
    }

    /// A head on a block: its epoch, and what it says of val_select.
    fn judge_depth(
        &self,
        candidate: &Candidate,
        train: &Part,
        select: &Part,
    ) -> Result<(usize, Judged)> {
        let head = self.head();
        let (train, select) = (
            self.labelled(slice::from_ref(&candidate.cache), train)?,
            self.labelled(slice::from_ref(&candidate.cache), select)?,
        );
        let mut watch = |_: &EpochRecord| -> Result<()> { Ok(()) };
        let (settings, seed) = (&self.config.train, self.config.seed);
        let start = Start::default();
        let fitted = fit(
            &head, &train, &select, settings, seed, start, None, &mut watch,
        )?;
        let logits = fit::logits(&head, &fitted.parameters, &select.features);
        let classes = head.classes();
        let rows = values(&logits);
        Ok((
            fitted.epoch,
            Judged {
                metrics: fitted.metrics,
                predicted: rows
                    .chunks_exact(classes)
                    .map(selection::first_largest)
                    .collect(),
                nll: selection::nll_of_each(&logits, &select.labels),
                surest_first: SurestFirst::new(&selection::largest_probabilities(&rows, classes)),
            },
        ))
    }

    fn choice(
        &self,
        metric: SelectionMetric,
        judged: &[(usize, usize, Judged)],
        resamples: &Resamples,
    ) -> DepthChoice {
        let score = |judged: &Judged| metric.score(judged.metrics[metric.name()]);
        // The shallower one of equals.
        let best = judged
            .iter()
            .reduce(|best, next| match score(&next.2) > score(&best.2) {
                true => next,
                false => best,
            })
            .expect("at least one candidate");
        let tolerance = self.config.backbone.depth.tolerance;
        let behind = |judged: &Judged| score(&best.2) - score(judged);
        let near = judged.iter().find(|(.., j)| behind(j) <= tolerance);
        let candidates = judged.iter().map(|(blocks, epoch, found)| {
            let (interval, behind_interval) = resamples.intervals(metric, found, &best.2);
            DepthCandidate {
                blocks: *blocks,
                epoch: *epoch,
                metrics: found.metrics.clone(),
                interval,
                behind: behind(found),
                behind_interval,
            }
        });
        DepthChoice {
            schema_version: DepthChoice::SCHEMA_VERSION,
            inputs_digest: self.depth_inputs(),
            splits_digest: self.splits_digest,
            metric,
            tolerance,
            layers: self.backbone.depth(),
            images: resamples.images(),
            units: resamples.units(),
            candidates: candidates.collect(),
            best: best.0,
            chosen: near.map_or(best.0, |(blocks, ..)| *blocks),
        }
    }

    /// The digest of everything that decides the choice.
    fn depth_inputs(&self) -> Digest {
        #[derive(serde::Serialize)]
        struct Inputs<'a> {
            revision: u32,
            seed: u64,
            threads: Option<usize>,
            splits: Digest,
            preprocess: Digest,
            backbone: Digest,
            depth: DepthConfig,
            head: &'a HeadConfig,
            train: TrainConfig,
            on_bad_image: OnBadImage,
        }
        Digest::of_json(&Inputs {
            revision: REVISION,
            seed: self.config.seed,
            threads: self.config.threads,
            splits: self.splits_digest,
            preprocess: self.config.preprocess.digest(),
            backbone: self.backbone_digest,
            depth: DepthConfig {
                max_cache_gib: 1.0,
                ..self.config.backbone.depth.clone()
            },
            head: &self.config.head,
            train: super::that_decides(&self.config.train),
            on_bad_image: self.config.data.options.on_bad_image,
        })
    }
}

/// Whatever is chosen, there must be layers to adapt in it: the shallowest candidate has the fewest.
pub(super) fn check_adapters(config: &Config, spec: &BackboneSpec) -> Result<()> {
    let candidates = config.backbone.depth.candidates.as_deref();
    let shallowest = candidates.map_or(1, |candidates| candidates[0]);
    let spec = spec.clone().with_blocks(Blocks::First(shallowest))?;
    match Adapters::choose(&spec, &config.peft) {
        Err(Error::Targets { key, reason }) => Err(Error::Targets {
            key,
            reason: format!(
                "{reason}, and `backbone.blocks: auto` may choose the first {shallowest}: name deeper candidates alone \
                 (backbone.depth.candidates), or adapt layers that all of them have"
            ),
        }),
        other => other.map(|_| ()),
    }
}

/// What an interrupted or other choice left.
pub(super) fn forget(config: &Config) -> artifact::Result<()> {
    match std::fs::remove_file(config.depth_path()) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(artifact::Error::Io {
            action: "remove",
            path: config.depth_path(),
            source,
        }),
        _ => Ok(()),
    }
}
