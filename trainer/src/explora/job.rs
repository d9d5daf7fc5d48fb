//! From a configuration to a pre-trained backbone.

use super::{
    layout::Layout,
    objective::Objective,
    run::{self, Notes, Run},
    views::Views,
};
use crate::{
    Error, Result, device,
    events::Events,
    features::{Image, ImageReader},
    fit::{Keeper, Origin, State},
    log::{Log, Unit},
    origin,
    plan::Pretraining as Known,
    train::{Begin, Existing, PATIENCE, Part, data_root, interrupted},
};
use rayon::prelude::*;
use stage1_core::{
    artifact::{self, Digest, Hasher, Lock, atomic, json},
    config::{Config, ExploraConfig, Precision, TrainDevice},
    data::{self, NearOptions, OnBadImage},
    events::Plan,
    model::Weights,
    preprocess::Limits,
    pretrained::{ImagesUsed, Pretrained},
    split::{self, Split, SplitManifest, SplitSample, Unlabelled},
};
use std::{borrow::Cow, collections::BTreeMap, path::Path, sync::Arc, time::Duration};

/// Raised whenever the same inputs train another backbone than before.
const REVISION: u32 = 2;

/// Makes sure that the backbone that `config`'s head is to be trained on is there, and returns the configuration with it as
/// its `backbone`, and how the rest begins.
///
/// # Errors
/// [`Error`]; what was there before is then as it was.
pub(crate) fn prepare<'a>(
    config: &'a Config,
    existing: Existing,
    begin: Begin,
    events: &dyn Events,
) -> Result<(Cow<'a, Config>, Begin)> {
    origin::check(config, events)?;
    if !config.phase.pretrains() {
        return Ok((Cow::Borrowed(config), begin));
    }
    let begin = match &config.explora.from {
        Some(dir) => {
            check_from(config, dir)?;
            begin
        }
        None => Pretraining::open(config, events)?.ensure(existing, begin)?,
    };
    Ok((Cow::Owned(supervised(config)), begin))
}

/// What [`prepare`] would do, and the configuration that the rest would be planned with.
///
/// # Errors
/// As [`prepare`], as far as they show before anything is computed.
pub(crate) fn plan<'a>(
    config: &'a Config,
    existing: Existing,
    begin: Begin,
    events: &dyn Events,
) -> Result<(Cow<'a, Config>, Option<Plan>, Begin)> {
    origin::check(config, events)?;
    if !config.phase.pretrains() {
        return Ok((Cow::Borrowed(config), None, begin));
    }
    if let Some(dir) = &config.explora.from {
        check_from(config, dir)?;
        return Ok((Cow::Owned(supervised(config)), None, begin));
    }
    let pretraining = Pretraining::open(config, events)?;
    let plan = pretraining.plan(existing, begin)?;
    // Its architecture is the same: before it is there, that of the first backbone stands for it.
    Ok(match plan.done {
        true => (Cow::Owned(supervised(config)), Some(plan), begin),
        false => (Cow::Borrowed(config), Some(plan), Begin::Anywhere),
    })
}

fn supervised(config: &Config) -> Config {
    Config {
        backbone: config.supervised_backbone(),
        ..config.clone()
    }
}

/// Why images in the folders of `explora.data` aren't used.
fn left_out(used: &ImagesUsed, train_images: bool) -> String {
    let repeated = match train_images {
        true => "there twice, or in train, which is used already",
        false => "there twice, or in train, which `explora.train_images: false` leaves out",
    };
    let parts = [
        (used.held_out, "in val_select, val_calib or val_test"),
        (used.nearly_held_out, "nearly the same as one there"),
        (used.repeated, repeated),
        (used.unreadable, "unreadable"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<_> = parts.map(|(count, why)| format!("{count} {why}")).collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!(" (left out: {})", parts.join("; ")),
    }
}

/// The backbone of another run must be whole, of the same splits, and made from the configured one.
fn check_from(config: &Config, dir: &Path) -> Result<()> {
    let record = Pretrained::load(dir)?;
    origin::backbone(config, dir, "explora.from")?;
    let base = config.backbone.open()?.digest();
    if record.base_digest == base {
        return Ok(());
    }
    Err(Error::OtherStart {
        path: dir.to_owned(),
        key: "explora.from",
        what: "first backbone",
        got: record.base_digest.short(),
        want: base.short(),
    })
}

/// Everything that a training depends on, opened and checked.
struct Pretraining<'a> {
    config: &'a Config,
    events: &'a dyn Events,
    splits: SplitManifest,
    splits_digest: Digest,
    weights: Weights,
    base_digest: Digest,
    layout: Layout,
    reader: Arc<ImageReader>,
    /// Of `train`.
    train: Vec<Image>,
    /// Of the unlabelled folders, all of them.
    found: Vec<Unlabelled>,
}

impl<'a> Pretraining<'a> {
    fn open(config: &'a Config, events: &'a dyn Events) -> Result<Self> {
        let (splits, splits_digest): (SplitManifest, _) = json::load(&config.splits_path())?;
        let explora = &config.explora;
        let spec = config.backbone.spec()?;
        let layout = Layout::new(&spec, explora)?;
        let limits = Limits {
            max_pixels: config.data.options.max_pixels,
            ..Limits::default()
        };
        let reader = ImageReader::new(&config.preprocess, limits)?;
        spec.grid(reader.size().0, reader.size().1)?;
        let (height, width) = explora.local_size(reader.size(), spec.patch());
        spec.grid(height, width)?;
        let train = match explora.train_images {
            true => {
                let samples: Vec<&SplitSample> = splits.of(Split::Train).collect();
                Part::find(&samples, &data_root(config), events)?.images
            }
            false => Vec::new(),
        };
        let mut files = Vec::new();
        for folder in &explora.data {
            files.extend(data::images_below(folder).map_err(split::Error::Data)?);
        }
        let weights = config.backbone.open()?;
        Ok(Self {
            found: split::digests(files, events)?,
            base_digest: weights.digest(),
            reader: Arc::new(reader),
            config,
            events,
            splits,
            splits_digest,
            weights,
            layout,
            train,
        })
    }

    /// Trains unless the result is there; how what comes after it begins.
    fn ensure(&self, existing: Existing, begin: Begin) -> Result<Begin> {
        let dir = self.config.pretrained_dir();
        let _alone = Lock::take(&self.config.run_dir.join(".train.lock"), PATIENCE)?;
        // What a training that was killed left half-written.
        atomic::sweep(&self.config.run_dir.join("checkpoints"))?;
        let mut keeper = self.keeper();
        if self.is_done(&dir, existing)? {
            // Killed between the last two renames.
            keeper.remove()?;
            self.events
                .note("self-supervised training: up to date, reused");
            return Ok(begin);
        }
        self.check_start()?;
        let path = self.config.pretraining_state_path();
        let state: Option<State<Notes>> = interrupted(&keeper, &path, existing, begin)?;
        if state.is_none() {
            // Another training's, that is to be replaced.
            keeper.remove()?;
        }
        match self.run(&dir, &mut keeper, state) {
            // The same inputs would do the same again.
            Err(error @ (Error::PretrainingDiverged { .. } | Error::Collapsed { .. })) => {
                keeper.remove()?;
                return Err(error);
            }
            done => done?,
        }
        keeper.remove()?;
        tch::set_num_threads(self.config.thread_count() as i32);
        Ok(Begin::Anywhere)
    }

    /// Before the backbone is there, no checkpoint is of it: said before it is trained, not after.
    fn check_start(&self) -> Result<()> {
        match &self.config.train.init_from {
            None => Ok(()),
            Some(path) => Err(Error::StartBeforeBackbone { path: path.clone() }),
        }
    }

    fn is_done(&self, dir: &Path, existing: Existing) -> Result<bool> {
        if !dir.exists() {
            return Ok(false);
        }
        let replace = existing == Existing::Overwrite;
        match Pretrained::load(dir) {
            Ok(found) if found.inputs_digest == self.inputs_digest() => Ok(true),
            _ if replace => Ok(false),
            Ok(_) => Err(Error::PretrainedExists {
                path: dir.to_owned(),
            }),
            Err(source) => Err(Error::CheckpointDamaged { source }),
        }
    }

    fn keeper(&self) -> Keeper {
        let origin = Origin {
            inputs: self.inputs_digest(),
            backbone: self.base_digest,
            splits: self.splits_digest,
            preprocess: self.config.preprocess.digest(),
        };
        let every = Duration::from_secs(self.config.train.save_every_seconds);
        let path = self.config.pretraining_state_path();
        Keeper::new(path, origin, self.config.thread_count(), every)
    }

    fn run(&self, dir: &Path, keeper: &mut Keeper, state: Option<State<Notes>>) -> Result<()> {
        let (config, explora) = (self.config, &self.config.explora);
        let (images, used) = self.images()?;
        let threads = self.take_threads(keeper, state.as_ref());
        let device = device::choose(config.train.device)?;
        let size = self.reader.size();
        let objective = Objective::new(
            explora,
            config.train.precision,
            config.seed,
            &self.layout,
            &self.weights,
            size,
            device,
        )?;
        let count = images.len();
        let local = explora.local_size(size, self.weights.spec().patch());
        let (reader, spec) = (Arc::clone(&self.reader), &config.preprocess);
        let views = Views::new(reader, images, spec, local, explora, config.seed)?;
        let mask_token = Weights::mask_token(&config.backbone.path, self.weights.spec().hidden())?;
        let initial = self.layout.initial(&self.weights, mask_token, config.seed);
        let initial = initial.to_device(device);
        let run = Run::new(
            explora,
            &objective,
            &self.layout,
            views,
            &initial,
            count,
            config.seed,
        );
        let ended = state
            .as_ref()
            .map_or(&[][..], |state| &state.notes.records[..]);
        let board = config.tensorboard_dir().join("explora");
        let path = config.pretraining_metrics_path();
        let mut log = Log::create(path, &board, ended, Unit::Images, self.events)?;
        let (batch, steps) = run::steps(explora, count);
        let per_epoch = batch * steps;
        let done = state.as_ref().map_or(0, |s| s.notes.images(per_epoch));
        let left = (per_epoch * explora.epochs).saturating_sub(done);
        self.events
            .start("self-supervised training: images", left as u64);
        let taught = run.train(state, keeper, &mut log)?;
        self.events.finish();
        let weights = self.layout.merged(&taught.parameters, &self.weights)?;
        let mut record = Pretrained {
            schema_version: <Pretrained as artifact::Document>::SCHEMA_VERSION,
            base_digest: self.base_digest,
            backbone_digest: weights.digest(),
            splits_digest: self.splits_digest,
            inputs_digest: self.inputs_digest(),
            settings: explora.without_places(),
            seed: config.seed,
            threads,
            images: used,
            unfrozen_blocks: self.layout.unfrozen().to_vec(),
            adapted_modules: self.layout.adapted(),
            steps: taught.steps,
            metrics: taught.metrics,
            files: BTreeMap::new(),
        };
        record.save(dir, &weights, &config.backbone.path)?;
        let place = dir.display();
        self.events
            .note(&format!("the pre-trained backbone is in {place}"));
        Ok(())
    }

    /// libtorch's threads are those of the interrupted training.
    fn take_threads(&self, keeper: &mut Keeper, state: Option<&State<Notes>>) -> usize {
        let now = self.config.thread_count();
        let Some(state) = state else {
            return now;
        };
        if state.threads != now {
            self.events.warning(&format!(
                "the interrupted training computed with {} threads, which decide the last bits of its sums: it goes on with \
                 these, not {now}",
                state.threads
            ));
            tch::set_num_threads(state.threads as i32);
            keeper.set_threads(state.threads);
        }
        let position = state.notes.position;
        self.events.note(&format!(
            "self-supervised training goes on at epoch {}, step {}",
            position.epoch,
            position.step + 1
        ));
        state.threads
    }

    /// The images to train on, and which they are.
    fn images(&self) -> Result<(Vec<Image>, ImagesUsed)> {
        let mut used = ImagesUsed::default();
        let mut images = self.train.clone();
        if self.config.data.options.on_bad_image == OnBadImage::Skip {
            images = self.readable(images, &mut used)?;
        }
        used.train = images.len();
        if !self.found.is_empty() {
            let (root, options) = (data_root(self.config), &self.config.data.options);
            let found = self.found.clone();
            let admitted = split::admit(found, &self.splits, &root, options, self.events)?;
            self.tell(&admitted);
            used.held_out = admitted.held_out;
            used.nearly_held_out = admitted.nearly_held_out;
            used.repeated = admitted.repeated;
            used.unreadable += admitted.unreadable.count as usize;
            used.unlabelled = admitted.images.len();
            let more = admitted.images.into_iter();
            images.extend(more.map(|Unlabelled { path, digest }| Image { path, digest }));
        }
        if images.len() < 2 {
            return Err(Error::NothingToPretrain {
                images: images.len(),
                why: left_out(&used, self.config.explora.train_images),
            });
        }
        let mut hasher = Hasher::new();
        for image in &images {
            hasher.field(image.digest.as_bytes());
        }
        used.digest = Some(hasher.finish());
        Ok((images, used))
    }

    /// Those that can be decoded.
    fn readable(&self, images: Vec<Image>, used: &mut ImagesUsed) -> Result<Vec<Image>> {
        self.events.start("checking images", images.len() as u64);
        let read = |image: Image| {
            let decoded = self.reader.decode(&image);
            self.events.advance(1);
            match decoded {
                Ok(_) => Ok(Ok(image)),
                Err(error) if error.is_bad_image() => Ok(Err(error)),
                Err(error) => Err(error),
            }
        };
        let read: Vec<_> = images.into_par_iter().map(read).collect();
        self.events.finish();
        let mut kept = Vec::new();
        for image in read {
            match image? {
                Ok(image) => kept.push(image),
                Err(_) => used.unreadable += 1,
            }
        }
        Ok(kept)
    }

    fn tell(&self, admitted: &split::Admitted) {
        self.events.note(&format!(
            "unlabelled images: {} used; left out: {} in val_select, val_calib or val_test, {} nearly the same as one there, {} \
             repeated, {} unreadable",
            admitted.images.len(),
            admitted.held_out,
            admitted.nearly_held_out,
            admitted.repeated,
            admitted.unreadable.count
        ));
        if admitted.crowded > 0 {
            self.events.warning(&format!(
                "{} images look like so many others that not all pairs were compared: near-duplicates of held-out images may \
                 be among those that are used",
                admitted.crowded
            ));
        }
    }

    fn plan(&self, existing: Existing, begin: Begin) -> Result<Plan> {
        let done = self.is_done(&self.config.pretrained_dir(), existing)?;
        if !done {
            self.check_start()?;
        }
        let path = self.config.pretraining_state_path();
        let state: Option<State<Notes>> = match done {
            true => None,
            false => interrupted(&self.keeper(), &path, existing, begin)?,
        };
        let known = Known {
            config: self.config,
            layout: &self.layout,
            spec: self.weights.spec(),
            images: self.train.len() + self.found.len(),
            continues_at: state.map(|state| {
                let position = state.notes.position;
                (position.epoch, position.step + 1)
            }),
            done,
        };
        Ok(known.plan())
    }

    /// The digest of everything that decides the result, but for where files lie.
    fn inputs_digest(&self) -> Digest {
        #[derive(serde::Serialize)]
        struct Inputs<'a> {
            revision: u32,
            seed: u64,
            threads: Option<usize>,
            precision: Precision,
            #[serde(skip_serializing_if = "Option::is_none")]
            device: Option<TrainDevice>,
            splits: Digest,
            preprocess: Digest,
            backbone: Digest,
            explora: ExploraConfig,
            train: Vec<Digest>,
            found: Vec<Digest>,
            near: &'a NearOptions,
            on_bad_image: OnBadImage,
        }
        let mut found: Vec<_> = self.found.iter().map(|image| image.digest).collect();
        found.sort_unstable();
        let config = self.config;
        Digest::of_json(&Inputs {
            revision: REVISION,
            seed: config.seed,
            threads: config.threads,
            precision: config.train.precision,
            device: (config.train.device != TrainDevice::Cpu).then_some(config.train.device),
            splits: self.splits_digest,
            preprocess: config.preprocess.digest(),
            backbone: self.base_digest,
            explora: config.explora.without_places(),
            train: self.train.iter().map(|image| image.digest).collect(),
            found,
            near: &config.data.options.near,
            on_bad_image: config.data.options.on_bad_image,
        })
    }
}
