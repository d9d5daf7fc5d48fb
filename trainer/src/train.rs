//! From a configuration to a checkpoint.

mod depth;
mod gate;
mod predictions;

pub use predictions::select_logits;

use crate::{
    Error, Result,
    augment::Augmenter,
    backbone::{Backbone, Places},
    device,
    events::{EpochRecord, Events},
    explora,
    features::{Batches, Extractor, FeatureCache, Found, Image, ImageReader, Target},
    fit::{self, Fitted, Keeper, Labelled, Origin, Start, State, fit},
    head::{Head, Mode, Standardisation, values},
    log::{Log, Unit},
    peft::{Adapters, Adapting, Parts},
    plan::Known,
    sampling::Order,
};
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use stage1_core::{
    artifact::{self, Digest, Lock, atomic, json, tensors::Tensor as StoredTensor},
    checkpoint::Checkpoint,
    config::{
        AugmentConfig, Config, GateConfig, GateLoss, HeadConfig, PeftConfig, Phase, Precision,
        TrainConfig,
    },
    data::OnBadImage,
    events::Plan,
    model::{Adapter, Blocks, HeadSpec, NewAdapter, Weights},
    preprocess::Limits,
    split::{Split, SplitManifest, SplitSample},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tch::{Tensor, no_grad};

/// Raised whenever the same inputs train another head than before: it is part of [`Checkpoint::inputs_digest`].
const REVISION: u32 = 2;
/// Images of val_select that the checkpoint carries with libtorch's outputs.
const REFERENCES: usize = 8;

/// How long a training whose starter was killed may take to end before the next one gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What happens to a checkpoint that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// One of the same inputs is the result; another one is an error.
    Keep,
    /// One of the same inputs is the result; another one is replaced once the training has succeeded.
    Overwrite,
}

/// The result of [`train`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trained {
    /// The checkpoint's folder.
    pub checkpoint: PathBuf,
    /// Whether it was there already, made from the same inputs.
    pub reused: bool,
    /// Images whose features were computed in this run.
    pub features_computed: usize,
}

/// How a training begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Where an interrupted one stopped, if there is one.
    Anywhere,
    /// Where an interrupted one stopped; none is an error.
    Resume,
}

/// Trains as `config` says, on the splits in its run directory.
///
/// Sets the number of libtorch's threads for the process.
///
/// # Errors
/// [`Error`]; the checkpoint's folder then holds what it held before.
pub fn train(
    config: &Config,
    existing: Existing,
    begin: Begin,
    events: &dyn Events,
) -> Result<Trained> {
    tch::set_num_threads(config.thread_count() as i32);
    let (config, begin) = &explora::prepare(config, existing, begin, events)?;
    let (config, begin) = (config.as_ref(), *begin);
    let job = Job::open(config, events)?;
    let _alone = Lock::take(&config.run_dir.join(".train.lock"), PATIENCE)?;
    if !config.backbone.blocks.is_auto() {
        depth::forget(config)?;
        return job.train(existing, begin);
    }
    let (config, computed) = depth::decide(&job)?;
    drop(job);
    let trained = Job::open(&config, events)?.train(existing, begin)?;
    Ok(Trained {
        features_computed: trained.features_computed + computed,
        ..trained
    })
}

/// What [`train`] would do, without doing it; nothing is written.
///
/// # Errors
/// As [`train`], as far as they show before anything is computed.
pub fn plan(
    config: &Config,
    existing: Existing,
    begin: Begin,
    events: &dyn Events,
) -> Result<Plan> {
    let (config, before, begin) = &explora::plan(config, existing, begin, events)?;
    let (config, begin) = (config.as_ref(), *begin);
    let decided = match config.backbone.blocks.is_auto() {
        true => decided_depth(&Job::open(config, events)?),
        false => None,
    };
    let config = decided.as_ref().unwrap_or(config);
    let job = Job::open(config, events)?;
    let done = job.is_done(&config.checkpoint_dir(), existing)?;
    let state = match done {
        true => None,
        false => job.peek(&job.keeper(), existing, begin)?,
    };
    let count = |split| job.splits.of(split).count();
    let known = Known {
        config,
        spec: job.backbone.spec(),
        head: &job.head,
        adapters: job.adapters.as_ref(),
        train_images: count(Split::Train),
        select_images: count(Split::ValSelect),
        continues_at: state.map(|state| {
            let (epoch, step) = state.position();
            (epoch, step + 1)
        }),
        done,
    };
    Ok(Plan {
        before: before.clone().map(Box::new),
        ..known.plan()
    })
}

/// The configuration with the depth that an earlier training has chosen.
fn decided_depth(job: &Job<'_>) -> Option<Config> {
    let Some(choice) = job.known_depth() else {
        job.events.note(
            "backbone.blocks: auto hasn't chosen yet: this plan is that of all blocks, the most that it may take",
        );
        return None;
    };
    Some(job.config.at_depth(choice.chosen))
}

/// Everything that a training depends on, opened and checked.
struct Job<'a> {
    config: &'a Config,
    events: &'a dyn Events,
    splits: SplitManifest,
    splits_digest: Digest,
    weights: Weights,
    backbone: Backbone,
    places: Places,
    backbone_digest: Digest,
    reader: Arc<ImageReader>,
    head: HeadSpec,
    /// For `peft`.
    adapters: Option<Adapters>,
    /// The checkpoint to start from.
    init: Option<(PathBuf, Checkpoint)>,
}

/// The images of a split.
pub(crate) struct Part {
    pub(crate) images: Vec<Image>,
    labels: Vec<usize>,
    /// What isn't independent of each other has the same number.
    units: Vec<u64>,
}

/// What a training has made.
struct Made {
    fitted: Fitted,
    /// The head for raw features.
    head: Tensor,
    /// The gate for the head's hidden layer, if there is one.
    gate: Option<Tensor>,
    /// The backbone that the head reads, if it isn't the configured one.
    adapted: Option<(NewAdapter, Weights)>,
}

impl<'a> Job<'a> {
    fn open(config: &'a Config, events: &'a dyn Events) -> Result<Self> {
        let (splits, splits_digest): (SplitManifest, _) = json::load(&config.splits_path())?;
        check_classes(&splits, &config.splits_path(), events)?;
        let limits = Limits {
            max_pixels: config.data.options.max_pixels,
            ..Limits::default()
        };
        let reader = ImageReader::new(&config.preprocess, limits)?;
        // Candidates that aren't there are refused before weights are read.
        config.backbone.spec()?;
        let weights = config.backbone.open()?;
        let device = device::choose(config.train.device)?;
        let mut backbone = Backbone::new(&weights, device);
        if let (Precision::Bf16, Some(vit)) = (config.train.precision, backbone.vit_mut()) {
            vit.keep_half();
        }
        let adapters = config
            .adapts()
            .then(|| Adapters::choose(weights.spec(), &config.peft))
            .transpose()?;
        if adapters.is_some() && config.backbone.blocks.is_auto() {
            depth::check_adapters(config, weights.spec())?;
        }
        let job = Self {
            backbone_digest: weights.digest(),
            backbone,
            places: Places::new(&weights, reader.size(), device)?,
            head: HeadSpec {
                kind: config.head.architecture(),
                features: config.head.features,
                blocks: config.head.read_blocks(weights.spec())?,
                classes: splits.labels.len(),
            },
            init: config
                .train
                .init_from
                .as_ref()
                .map(|dir| Ok::<_, Error>((dir.clone(), Checkpoint::load(dir)?)))
                .transpose()?,
            weights,
            adapters,
            config,
            events,
            splits,
            splits_digest,
            reader: Arc::new(reader),
        };
        // A depth that isn't chosen yet can't be another one.
        if !config.backbone.blocks.is_auto() {
            job.check_init()?;
        }
        Ok(job)
    }

    fn train(&self, existing: Existing, begin: Begin) -> Result<Trained> {
        let dir = self.config.checkpoint_dir();
        // What a training that was killed left half-written.
        if let Some(folder) = dir.parent() {
            atomic::sweep(folder)?;
        }
        let mut keeper = self.keeper();
        if self.is_done(&dir, existing)? {
            // Killed between the last two renames.
            keeper.remove()?;
            return Ok(Trained {
                checkpoint: dir,
                reused: true,
                features_computed: 0,
            });
        }
        let state = self.state(&mut keeper, existing, begin)?;
        let features_computed = match self.run(&dir, &mut keeper, state) {
            // The same inputs would diverge again.
            Err(error @ Error::Diverged { .. }) => {
                keeper.remove()?;
                return Err(error);
            }
            done => done?,
        };
        keeper.remove()?;
        Ok(Trained {
            checkpoint: dir,
            reused: false,
            features_computed,
        })
    }

    /// The checkpoint to start from must be of the same architecture; of the same splits, and so of the same classes, it is
    /// (see [`crate::origin`]).
    fn check_init(&self) -> Result<()> {
        let Some((path, init)) = &self.init else {
            return Ok(());
        };
        let other = |what, got: String, want: String| Error::OtherStart {
            path: path.clone(),
            key: "train.init_from",
            what,
            got,
            want,
        };
        if init.head != self.head {
            let (got, want) = (format!("{:?}", init.head), format!("{:?}", self.head));
            return Err(other("head", got, want));
        }
        // The cross-fitted gate is trained on what heads of folds say, and starts from nothing.
        let goes_on = self.config.gate.loss == GateLoss::SelectiveNet;
        if let (Some(want), Some(got), true) = (self.gate_spec(), init.gate, goes_on)
            && got != want
        {
            let (got, want) = (format!("{got:?}"), format!("{want:?}"));
            return Err(other("gate", got, want));
        }
        if init.backbone != *self.weights.spec() {
            let (got, want) = (init.backbone.to_string(), self.weights.spec().to_string());
            return Err(other("backbone", got, want));
        }
        let digest = init.weights(path, &self.config.backbone)?.digest();
        if digest != init.backbone_digest {
            let (got, want) = (init.backbone_digest.short(), digest.short());
            return Err(other("backbone", got, want));
        }
        if !self.config.adapts() && init.has_adapter() {
            let (got, want) = ("there".to_owned(), "none".to_owned());
            return Err(other("adapter", got, want));
        }
        Ok(())
    }

    fn keeper(&self) -> Keeper {
        let origin = Origin {
            inputs: self.inputs_digest(),
            backbone: self.backbone_digest,
            splits: self.splits_digest,
            preprocess: self.config.preprocess.digest(),
        };
        let every = Duration::from_secs(self.config.train.save_every_seconds);
        let threads = self.config.thread_count();
        Keeper::new(self.config.state_path(), origin, threads, every)
    }

    /// What an interrupted training left, if it goes on; nothing is changed.
    fn peek(&self, keeper: &Keeper, existing: Existing, begin: Begin) -> Result<Option<State>> {
        interrupted(keeper, &self.config.state_path(), existing, begin)
    }

    /// As [`Job::peek`]; libtorch then has the threads that it goes on with.
    fn state(
        &self,
        keeper: &mut Keeper,
        existing: Existing,
        begin: Begin,
    ) -> Result<Option<State>> {
        let Some(state) = self.peek(keeper, existing, begin)? else {
            // Another training's, that is to be replaced.
            keeper.remove()?;
            return Ok(None);
        };
        let (threads, now) = (state.threads, self.config.thread_count());
        if threads != now {
            self.events.warning(&format!(
                "the interrupted training computed with {threads} threads, which decide the last bits of its sums: it goes on with                  {threads}, not {now}"
            ));
            tch::set_num_threads(threads as i32);
            keeper.set_threads(threads);
        }
        let (epoch, step) = state.position();
        self.events.note(&format!(
            "training goes on at epoch {epoch}, step {}",
            step + 1
        ));
        Ok(Some(state))
    }

    /// Whether `dir` holds the result of the same inputs.
    fn is_done(&self, dir: &Path, existing: Existing) -> Result<bool> {
        if !dir.exists() {
            return Ok(false);
        }
        let replace = existing == Existing::Overwrite;
        match Checkpoint::load(dir) {
            Ok(found) if found.inputs_digest == self.inputs_digest() => Ok(true),
            _ if replace => Ok(false),
            Ok(_) => Err(Error::CheckpointExists {
                path: dir.to_owned(),
            }),
            Err(source) => Err(Error::CheckpointDamaged { source }),
        }
    }

    fn run(&self, dir: &Path, keeper: &mut Keeper, state: Option<State>) -> Result<usize> {
        let (train, select) = (self.part(Split::Train)?, self.part(Split::ValSelect)?);
        let cache_dir = self.config.cache_dir();
        // Other runs may fill the same cache: what they write must not be swept.
        let _in_use = Lock::share(&cache_dir.join(".lock"), || atomic::sweep(&cache_dir))?;
        let (caches, computed, bad) = self.features(&train, &select)?;
        let (train, select) = (train.without(&bad), select.without(&bad));
        self.check_left(&train, &select)?;
        let threads = state
            .as_ref()
            .map_or(self.config.thread_count(), |state| state.threads);
        let made = match (&self.adapters, self.gate_spec()) {
            (Some(adapters), _) => self.peft(adapters, &caches, &train, &select, keeper, state)?,
            (None, Some(_)) => self.gate(&caches, &train, &select, keeper, state)?,
            (None, None) => self.baseline(&caches, &train, &select, keeper, state)?,
        };
        let head = self.head();
        let reference = self.reference(&head, &made, &select)?;
        let adapter = made.adapted.as_ref().map(|(adapter, _)| adapter);
        let mut checkpoint = self.checkpoint(&made, threads);
        let mut tensors = head.stored(&made.head);
        if let (Some(gate), Some(parameters)) = (self.gate_head(), &made.gate) {
            tensors.extend(gate.stored(parameters));
        }
        checkpoint.save(dir, &tensors, &reference, adapter)?;
        Ok(computed)
    }

    fn head(&self) -> Head {
        let hidden = self.backbone.spec().hidden();
        Head::new(self.head, hidden, self.config.head.dropout)
    }

    fn part(&self, split: Split) -> Result<Part> {
        let samples: Vec<_> = self.splits.of(split).collect();
        Part::find(&samples, &data_root(self.config), self.events)
    }

    fn extractor(&self) -> Extractor<'_> {
        Extractor {
            backbone: &self.backbone,
            places: &self.places,
            backbone_path: self.config.backbone.path.clone(),
            reader: &self.reader,
            batch_size: self.config.train.feature_batch_size,
            skip_bad: self.config.data.options.on_bad_image == OnBadImage::Skip,
            events: self.events,
        }
    }

    /// The caches of the blocks that the head reads, shallowest first, with all features of both parts; how many images'
    /// features were computed, and the images that can't be decoded.
    fn features(
        &self,
        train: &Part,
        select: &Part,
    ) -> Result<(Vec<FeatureCache>, usize, BTreeSet<Digest>)> {
        let mut caches = self.caches(&self.weights)?;
        let images = [train.images.as_slice(), &select.images].concat();
        let found = self.fill_caches(&self.extractor(), &mut caches, &images)?;
        Ok((caches, found.computed, found.bad))
    }

    /// The caches of the blocks of `weights` that the head reads, shallowest first: each that of the backbone that ends there,
    /// so that heads on fewer blocks use the same.
    fn caches(&self, weights: &Weights) -> Result<Vec<FeatureCache>> {
        let open = |weights: &Weights| {
            FeatureCache::open(
                &self.config.cache_dir(),
                weights.digest(),
                self.config.preprocess.digest(),
                weights.spec().hidden(),
                &|message| self.events.warning(message),
            )
        };
        let (last, above) = match &self.depths()[..] {
            [above @ .., last] => (*last, above.to_vec()),
            [] => unreachable!("a head reads one block at least"),
        };
        let mut caches = vec![open(weights)?];
        if !above.is_empty() {
            // From the deepest one on, so that one copy of the weights serves all.
            let mut weights = weights.clone().with_blocks(Blocks::First(last))?;
            for &blocks in above.iter().rev() {
                weights = weights.with_blocks(Blocks::First(blocks))?;
                caches.push(open(&weights)?);
            }
        }
        caches.reverse();
        Ok(caches)
    }

    /// The blocks that the head reads, ascending.
    fn depths(&self) -> Vec<usize> {
        self.head.blocks.of(self.backbone.depth())
    }

    /// Computes in one pass what any of the caches lacks.
    fn fill_caches(
        &self,
        extractor: &Extractor<'_>,
        caches: &mut [FeatureCache],
        images: &[Image],
    ) -> Result<Found> {
        let targets = self.depths().into_iter().zip(caches);
        let mut targets: Vec<_> = targets
            .map(|(depth, cache)| Target { depth, cache })
            .collect();
        extractor.fill_depths(&mut targets, images)
    }

    /// As [`check_classes`], once bad images are left out.
    fn check_left(&self, train: &Part, select: &Part) -> Result<()> {
        let splits = self.config.splits_path();
        check_labels(&self.splits.labels, &train.labels, &select.labels, &splits)
    }

    fn log(&self, state: Option<&State>, unit: Unit) -> Result<Log<'a>> {
        let ended = state.map_or(&[][..], State::records);
        let (metrics, board) = (self.config.metrics_path(), self.config.tensorboard_dir());
        Log::create(metrics, &board, ended, unit, self.events)
    }

    /// Phase `baseline`: a head on the frozen backbone's features.
    fn baseline(
        &self,
        caches: &[FeatureCache],
        train: &Part,
        select: &Part,
        keeper: &mut Keeper,
        state: Option<State>,
    ) -> Result<Made> {
        let config = &self.config.train;
        let (train, select) = (
            self.labelled(caches, train)?,
            self.labelled(caches, select)?,
        );
        let mut log = self.log(state.as_ref(), Unit::Epochs)?;
        let ended = state.as_ref().map_or(0, |state| state.records().len());
        self.events
            .start("epochs", config.epochs.saturating_sub(ended) as u64);
        let start = Start {
            parameters: self.initial_head()?,
            state,
        };
        let (head, seed) = (self.head(), self.config.seed);
        let fitted = fit(
            &head,
            &train,
            &select,
            config,
            seed,
            start,
            Some(keeper),
            &mut log,
        )?;
        self.events.finish();
        Ok(Made {
            head: fitted.parameters.shallow_clone(),
            gate: None,
            fitted,
            adapted: None,
        })
    }

    /// The head of the checkpoint to start from, for raw features.
    fn initial_head(&self) -> Result<Option<Tensor>> {
        let Some((dir, init)) = &self.init else {
            return Ok(None);
        };
        Ok(Some(self.head().load(&init.head_file(dir)?)?))
    }

    /// Phase `peft`: adapters and a head, through the backbone.
    fn peft(
        &self,
        adapters: &Adapters,
        caches: &[FeatureCache],
        train: &Part,
        select: &Part,
        keeper: &mut Keeper,
        state: Option<State>,
    ) -> Result<Made> {
        let config = self.config;
        let head = self.head();
        let base = self.labelled(caches, train)?;
        let standard = Standardisation::of(&base.features);
        let start = match &state {
            // What it goes on from replaces the start; only the shape matters.
            Some(_) => self.start(adapters, &head, &standard, self.initial_head()?)?,
            None => {
                let warm = self.warm_up(&head, &base, caches, select)?;
                self.start(adapters, &head, &standard, warm)?
            }
        };
        drop(base);
        let batches = |part: &Part, varied| Batches {
            reader: Arc::clone(&self.reader),
            images: Arc::new(part.images.clone()),
            varied,
        };
        let varied = Augmenter::new(&config.augment, &config.preprocess)?;
        let mut objective = Adapting::new(Parts {
            config,
            backbone: &self.backbone,
            places: &self.places,
            adapters,
            head: &head,
            spec: self.head,
            standard: &standard,
            size: self.reader.size(),
            train: batches(train, Some((varied, config.seed))),
            train_labels: &train.labels,
            select: batches(select, None),
            select_labels: &select.labels,
            start,
        });
        let classes = self.splits.labels.len();
        let order = Order::new(config.train.sampling, config.seed, &train.labels, classes);
        let mut log = self.log(state.as_ref(), Unit::Images)?;
        let images = train.labels.len();
        let done = |state: &State| state.records().len() * images + state.images_seen();
        let done = state.as_ref().map_or(0, done);
        let left = (images * config.train.epochs).saturating_sub(done);
        self.events.start("images", left as u64);
        let (settings, keeper) = (&config.train, Some(keeper));
        let fitted = fit::train(&mut objective, &order, settings, state, keeper, &mut log)?;
        self.events.finish();
        let count = adapters.parameter_count() as i64;
        let adapter = adapters.to_files(
            &fitted.parameters.slice(0, 0, count, 1),
            Some(self.splits_digest),
        );
        let weights = self.weights.clone().merged(&as_adapter(&adapter)?)?;
        Ok(Made {
            head: head.fold(&fitted.parameters.slice(0, count, None, 1), &standard),
            gate: None,
            fitted,
            adapted: Some((adapter, weights)),
        })
    }

    /// The head after the epochs in which it is trained alone, for raw features; none without such epochs and without a
    /// checkpoint to start from.
    fn warm_up(
        &self,
        head: &Head,
        base: &Labelled,
        caches: &[FeatureCache],
        select: &Part,
    ) -> Result<Option<Tensor>> {
        let (epochs, from) = (self.config.peft.head_warmup_epochs, self.initial_head()?);
        if epochs == 0 {
            return Ok(from);
        }
        let config = TrainConfig {
            epochs,
            warmup_epochs: self.config.train.warmup_epochs.min(epochs as f64),
            ..self.config.train.clone()
        };
        let select = self.labelled(caches, select)?;
        self.events.start("head alone: epochs", epochs as u64);
        let mut watch = |_: &EpochRecord| -> Result<()> {
            self.events.advance(1);
            Ok(())
        };
        let start = Start {
            parameters: from,
            state: None,
        };
        let seed = self.config.seed;
        let warm = fit(head, base, &select, &config, seed, start, None, &mut watch)?;
        self.events.finish();
        Ok(Some(warm.parameters))
    }

    /// The first parameters: the adapters', then the head's for standardised features.
    fn start(
        &self,
        adapters: &Adapters,
        head: &Head,
        standard: &Standardisation,
        raw_head: Option<Tensor>,
    ) -> Result<Tensor> {
        let device = self.backbone.device();
        let head = match raw_head {
            Some(raw) => head.unfold(&raw.to_device(device), standard),
            None => head.initialise(self.config.seed, device),
        };
        let saved = match &self.init {
            Some((dir, init)) => init.adapter(dir)?.map(|adapter| (dir, adapter)),
            None => None,
        };
        let adapters = match saved {
            None => adapters.initial(&self.weights, self.config.seed),
            Some((dir, adapter)) => adapters.load(&adapter).ok_or_else(|| Error::OtherStart {
                path: dir.clone(),
                key: "train.init_from",
                what: "adapter",
                got: "of other layers, ranks or scales".to_owned(),
                want: "as `peft` says".to_owned(),
            })?,
        };
        Ok(Tensor::cat(
            &[adapters.to_device(device), head.to_device(device)],
            0,
        ))
    }

    /// What the head reads of images: rows of `caches`, side by side.
    fn labelled(&self, caches: &[FeatureCache], part: &Part) -> Result<Labelled> {
        let digests: Vec<_> = part.images.iter().map(|image| image.digest).collect();
        let width = self.head.features.width(self.backbone.spec().hidden()) as i64;
        let blocks = caches
            .iter()
            .map(|cache| {
                let rows = cache.gather(&digests, self.head.features)?;
                Ok(Tensor::from_slice(&rows).reshape([-1, width]))
            })
            .collect::<Result<Vec<_>>>()?;
        let features = match &blocks[..] {
            [one] => one.shallow_clone(),
            several => Tensor::cat(several, 1),
        };
        Ok(Labelled {
            features: features.to_device(self.backbone.device()),
            labels: part.labels.clone(),
        })
    }

    /// A few images of val_select, spread over it, with what libtorch makes of them.
    fn reference(
        &self,
        head: &Head,
        made: &Made,
        select: &Part,
    ) -> Result<BTreeMap<String, StoredTensor>> {
        let count = select.images.len().min(REFERENCES);
        let images: Vec<_> = (0..count)
            .map(|i| select.images[i * select.images.len() / count].clone())
            .collect();
        let pixels = self.extractor().pixel_values(&images)?;
        let adapted = made.adapted.as_ref();
        let merged = adapted.map(|(_, weights)| Backbone::new(weights, self.backbone.device()));
        let backbone = merged.as_ref().unwrap_or(&self.backbone);
        let mut named = Vec::new();
        no_grad(|| {
            let features = backbone.read(&pixels, &self.places, &self.head);
            named.push(("logits", head.logits(&made.head, &features, Mode::Evaluate)));
            if let (Some(gate), Some(parameters)) = (self.gate_head(), &made.gate) {
                let hidden = head.hidden(&made.head, &features);
                let gate = gate.logits(parameters, &hidden, Mode::Evaluate);
                named.push(("gate", gate.flatten(0, -1)));
            }
            named.push(("features", features));
        });
        named.push(("pixel_values", pixels));
        Ok(named
            .into_iter()
            .map(|(name, tensor)| (name.to_owned(), stored(&tensor)))
            .collect())
    }

    fn checkpoint(&self, made: &Made, threads: usize) -> Checkpoint {
        let adapted = made.adapted.as_ref();
        Checkpoint {
            schema_version: <Checkpoint as artifact::Document>::SCHEMA_VERSION,
            phase: self.config.phase,
            backbone: self.backbone.spec().clone(),
            backbone_digest: adapted.map_or(self.backbone_digest, |(_, weights)| weights.digest()),
            head: self.head,
            gate: self.gate_spec(),
            labels: self.splits.labels.clone(),
            preprocess: self.config.preprocess.clone(),
            seed: self.config.seed,
            threads,
            epoch: made.fitted.epoch,
            epochs_run: made.fitted.epochs_run,
            metrics: made.fitted.metrics.clone(),
            splits_digest: self.splits_digest,
            init_digest: self.init.as_ref().map(|(_, init)| init.digest()),
            inputs_digest: self.inputs_digest(),
            files: BTreeMap::new(),
        }
    }

    /// The digest of everything that decides the result. Where files lie doesn't; nor does the number of threads unless
    /// it was asked for, so that a result can be taken to another machine.
    fn inputs_digest(&self) -> Digest {
        #[derive(serde::Serialize)]
        struct Inputs<'a> {
            revision: u32,
            phase: Phase,
            seed: u64,
            threads: Option<usize>,
            splits: Digest,
            preprocess: Digest,
            backbone: Digest,
            head: &'a HeadConfig,
            train: TrainConfig,
            peft: &'a PeftConfig,
            #[serde(skip_serializing_if = "Option::is_none")]
            gate: Option<GateConfig>,
            augment: &'a AugmentConfig,
            init: Option<Digest>,
            on_bad_image: OnBadImage,
        }
        Digest::of_json(&Inputs {
            revision: REVISION,
            phase: self.config.phase,
            seed: self.config.seed,
            threads: self.config.threads,
            splits: self.splits_digest,
            preprocess: self.config.preprocess.digest(),
            backbone: self.backbone_digest,
            head: &self.config.head,
            train: that_decides(&self.config.train),
            peft: &self.config.peft,
            gate: self.gate_spec().map(|_| GateConfig {
                resamples: 0,
                ..self.config.gate.clone()
            }),
            augment: &self.config.augment,
            init: self.init.as_ref().map(|(_, init)| init.digest()),
            on_bad_image: self.config.data.options.on_bad_image,
        })
    }
}

/// Without what doesn't decide the result.
fn that_decides(train: &TrainConfig) -> TrainConfig {
    TrainConfig {
        cache_dir: None,
        init_from: None,
        save_every_seconds: 0,
        ..train.clone()
    }
}

/// What an interrupted training left in `path`, if it goes on; nothing is changed.
pub(crate) fn interrupted<N: DeserializeOwned>(
    keeper: &Keeper,
    path: &Path,
    existing: Existing,
    begin: Begin,
) -> Result<Option<State<N>>> {
    let state = match keeper.load() {
        Err(Error::StateOfAnother { .. } | Error::StateDamaged { .. })
            if existing == Existing::Overwrite && begin == Begin::Anywhere =>
        {
            None
        }
        found => found?,
    };
    match (state, begin) {
        (None, Begin::Resume) => Err(Error::NothingToResume {
            path: path.to_owned(),
        }),
        (state, _) => Ok(state),
    }
}

/// The adapter as it will be read: what is merged and measured is what the files hold.
pub(crate) fn as_adapter(adapter: &NewAdapter) -> Result<Adapter> {
    let dir = tempfile::tempdir().map_err(|source| artifact::Error::Io {
        action: "create a temporary folder in",
        path: std::env::temp_dir(),
        source,
    })?;
    adapter.save(dir.path())?;
    Ok(Adapter::open(dir.path())?)
}

impl Part {
    /// The images of `samples`, with the digests that their files must have.
    pub(crate) fn find(samples: &[&SplitSample], root: &Path, events: &dyn Events) -> Result<Self> {
        let unknown = samples
            .iter()
            .filter(|sample| sample.digest.is_none())
            .count();
        if unknown > 0 {
            events.start("digests", unknown as u64);
        }
        let image = |sample: &&SplitSample| -> Result<Image> {
            let path = root.join(&sample.path);
            let known = sample.digest.map(Ok);
            let digest = known.unwrap_or_else(|| digest_of(&path, events))?;
            Ok(Image { path, digest })
        };
        let images: Vec<_> = samples.par_iter().map(image).collect();
        Ok(Self {
            // In order, so that of several faults the same one is reported each time.
            images: images.into_iter().collect::<Result<_>>()?,
            labels: samples.iter().map(|sample| sample.label).collect(),
            units: samples.iter().map(|sample| sample.unit).collect(),
        })
    }

    fn without(self, bad: &BTreeSet<Digest>) -> Self {
        let all = self.images.into_iter().zip(self.labels).zip(self.units);
        let left = all.filter(|((image, _), _)| !bad.contains(&image.digest));
        let ((images, labels), units) = left.unzip();
        Self {
            images,
            labels,
            units,
        }
    }
}

/// The digest of an image whose content the splits don't know.
fn digest_of(path: &Path, events: &dyn Events) -> Result<Digest> {
    let bytes = fs::read(path).map_err(|source| Error::ReadImage {
        path: path.to_owned(),
        source,
    })?;
    events.advance(1);
    Ok(Digest::of_bytes(&bytes))
}

/// Before any image is read: is there something to learn, and something to choose by?
fn check_classes(splits: &SplitManifest, path: &Path, events: &dyn Events) -> Result<()> {
    let labels = |split| {
        splits
            .of(split)
            .map(|sample| sample.label)
            .collect::<Vec<_>>()
    };
    let (train, select) = (labels(Split::Train), labels(Split::ValSelect));
    check_labels(&splits.labels, &train, &select, path)?;
    let absent = splits
        .labels
        .iter()
        .enumerate()
        .filter(|(class, _)| !select.contains(class));
    for (_, name) in absent {
        events.warning(&format!(
            "class `{name}` has no images in val_select: the epoch is chosen without regard to it"
        ));
    }
    Ok(())
}

fn check_labels(classes: &[String], train: &[usize], select: &[usize], path: &Path) -> Result<()> {
    let splits = || path.to_owned();
    let empty = |split: Split| Error::EmptySplit {
        splits: splits(),
        split: split.name(),
    };
    if classes.len() < 2 {
        return Err(Error::OneClass {
            splits: splits(),
            count: classes.len(),
        });
    }
    let Some(&first) = select.first() else {
        return Err(empty(Split::ValSelect));
    };
    if train.is_empty() {
        return Err(empty(Split::Train));
    }
    let trained: BTreeSet<_> = train.iter().collect();
    if let Some(class) = (0..classes.len()).find(|class| !trained.contains(class)) {
        let class = classes[class].clone();
        return Err(Error::ClassWithoutTraining {
            splits: splits(),
            class,
        });
    }
    if select.iter().all(|&label| label == first) {
        let class = classes[first].clone();
        return Err(Error::SelectHasOneClass {
            splits: splits(),
            class,
        });
    }
    Ok(())
}

/// What the paths in `splits.json` are relative to.
pub(crate) fn data_root(config: &Config) -> PathBuf {
    let source = &config.data.source;
    if source.is_dir() {
        return source.clone();
    }
    let beside = || source.parent().unwrap_or(Path::new("")).to_owned();
    config.data.options.root.clone().unwrap_or_else(beside)
}

fn stored(tensor: &Tensor) -> StoredTensor {
    let shape: Vec<_> = tensor
        .size()
        .iter()
        .map(|&n| n.unsigned_abs() as usize)
        .collect();
    StoredTensor::f32(shape, values(tensor))
}
