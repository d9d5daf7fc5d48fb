use stage1_core::{
    artifact::{self, Digest},
    config, model, preprocess, split,
};
use std::{fmt, io, path::PathBuf};

/// Why nothing was trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A file of the project can't be read or written.
    #[error(transparent)]
    Artifact(#[from] artifact::Error),
    /// Logits of val_select can't be written.
    #[error(transparent)]
    Logits(#[from] stage1_core::logits::LogitsError),
    /// The backbone can't be read, or doesn't take images of this size.
    #[error(transparent)]
    Model(#[from] model::ModelError),
    /// The preprocessing is wrong.
    #[error("preprocess: {0}")]
    Preprocess(preprocess::Error),
    /// Another training's checkpoint is in the way.
    #[error("{}: holds the checkpoint of another training (other images, settings or backbone); give --overwrite to replace it, or another run_dir", path.display())]
    CheckpointExists {
        /// The checkpoint's folder.
        path: PathBuf,
    },
    /// What is in the checkpoint's place can't be read.
    #[error("{source}; give --overwrite to train again and replace it")]
    CheckpointDamaged {
        /// What is wrong with it.
        source: artifact::Error,
    },
    /// A split has no images, or all of them are bad.
    #[error("{}: no usable images in {split}; make the splits again with a larger share for it (split.ratios)", splits.display())]
    EmptySplit {
        /// The `splits.json`.
        splits: PathBuf,
        /// The split.
        split: &'static str,
    },
    /// A class can't be learned.
    #[error("{}: class `{class}` has no images in train; add images of it, or remove the class", splits.display())]
    ClassWithoutTraining {
        /// The `splits.json`.
        splits: PathBuf,
        /// The class.
        class: String,
    },
    /// There is nothing to tell apart.
    #[error("{}: {count} class in the data, at least 2 are needed for a classifier", splits.display())]
    OneClass {
        /// The `splits.json`.
        splits: PathBuf,
        /// How many classes there are.
        count: usize,
    },
    /// No epoch can be chosen.
    #[error("{}: val_select has images of class `{class}` only, so that it can't tell a good epoch from a bad one; give it images of at least 2 classes", splits.display())]
    SelectHasOneClass {
        /// The `splits.json`.
        splits: PathBuf,
        /// The class.
        class: String,
    },
    /// An image can't be read.
    #[error("{}: cannot read the image: {source}; restore the file, or make the splits again", path.display())]
    ReadImage {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// An image isn't the one that the splits were made with.
    #[error("{}: changed since the split: splits.json records the digest {want}, the file has {got}; make the splits again", path.display())]
    ImageChanged {
        /// The file.
        path: PathBuf,
        /// The recorded digest.
        want: Digest,
        /// The digest of the bytes that are there.
        got: Digest,
    },
    /// An image can't be decoded.
    #[error("{}: {source}; remove it from the data, or set `data.on_bad_image: skip`", path.display())]
    DecodeImage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: preprocess::DecodeError,
    },
    /// An image can't be brought to the model's size.
    #[error("{}: {source}; remove it from the data, or set `data.on_bad_image: skip`", path.display())]
    PreprocessImage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: preprocess::Error,
    },
    /// The backbone gives no numbers.
    #[error("{}: the backbone's features of this image are not finite; check the weights ({})", path.display(), backbone.display())]
    NonFiniteFeatures {
        /// The image.
        path: PathBuf,
        /// The backbone's folder.
        backbone: PathBuf,
    },
    /// The training has diverged.
    #[error(
        "training diverged: the {what} is {value} at epoch {epoch}, step {step}; no checkpoint was written. Try a lower {rates}, a longer `train.warmup_epochs` or a smaller `train.max_grad_norm`"
    )]
    Diverged {
        /// What isn't finite.
        what: &'static str,
        /// The value.
        value: f64,
        /// The epoch, from 1.
        epoch: usize,
        /// The step within the epoch, from 1.
        step: usize,
        /// The configured peak rates.
        rates: Rates,
    },
    /// The self-supervised training has diverged.
    #[error(
        "self-supervised training diverged: the {what} is {value} at epoch {epoch}, step {step}; nothing was kept of it. Try a lower `explora.learning_rate` (now {learning_rate:e}), a longer `explora.warmup_epochs` or a smaller `explora.max_grad_norm`"
    )]
    PretrainingDiverged {
        /// What isn't finite.
        what: &'static str,
        /// The value.
        value: f64,
        /// The epoch, from 1.
        epoch: usize,
        /// The step within the epoch, from 1.
        step: usize,
        /// The configured peak rate.
        learning_rate: f64,
    },
    /// The self-supervised training has collapsed.
    #[error(
        "self-supervised training has collapsed: {what}: {measure} is {value:.5} at epoch {epoch}, step {step}, the limit is {limit} (`explora.guards.{key}`); nothing was kept of it. Try this: {advice}"
    )]
    Collapsed {
        /// What has happened.
        what: &'static str,
        /// What was measured.
        measure: &'static str,
        /// Its average over the last steps.
        value: f64,
        /// The limit's key.
        key: &'static str,
        /// The limit.
        limit: f64,
        /// The epoch, from 1.
        epoch: usize,
        /// The step within the epoch, from 1.
        step: usize,
        /// What to try.
        advice: &'static str,
    },
    /// Another self-supervised training's backbone is in the way.
    #[error("{}: holds a backbone that was trained from other images, settings or weights; give --overwrite to replace it, or another run_dir", path.display())]
    PretrainedExists {
        /// The folder.
        path: PathBuf,
    },
    /// What a training begins with was trained on images of other splits.
    #[error("{}: this {what} ({key}) was trained on images of other splits (digest {got}, this run's is {want}), which may be in this run's val_calib or val_test; take one that was trained under this run's splits, or train it again under them", path.display())]
    TrainedElsewhere {
        /// Its folder.
        path: PathBuf,
        /// The configuration's key.
        key: &'static str,
        /// A backbone, an adapter or a checkpoint.
        what: &'static str,
        /// The digest of its splits.
        got: Digest,
        /// This run's.
        want: Digest,
    },
    /// There are too few images to train a backbone on.
    #[error(
        "self-supervised training needs at least 2 images, {images} can be used{why}; name folders of other images in `explora.data`, or set `explora.train_images: true`"
    )]
    NothingToPretrain {
        /// How many there are.
        images: usize,
        /// What was left out, and why; or nothing.
        why: String,
    },
    /// A trained backbone holds what isn't a number.
    #[error(
        "the trained backbone's `{name}` holds {value}: nothing was kept of it; try a lower `explora.learning_rate`"
    )]
    BrokenBackbone {
        /// The tensor.
        name: String,
        /// The value.
        value: f32,
    },
    /// Unlabelled images can't be used.
    #[error(transparent)]
    Unlabelled(#[from] split::Error),
    /// A training was interrupted here, and another one is asked for.
    #[error("{}: a training with {difference} was interrupted here; give --overwrite to start anew, or another run_dir", path.display())]
    StateOfAnother {
        /// The state's file.
        path: PathBuf,
        /// In what they differ.
        difference: &'static str,
    },
    /// A saved state can't be used.
    #[error("{source}; give --overwrite to start anew")]
    StateDamaged {
        /// What is wrong with it.
        source: artifact::Error,
    },
    /// A saved state is of another shape than the training.
    #[error(
        "the saved state's `{name}` has {got} values, the training has {want}; give --overwrite to start anew"
    )]
    StateShape {
        /// The tensor.
        name: &'static str,
        /// Its values.
        got: usize,
        /// The training's.
        want: usize,
    },
    /// The state can't be saved.
    #[error(
        "cannot save the state of the training: {source}; what was saved before is as it was: make room and run again, it continues from there"
    )]
    SaveState {
        /// The system's reason.
        source: artifact::Error,
    },
    /// There is nothing to continue.
    #[error("{}: no interrupted training to continue (--resume); leave out --resume to start one", path.display())]
    NothingToResume {
        /// Where a state would be.
        path: PathBuf,
    },
    /// The weights to start from are of another architecture.
    #[error("{}: cannot start from this ({key}): its {what} is {got}, this training's is {want}", path.display())]
    OtherStart {
        /// The checkpoint's folder.
        path: PathBuf,
        /// The configuration's key.
        key: &'static str,
        /// What differs.
        what: &'static str,
        /// The checkpoint's.
        got: String,
        /// The configuration's.
        want: String,
    },
    /// The backbone that a checkpoint would have to be of isn't there yet.
    #[error("{}: cannot start from this (train.init_from): self-supervised training makes this run's backbone first, and no checkpoint is of a backbone that isn't there yet; go on with the backbone of the checkpoint's own run (`phase: explora-supervised`, `explora.from` its folder `explora`), or leave out `train.init_from`", path.display())]
    StartBeforeBackbone {
        /// The checkpoint's folder.
        path: PathBuf,
    },
    /// The backbone isn't the one that the checkpoint was trained on.
    #[error("{}: was trained on the backbone {}, `backbone` names {}; restore it, or train again with --overwrite", path.display(), want.short(), got.short())]
    OtherBackbone {
        /// The checkpoint's folder.
        path: PathBuf,
        /// The checkpoint's.
        want: Digest,
        /// The configuration's.
        got: Digest,
    },
    /// `peft.target_modules` and its kin don't name layers of this backbone.
    #[error("{key}: {reason}")]
    Targets {
        /// The configuration's key.
        key: &'static str,
        /// What is wrong, with the names that there are.
        reason: String,
    },
    /// The features of all candidates for `backbone.blocks: auto` would take too much of the disk.
    #[error(
        "backbone.blocks: auto: features of {images} images after {candidates} blocks would take {needed:.1} GiB more in {}, allowed \
         are {limit} (backbone.depth.max_cache_gib); name fewer blocks in backbone.depth.candidates, e.g. [4, 6, 8, 12], or allow more",
        cache.display()
    )]
    DepthCache {
        /// Different images of train and val_select.
        images: usize,
        /// How many blocks may be chosen.
        candidates: usize,
        /// GiB.
        needed: f64,
        /// GiB.
        limit: f64,
        /// Where the features go.
        cache: PathBuf,
    },
    /// Heads without a fold of train couldn't learn a class.
    #[error("{}: class `{class}` has images of one unit only, or all in one part of train, so that heads trained without that part can't learn it; give it more independent images, or use `phase: baseline`", splits.display())]
    GateFolds {
        /// The `splits.json`.
        splits: PathBuf,
        /// The class.
        class: String,
    },
    /// The metrics file can't be written.
    #[error("{}: cannot write: {source}", path.display())]
    MetricsFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The device isn't there.
    #[error("train.device: {device} can't be used: {reason}; or set `train.device: cpu`")]
    Device {
        /// The device, as configured.
        device: String,
        /// What is missing.
        reason: String,
    },
    /// The threads for decoding can't be started.
    #[error("cannot start {threads} threads for decoding: {reason}; set a smaller `threads`")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// The system's reason.
        reason: String,
    },
}

impl Error {
    /// What is wrong, without advice where the advice has been taken already.
    pub(crate) fn fault(&self) -> String {
        match self {
            Self::DecodeImage { path, source } => format!("{}: {source}", path.display()),
            Self::PreprocessImage { path, source } => format!("{}: {source}", path.display()),
            other => other.to_string(),
        }
    }

    /// Whether one image can't be decoded or resized, so that the run can go on without it.
    pub fn is_bad_image(&self) -> bool {
        matches!(
            self,
            Self::DecodeImage { .. } | Self::PreprocessImage { .. }
        )
    }
}

/// Learning rates by their keys; where there are several, the first is the likeliest to be too high.
#[derive(Debug, Clone, PartialEq)]
pub struct Rates(pub Vec<(&'static str, f64)>);

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (key, value)) in self.0.iter().enumerate() {
            let or = if n == 0 { "" } else { " or " };
            write!(f, "{or}`{key}` (now {value:e})")?;
        }
        Ok(())
    }
}

/// The result of training.
pub type Result<T, E = Error> = std::result::Result<T, E>;
