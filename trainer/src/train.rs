//! From a configuration to a checkpoint.

use crate::{
    Error, Result,
    backbone::{Backbone, Places},
    events::{EpochRecord, Events},
    features::{Extractor, FeatureCache, Image, ImageReader},
    fit::{Fitted, Labelled, fit},
    head::{Head, Mode, values},
};
use rayon::prelude::*;
use stage1_core::{
    artifact::{self, Digest, Lock, atomic, json, tensors::Tensor as StoredTensor},
    checkpoint::Checkpoint,
    config::{Config, HeadConfig, Phase, TrainConfig},
    data::OnBadImage,
    model::HeadSpec,
    preprocess::Limits,
    split::{Split, SplitManifest, SplitSample},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};
use tch::{Device, Tensor, no_grad};

/// Raised whenever the same inputs train another head than before: it is part of [`Checkpoint::inputs_digest`].
const REVISION: u32 = 1;
/// Images of val_select that the checkpoint carries with libtorch's outputs.
const REFERENCES: usize = 8;

/// How long a training whose starter was killed may take to end before the next one gives up.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Trains as `config` says, on the splits in its run directory.
///
/// Sets the number of libtorch's threads for the process.
///
/// # Errors
/// [`Error`]; the checkpoint's folder then holds what it held before.
pub fn train(config: &Config, existing: Existing, events: &dyn Events) -> Result<Trained> {
    let Phase::Baseline = config.phase;
    tch::set_num_threads(config.thread_count() as i32);
    let job = Job::open(config, events)?;
    let _alone = Lock::take(&config.run_dir.join(".train.lock"), PATIENCE)?;
    let dir = config.checkpoint_dir();
    if job.is_done(&dir, existing)? {
        return Ok(Trained {
            checkpoint: dir,
            reused: true,
            features_computed: 0,
        });
    }
    let features_computed = job.run(&dir)?;
    Ok(Trained {
        checkpoint: dir,
        reused: false,
        features_computed,
    })
}

/// Everything that a training depends on, opened and checked.
struct Job<'a> {
    config: &'a Config,
    events: &'a dyn Events,
    splits: SplitManifest,
    splits_digest: Digest,
    backbone: Backbone,
    places: Places,
    backbone_digest: Digest,
    reader: ImageReader,
    head: HeadSpec,
}

/// The images of a split.
struct Part {
    images: Vec<Image>,
    labels: Vec<usize>,
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
        let weights = config.backbone.open()?;
        let device = Device::Cpu;
        Ok(Self {
            backbone_digest: weights.digest(),
            backbone: Backbone::new(&weights, device),
            places: Places::new(&weights, reader.size(), device)?,
            head: HeadSpec {
                kind: config.head.architecture(),
                features: config.head.features,
                classes: splits.labels.len(),
            },
            config,
            events,
            splits,
            splits_digest,
            reader,
        })
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

    fn run(&self, dir: &Path) -> Result<usize> {
        let (train, select) = (self.part(Split::Train)?, self.part(Split::ValSelect)?);
        let cache_dir = self.config.cache_dir();
        // Other runs may fill the same cache: what they write must not be swept.
        let _in_use = Lock::share(&cache_dir.join(".lock"), || atomic::sweep(&cache_dir))?;
        let (cache, computed, bad) = self.features(&train, &select)?;
        let (train, select) = (train.without(&bad), select.without(&bad));
        self.check_left(&train, &select)?;
        let head = Head::new(
            self.head,
            self.backbone.spec().hidden(),
            self.config.head.dropout,
        );
        let fitted = self.fit(&head, &cache, &train, &select)?;
        let reference = self.reference(&head, &fitted, &select)?;
        self.checkpoint(&fitted)
            .save(dir, &head.stored(&fitted.parameters), &reference)?;
        Ok(computed)
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

    /// The cache with all features of both parts, how many were computed, and the images that can't be decoded.
    fn features(
        &self,
        train: &Part,
        select: &Part,
    ) -> Result<(FeatureCache, usize, BTreeSet<Digest>)> {
        let mut cache = FeatureCache::open(
            &self.config.cache_dir(),
            self.backbone_digest,
            self.config.preprocess.digest(),
            self.backbone.spec().hidden(),
            &|message| self.events.warning(message),
        )?;
        let images = [train.images.as_slice(), &select.images].concat();
        let found = self.extractor().fill(&mut cache, &images)?;
        Ok((cache, found.computed, found.bad))
    }

    /// As [`check_classes`], once bad images are left out.
    fn check_left(&self, train: &Part, select: &Part) -> Result<()> {
        let splits = self.config.splits_path();
        check_labels(&self.splits.labels, &train.labels, &select.labels, &splits)
    }

    fn fit(
        &self,
        head: &Head,
        cache: &FeatureCache,
        train: &Part,
        select: &Part,
    ) -> Result<Fitted> {
        let config = &self.config.train;
        let (train, select) = (self.labelled(cache, train)?, self.labelled(cache, select)?);
        let mut log = MetricsFile::create(self.config.metrics_path())?;
        self.events.start("epochs", config.epochs as u64);
        let fitted = fit(
            head,
            &train,
            &select,
            config,
            self.config.seed,
            &mut |record| {
                self.events.epoch(record);
                self.events.advance(1);
                log.append(record)
            },
        )?;
        self.events.finish();
        Ok(fitted)
    }

    fn labelled(&self, cache: &FeatureCache, part: &Part) -> Result<Labelled> {
        let digests: Vec<_> = part.images.iter().map(|image| image.digest).collect();
        let rows = cache.gather(&digests, self.head.features)?;
        let width = self.head.features.width(self.backbone.spec().hidden()) as i64;
        Ok(Labelled {
            features: Tensor::from_slice(&rows)
                .reshape([-1, width])
                .to_device(self.backbone.device()),
            labels: part.labels.clone(),
        })
    }

    /// A few images of val_select, spread over it, with what libtorch makes of them.
    fn reference(
        &self,
        head: &Head,
        fitted: &Fitted,
        select: &Part,
    ) -> Result<BTreeMap<String, StoredTensor>> {
        let count = select.images.len().min(REFERENCES);
        let images: Vec<_> = (0..count)
            .map(|i| select.images[i * select.images.len() / count].clone())
            .collect();
        let pixels = self.extractor().pixel_values(&images)?;
        let (features, logits) = no_grad(|| {
            let features = self.backbone.features(&pixels, &self.places);
            let features = features.select(self.head.features);
            let logits = head.logits(&fitted.parameters, &features, Mode::Evaluate);
            (features, logits)
        });
        let named = [
            ("pixel_values", pixels),
            ("features", features),
            ("logits", logits),
        ];
        Ok(named
            .map(|(name, tensor)| (name.to_owned(), stored(&tensor)))
            .into())
    }

    fn checkpoint(&self, fitted: &Fitted) -> Checkpoint {
        Checkpoint {
            schema_version: <Checkpoint as artifact::Document>::SCHEMA_VERSION,
            phase: self.config.phase,
            backbone: self.backbone.spec().clone(),
            backbone_digest: self.backbone_digest,
            head: self.head,
            labels: self.splits.labels.clone(),
            preprocess: self.config.preprocess.clone(),
            seed: self.config.seed,
            threads: self.config.thread_count(),
            epoch: fitted.epoch,
            epochs_run: fitted.epochs_run,
            metrics: fitted.metrics.clone(),
            splits_digest: self.splits_digest,
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
            train: TrainConfig {
                cache_dir: None,
                ..self.config.train.clone()
            },
            on_bad_image: self.config.data.options.on_bad_image,
        })
    }
}

impl Part {
    /// The images of `samples`, with the digests that their files must have.
    fn find(samples: &[&SplitSample], root: &Path, events: &dyn Events) -> Result<Self> {
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
        })
    }

    fn without(self, bad: &BTreeSet<Digest>) -> Self {
        let all = self.images.into_iter().zip(self.labels);
        let (images, labels) = all
            .filter(|(image, _)| !bad.contains(&image.digest))
            .unzip();
        Self { images, labels }
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
fn data_root(config: &Config) -> PathBuf {
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

/// `metrics.jsonl`: one line per epoch, as it ends.
struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    fn create(path: PathBuf) -> Result<Self> {
        let open = || -> io::Result<File> {
            fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
            // Appending, from the start: what two processes write must never leave a gap.
            File::create(&path)?;
            File::options().append(true).open(&path)
        };
        match open() {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(Error::MetricsFile { path, source }),
        }
    }

    fn append(&mut self, record: &EpochRecord) -> Result<()> {
        let mut line = serde_json::to_vec(record).expect("a record has a JSON form");
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|source| Error::MetricsFile {
                path: self.path.clone(),
                source,
            })
    }
}
