//! The one configuration: YAML, strict, overridable key by key, with a schema and a commented default.
//!
//! [`Config::load`] refuses an unknown key with its path and the nearest known key, and a value that contradicts
//! another. Relative paths are relative to the current folder.

mod arms;
mod depth;
mod error;
mod explora;
mod gate;
mod load;
mod schema;
mod template;
mod training;

pub use arms::Arm;
pub use depth::{AutoBlocks, BlockChoice, DepthConfig};
pub use error::{Error, Result};
pub use explora::{
    ExploraConfig, GlobalCrops, GuardsConfig, LocalCrops, LossWeights, MaskConfig,
    ProjectionConfig, ViewsConfig,
};
pub use gate::{GateConfig, GateLoss};
pub use schema::json_schema;
pub use template::{Published, template};
pub use training::{
    AugmentConfig, AugmentPolicy, Blur, ClassWeights, ColourJitter, PeftConfig, Precision,
    RandomCrop, Sampling, Solarise, TargetModules, TrainDevice,
};

use crate::{
    artifact::Digest,
    artifact::json::brief,
    certificate::{Attempts, Constraint, GroupRisk, Guarantee, Procedure},
    data::DataOptions,
    device::{Ladder, OptionValue, ProviderOptions},
    model::{
        self, Adapter, BackboneSpec, Blocks, Features, HeadKind, ReadBlocks, RopePeriods, Weights,
    },
    preprocess::{PixelFormat, PreprocessSpec},
    split::SplitOptions,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    num::NonZero,
    path::{Path, PathBuf},
};

/// The version of the configuration's format.
pub const VERSION: u32 = 1;

/// More threads than this are a slip of the finger.
pub const MAX_THREADS: usize = 1024;

/// Everything that a run depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The version of this format: 1.
    pub version: u32,
    /// What is trained: `baseline` is a head on a frozen backbone, `peft` a head and low-rank adapters of the backbone,
    /// `gate` a head and a gate that says whether it is right; `explora` goes on with the backbone's self-supervised
    /// training on images like those at hand, then trains a head; `explora-supervised` does the same, with adapters in the
    /// second part.
    #[serde(default)]
    pub phase: Phase,
    /// Where all results of the run go.
    #[serde(default = "default_run_dir")]
    pub run_dir: PathBuf,
    /// Seed of initialisation, data order and every other draw; the splits have their own, `split.seed`, so that the
    /// same images may be trained on again with another seed.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Threads for decoding, training and inference; `null` means one per core. Results repeat bit by bit for one
    /// number of threads.
    #[serde(default)]
    pub threads: Option<usize>,
    /// The labelled images.
    pub data: DataConfig,
    /// How they are divided.
    #[serde(default)]
    pub split: SplitOptions,
    /// From image bytes to the model's input; the same code runs in training and in deployment.
    #[serde(default = "default_preprocess")]
    pub preprocess: PreprocessSpec,
    /// The pretrained model.
    pub backbone: BackboneConfig,
    /// What is trained on top of it.
    #[serde(default)]
    pub head: HeadConfig,
    /// How it is trained.
    #[serde(default)]
    pub train: TrainConfig,
    /// How the backbone is adapted, for `phase: peft` and, if anything is named there, `explora-supervised`.
    #[serde(default)]
    pub peft: PeftConfig,
    /// How the gate is trained, for `phase: gate`.
    #[serde(default)]
    pub gate: GateConfig,
    /// Self-supervised training before the other, for `phase: explora` and `explora-supervised`.
    #[serde(default)]
    pub explora: ExploraConfig,
    /// How training images are varied, for phases that train through the backbone.
    #[serde(default)]
    pub augment: AugmentConfig,
    /// The checks on the exported model.
    #[serde(default)]
    pub export: ExportConfig,
    /// Where the models run, and so what certificates are about.
    #[serde(default)]
    pub deploy: DeployConfig,
    /// The guarantee that is asked for.
    #[serde(default)]
    pub calibrate: CalibrateConfig,
    /// The verdict on val_test.
    #[serde(default)]
    pub validate: ValidateConfig,
}

/// What is trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// A head on a frozen backbone.
    #[default]
    Baseline,
    /// A head, and low-rank adapters of the backbone's linear layers.
    Peft,
    /// A head and a correctness gate on a frozen backbone.
    Gate,
    /// The backbone by itself, without labels; then a head on it.
    Explora,
    /// The backbone by itself, without labels; then a head and low-rank adapters.
    ExploraSupervised,
}

impl Phase {
    /// Whether self-supervised training comes first.
    pub fn pretrains(self) -> bool {
        matches!(self, Self::Explora | Self::ExploraSupervised)
    }
}

/// As it is written in a configuration.
impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Baseline => "baseline",
            Self::Peft => "peft",
            Self::Gate => "gate",
            Self::Explora => "explora",
            Self::ExploraSupervised => "explora-supervised",
        })
    }
}

/// The labelled images.
///
/// Unknown keys are refused before this type is read: serde can't refuse them in a flattened struct.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DataConfig {
    /// A folder with one folder of images per class, or a CSV file with the columns `path,label[,group][,split]`.
    pub source: PathBuf,
    /// How the images are found, checked and compared.
    #[serde(flatten)]
    pub options: DataOptions,
}

/// The pretrained model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackboneConfig {
    /// A Hugging Face folder: `config.json` and `model.safetensors`.
    pub path: PathBuf,
    /// A folder with an adapter as Hugging Face PEFT saves it (LoRA, rsLoRA, DoRA), which is merged into the weights.
    #[serde(default)]
    pub adapter: Option<PathBuf>,
    /// How many blocks are run: the head reads what the last of them leaves, after the final norm; blocks above are
    /// neither loaded nor exported. `null`: all; `auto`: the fewest that `depth` allows. For vision transformers only.
    #[serde(default)]
    pub blocks: BlockChoice,
    /// How `blocks: auto` chooses.
    #[serde(default)]
    pub depth: DepthConfig,
    /// Rounding of the periods of DINOv3's rotary positions: `fp32`, as transformers and timm, or `bf16`, as Meta's
    /// checkpoints hold them.
    #[serde(default)]
    pub rope_periods: RopePeriods,
}

impl BackboneConfig {
    /// The weights as configured; with `blocks: auto`, of all blocks.
    ///
    /// # Errors
    /// As [`Weights::open_blocks`], [`Adapter::open`] and [`Weights::merged`]; or there are no rotary positions to round.
    pub fn open(&self) -> model::Result<Weights> {
        self.open_blocks(self.blocks.fixed())
    }

    /// As [`BackboneConfig::open`], with this number of blocks.
    ///
    /// # Errors
    /// As [`BackboneConfig::open`].
    pub fn open_blocks(&self, blocks: Blocks) -> model::Result<Weights> {
        let weights = match &self.adapter {
            // An adapter of the whole backbone is checked against the whole.
            Some(adapter) => Weights::open(&self.path)?
                .merged(&Adapter::open(adapter)?)?
                .with_blocks(blocks)?,
            None => Weights::open_blocks(&self.path, blocks)?,
        };
        weights.with_rope_periods(self.rope_periods)
    }

    /// The architecture as configured, from `config.json` alone; with `blocks: auto`, of all blocks, which must be there to
    /// choose from.
    ///
    /// # Errors
    /// As [`BackboneSpec::from_hf_config`], [`BackboneSpec::with_blocks`] and [`BackboneSpec::with_rope_periods`].
    pub fn spec(&self) -> model::Result<BackboneSpec> {
        let whole = BackboneSpec::from_hf_config(&self.path.join("config.json"))?;
        if self.blocks.is_auto() {
            for count in self.depth.candidates.as_deref().unwrap_or(&[1]) {
                whole.clone().with_blocks(Blocks::First(*count))?;
            }
        }
        whole
            .with_blocks(self.blocks.fixed())?
            .with_rope_periods(self.rope_periods)
    }
}

/// The classifier head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeadConfig {
    /// `linear` or `mlp` (linear, GELU, linear).
    pub kind: HeadType,
    /// What the head reads: `cls`, or `cls_mean_patch` (CLS and the mean of the patch tokens, concatenated).
    pub features: Features,
    /// The blocks that it reads these of, counted from 1, ascending, e.g. `[6, 12]`: concatenated, each after the final norm.
    /// The last of them must be the last that is run (`backbone.blocks`); `null` means that one alone.
    // Left out where it is the default, so that the digests of trainings from before this key stay as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<usize>>,
    /// Width of the hidden layer; for `mlp` only (default 512).
    pub hidden: Option<usize>,
    /// Dropout before the last layer while training (default 0).
    pub dropout: f64,
}

/// The kind of head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadType {
    /// One linear layer.
    #[default]
    Linear,
    /// Linear, GELU, linear.
    Mlp,
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self {
            kind: HeadType::Linear,
            features: Features::ClsMeanPatch,
            blocks: None,
            hidden: None,
            dropout: 0.0,
        }
    }
}

impl HeadConfig {
    /// The blocks that it reads of a backbone.
    ///
    /// # Errors
    /// [`ModelError::HeadBlocks`](model::ModelError::HeadBlocks) for blocks that aren't run, or would be run for nothing.
    pub fn read_blocks(&self, backbone: &BackboneSpec) -> model::Result<ReadBlocks> {
        let Some(blocks) = &self.blocks else {
            return Ok(ReadBlocks::LAST);
        };
        let refused = |reason: String| {
            let blocks = blocks.clone();
            Err(model::ModelError::HeadBlocks { blocks, reason })
        };
        let BackboneSpec::Vit(vit) = backbone else {
            return refused(format!(
                "can't be read of a {} backbone, which has stages; leave out the key",
                backbone.model_type()
            ));
        };
        let last = blocks.last().copied().unwrap_or(0);
        match (ReadBlocks::new(blocks), last.cmp(&vit.layers)) {
            (Some(blocks), std::cmp::Ordering::Equal) => Ok(blocks),
            (Some(_), std::cmp::Ordering::Less) => refused(format!(
                "end with block {last} of {} that are run: those above would be run for nothing; set `backbone.blocks: {last}`, or \
                 read block {} too",
                vit.layers, vit.layers
            )),
            _ => refused(format!(
                "are to be read, the backbone runs {} blocks: name some of them, ascending, the last one included",
                vit.layers
            )),
        }
    }

    /// The architecture that the fields describe.
    pub fn architecture(&self) -> HeadKind {
        match self.kind {
            HeadType::Linear => HeadKind::Linear,
            HeadType::Mlp => HeadKind::Mlp {
                hidden: self.hidden.unwrap_or(512),
            },
        }
    }
}

/// The training loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Passes over the training images, at most.
    pub epochs: usize,
    /// Images per optimiser step.
    pub batch_size: usize,
    /// AdamW's peak learning rate.
    pub learning_rate: f64,
    /// AdamW's decoupled weight decay (biases are left out).
    pub weight_decay: f64,
    /// Epochs of linear warm-up before the cosine.
    pub warmup_epochs: f64,
    /// Mass moved from the label to the uniform distribution, in [0, 1).
    pub label_smoothing: f64,
    /// `none`, `balanced` (n / (K · n_k)) or `effective_number`.
    pub class_weights: ClassWeights,
    /// β of `class_weights: effective_number`.
    pub effective_number_beta: f64,
    /// γ of the focal loss (Lin et al., arXiv 1708.02002); 0 is cross-entropy.
    pub focal_gamma: f64,
    /// τ of the logit-adjusted loss (Menon et al., arXiv 2007.07314): τ ln π_k is added to the logits in training; 0 turns
    /// it off.
    pub logit_adjustment: f64,
    /// `natural`: an epoch is each image once; `balanced`: each class equally often.
    pub sampling: Sampling,
    /// Images per forward and backward pass of a step, whose gradients are added up; `null` means the whole batch. For
    /// phases that train through the backbone.
    pub micro_batch_size: Option<usize>,
    /// `fp32` or `bf16`, for phases that train through the backbone.
    pub precision: Precision,
    /// `cpu`, `cuda` or `cuda:N`. There is no fallback: a device that isn't there is an error.
    // Left out where it is the default, so that the digests of trainings from before this key stay as they are.
    #[schemars(with = "String")]
    #[serde(skip_serializing_if = "TrainDevice::is_cpu")]
    pub device: TrainDevice,
    /// Seconds between saves of the state that an interrupted training continues from; 0 saves after every step.
    pub save_every_seconds: u64,
    /// A checkpoint's folder, whose weights the training starts from, with everything else anew; its head (and adapters)
    /// must be of the same architecture, and it must be of the same splits. With `phase: gate`, heads of folds always start
    /// anew, and so does a cross-fitted gate; SelectiveNet's starts from the checkpoint's, if that has one.
    pub init_from: Option<PathBuf>,
    /// Decay of the weights' moving average, updated each step; 0 turns it off.
    pub ema_decay: f64,
    /// Largest norm of the gradient over all trained parameters.
    pub max_grad_norm: f64,
    /// When to stop and which epoch to keep.
    pub early_stop: EarlyStop,
    /// Images per forward pass of the frozen backbone.
    pub feature_batch_size: usize,
    /// Where features are kept between runs; `null` means `cache` in the folder above `run_dir`.
    pub cache_dir: Option<PathBuf>,
}

impl TrainConfig {
    /// Whether the loss is cross-entropy, and nothing else.
    pub fn has_plain_loss(&self) -> bool {
        let plain = Self::default();
        self.class_weights == plain.class_weights
            && self.focal_gamma == 0.0
            && self.logit_adjustment == 0.0
            && self.label_smoothing == 0.0
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 40,
            batch_size: 128,
            learning_rate: 3e-3,
            weight_decay: 0.01,
            warmup_epochs: 1.0,
            label_smoothing: 0.0,
            class_weights: ClassWeights::None,
            effective_number_beta: 0.999,
            focal_gamma: 0.0,
            logit_adjustment: 0.0,
            sampling: Sampling::Natural,
            micro_batch_size: None,
            precision: Precision::Fp32,
            device: TrainDevice::Cpu,
            save_every_seconds: 60,
            init_from: None,
            ema_decay: 0.999,
            max_grad_norm: 1.0,
            early_stop: EarlyStop::default(),
            feature_batch_size: 32,
            cache_dir: None,
        }
    }
}

/// When to stop and which epoch to keep, judged on val_select.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStop {
    /// The metric that chooses.
    pub metric: SelectionMetric,
    /// Epochs without improvement before training ends.
    pub patience: usize,
    /// What counts as an improvement.
    pub min_delta: f64,
}

impl Default for EarlyStop {
    fn default() -> Self {
        Self {
            metric: SelectionMetric::Mcc,
            patience: 6,
            min_delta: 0.0,
        }
    }
}

/// A metric that can choose an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SelectionMetric {
    /// Matthews' correlation coefficient.
    #[default]
    Mcc,
    /// Share of right answers.
    Accuracy,
    /// Mean recall of the classes.
    BalancedAccuracy,
    /// F1 of class 1 for two classes, else the mean of the classes' F1.
    F1,
    /// Area under the generalised risk over coverage, by the largest probability (Traub et al. 2024); lower is better.
    Augrc,
    /// Negative log-likelihood; lower is better.
    Nll,
}

impl SelectionMetric {
    /// Its name among an epoch's metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mcc => "mcc",
            Self::Accuracy => "accuracy",
            Self::BalancedAccuracy => "balanced_accuracy",
            Self::F1 => "f1",
            Self::Augrc => "augrc",
            Self::Nll => "nll",
        }
    }

    /// A value turned so that higher is better.
    pub fn score(self, value: f64) -> f64 {
        match self {
            Self::Augrc | Self::Nll => -value,
            Self::Mcc | Self::Accuracy | Self::BalancedAccuracy | Self::F1 => value,
        }
    }
}

/// The checks on the exported model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExportConfig {
    /// Largest error of a logit against libtorch, relative to the largest logit.
    pub parity_tolerance: f64,
    /// Images per run of the model: `dynamic`, or a number, which suits engines that compile for one shape. A model with a
    /// fixed number is fed whole batches: the last one is filled up.
    pub batch: BatchSize,
    /// How the model takes pictures: `float32`, normalised planes; `uint8`, grey levels as decoders deliver them, which the
    /// model normalises by itself. `uint8` needs a `preprocess.arithmetic` in whole grey levels.
    pub input: PixelFormat,
    /// What the models are to run on.
    pub target: Target,
    /// Further precisions in the bundle, beside fp32: `fp16`, `int8`.
    pub variants: Vec<VariantPrecision>,
    /// Largest share of val_select's images that a further precision may give another class than fp32.
    pub max_flip_rate: f64,
    /// Of `fp16`.
    pub fp16: Fp16Config,
    /// Of `int8`.
    pub int8: Int8Config,
}

impl Default for ExportConfig {
    fn default() -> Self {
        Self {
            parity_tolerance: 1e-4,
            batch: BatchSize::Any(AnyBatch::Dynamic),
            input: PixelFormat::Float32,
            target: Target::Portable,
            variants: Vec::new(),
            max_flip_rate: 0.02,
            fp16: Fp16Config::default(),
            int8: Int8Config::default(),
        }
    }
}

/// How many images a model takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected `dynamic` or a number of images, at least 1"
)]
pub enum BatchSize {
    /// Any number.
    Any(AnyBatch),
    /// Always this many.
    Fixed(NonZero<usize>),
}

/// Any number of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnyBatch {
    /// Known only at run time.
    Dynamic,
}

impl BatchSize {
    /// The number, if it is fixed.
    pub fn fixed(self) -> Option<NonZero<usize>> {
        match self {
            Self::Any(AnyBatch::Dynamic) => None,
            Self::Fixed(n) => Some(n),
        }
    }
}

/// What models are made for. The float32 model is the same for all: constant tables, explicit MatMul and Softmax.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Any runtime.
    #[default]
    Portable,
    /// TensorRT: fp16 keeps the attention's scores and softmax in float32, since TensorRT gets DINOv3 wrong otherwise;
    /// there is no int8, since TensorRT reads symmetric int8 only and ours has zero points.
    TensorRt,
}

impl Target {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::TensorRt => "tensorrt",
        }
    }
}

/// A precision beside fp32.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum VariantPrecision {
    /// Linear layers in float16.
    Fp16,
    /// Linear layers in integers of 8 bits, with static ranges.
    Int8,
}

impl VariantPrecision {
    /// Its name, which is also that of its variant.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }
}

/// Half precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fp16Config {
    /// Largest error of a logit against libtorch, relative to the largest logit.
    pub parity_tolerance: f64,
    /// Training images that show which values float16 can't hold.
    pub images: usize,
}

impl Default for Fp16Config {
    fn default() -> Self {
        Self {
            parity_tolerance: 0.02,
            images: 16,
        }
    }
}

/// Integers of 8 bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Int8Config {
    /// Largest error of a logit against libtorch, relative to the largest logit.
    pub parity_tolerance: f64,
    /// Training images that ranges and the choice of layers come from.
    pub images: usize,
    /// Layers stay in fp32 until the logits' root mean square error on these images is at most this share of theirs.
    pub max_error: f64,
    /// Bits of a weight: 7 or 8; `null` takes 8 where the CPU has VNNI and 7 elsewhere, where sums of 8 saturate.
    pub weight_bits: Option<u8>,
}

impl Default for Int8Config {
    fn default() -> Self {
        Self {
            parity_tolerance: 0.15,
            images: 64,
            max_error: 0.04,
            weight_bits: None,
        }
    }
}

/// The guarantee that is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CalibrateConfig {
    /// `pac`: with confidence 1 − δ the risk is at most α. `expectation`: it is on average over calibrations, about half of
    /// which exceed α (selective conformal risk control); it allows about one error more, and knows no delta.
    pub guarantee: Guarantee,
    /// Largest error rate among answered images (α); where `constraints` are given, they say what is promised instead.
    /// With `guarantee: expectation` the most wrong answers among selected images.
    pub alpha: f64,
    /// Probability that the certificate is wrong (δ): the confidence is 1 − δ.
    pub delta: f64,
    /// How the reported probability is calibrated; it never enters a decision.
    pub calibrator: CalibratorChoice,
    /// `single`: 1 − δ holds for the first attempt on this val_calib. `spending`: attempt j runs at δ / (j (j + 1)).
    pub attempts: Attempts,
    /// What is promised, all of it together; none: errors among answered images, at most `alpha`. E.g.
    /// `[{kind: selective_error, alpha: 0.05}, {kind: coverage, at_least: 0.5}]`.
    pub constraints: Vec<Constraint>,
    /// How several thresholds are tested on one val_calib: `fixed_sequence`, `multi_start: {starts: 5}`, `bonferroni` or
    /// `holm`.
    pub procedure: Procedure,
    /// The number that is compared with the threshold.
    pub score: ScoreChoice,
    /// The rate that is controlled where images come in groups: `unit` (of a random image of a random group), or `row`
    /// (of a random image; it needs `max_group_size`).
    pub group_risk: GroupRiskChoice,
    /// The most images that a group has, declared beforehand; for `group_risk: row` only.
    pub max_group_size: Option<u64>,
    /// Probability with which the bound of a variant's flips against fp32 is wrong (δ_f).
    pub flip_delta: f64,
    /// A variant gets no policy if its class differs from fp32's more often than this, by that bound; `null` only tells.
    pub max_flip_bound: Option<f64>,
}

/// The number that is compared with the threshold; always a function of the raw logits, or the gate. What is fitted for it
/// is fitted on val_select, so that val_calib certifies with all its rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScoreChoice {
    /// `binary_margin` for two classes, `max_probability` for more.
    #[default]
    Auto,
    /// z₁ − z₀, with a threshold on either side; two classes.
    BinaryMargin,
    /// The largest softmax probability, at a temperature fitted on val_select.
    MaxProbability,
    /// The largest logit minus the second largest.
    Margin,
    /// ln Σ exp(z_k).
    Energy,
    /// The output of a learned gate, where the model has one.
    Gate,
    /// The probability of the answer after vector scaling that was fitted on val_select; three classes or more.
    Vector,
    /// The same after structured vector scaling (a penalised weight and bias per class).
    Svs,
    /// The same after structured matrix scaling (a penalised matrix and a bias per class).
    Sms,
    /// Of all that apply, the one with the largest certified share to be expected from val_select.
    BestOnSelect,
}

/// The rate that is controlled where images come in groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupRiskChoice {
    /// Of a random image of a random group: every group weighs the same.
    #[default]
    Unit,
    /// Of a random image: every image weighs the same.
    Row,
}

impl CalibrateConfig {
    /// What is promised: the constraints, or the one on errors among answered images.
    pub fn promised(&self) -> Vec<Constraint> {
        match self.constraints.as_slice() {
            [] => vec![Constraint::SelectiveError { alpha: self.alpha }],
            given => given.to_vec(),
        }
    }

    /// The first setting that belongs to the other kind of promise: its key, what it would have to be, and what it is.
    pub fn contradiction(&self) -> Option<(&'static str, &'static str, String)> {
        if self.guarantee == Guarantee::Pac {
            return None;
        }
        let defaults = Self::default();
        let rules = [
            (
                "calibrate.constraints",
                self.constraints.is_empty(),
                "none, since `calibrate.guarantee: expectation` promises one thing (wrong answers among selected images)",
                format!("{} of them", self.constraints.len()),
            ),
            (
                "calibrate.delta",
                self.delta.to_bits() == defaults.delta.to_bits(),
                "no value of its own, since `calibrate.guarantee: expectation` holds with no confidence",
                self.delta.to_string(),
            ),
            (
                "calibrate.procedure",
                self.procedure == defaults.procedure,
                "no other than the default, since `calibrate.guarantee: expectation` tests no thresholds",
                brief(&self.procedure),
            ),
            (
                "calibrate.attempts",
                self.attempts == Attempts::Single,
                "`single`, since `calibrate.guarantee: expectation` has no delta that could be spent",
                "spending".to_owned(),
            ),
            (
                "calibrate.group_risk",
                self.group_risk == GroupRiskChoice::Unit,
                "`unit`, since `calibrate.guarantee: expectation` uses one image of each group",
                "row".to_owned(),
            ),
            (
                "calibrate.score",
                self.score != ScoreChoice::BinaryMargin,
                "a score with one side (max_probability, margin, energy, gate, best_on_select, auto) with \
                 `calibrate.guarantee: expectation`",
                "binary_margin".to_owned(),
            ),
        ];
        let broken = rules.into_iter().find(|(_, holds, ..)| !holds);
        broken.map(|(key, _, expected, got)| (key, expected, got))
    }

    /// The rate that is controlled where images come in groups.
    pub fn controlled(&self) -> GroupRisk {
        match (self.group_risk, self.max_group_size) {
            (GroupRiskChoice::Row, Some(max_group_size)) => GroupRisk::Row { max_group_size },
            _ => GroupRisk::Unit,
        }
    }
}

impl Default for CalibrateConfig {
    fn default() -> Self {
        Self {
            guarantee: Guarantee::Pac,
            alpha: 0.05,
            delta: 0.1,
            calibrator: CalibratorChoice::Auto,
            attempts: Attempts::Single,
            constraints: Vec::new(),
            procedure: Procedure::FixedSequence,
            score: ScoreChoice::Auto,
            group_risk: GroupRiskChoice::Unit,
            max_group_size: None,
            flip_delta: 0.05,
            max_flip_bound: None,
        }
    }
}

/// How the reported probability is calibrated. The formulas are those of
/// [`Calibrator`](crate::policy::Calibrator).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CalibratorChoice {
    /// By cross-validated likelihood: among none, temperature, platt and beta for two classes; none, ts_mix, svs and sms
    /// for more.
    #[default]
    Auto,
    /// The softmax as it is.
    None,
    /// One temperature.
    Temperature,
    /// One temperature, mixed with the uniform distribution so that no class is reported as impossible.
    TsMix,
    /// A weight and a bias per class; three classes or more; may reorder the classes.
    Vector,
    /// A penalised weight and bias per class; three classes or more; may reorder the classes.
    Svs,
    /// A penalised matrix and a bias per class; three classes or more; may reorder the classes.
    Sms,
    /// A logistic curve on the margin, fitted to smoothed targets; two classes.
    Platt,
    /// A logistic curve on the margin, fitted to the labels themselves; two classes.
    Affine,
    /// Beta calibration; two classes.
    Beta,
    /// A logistic curve on a parabola of the margin; two classes; not monotone: a surer score may be reported as less
    /// probable.
    Quadratic,
    /// A rising step-like curve; two classes; wants 10,000 rows or more.
    Isotonic,
    /// The inductive Venn-Abers predictor; two classes; wants 10,000 rows or more.
    VennAbers,
}

/// Where the models run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeployConfig {
    /// The devices that are tried, in order: `cpu`, `cuda`, `tensorrt`. The first on which a model opens is used, and what
    /// became of those before it is told.
    pub device: Ladder,
    /// Options of ONNX Runtime's CUDA execution provider, by their own names.
    pub cuda: BTreeMap<String, OptionValue>,
    /// Options of ONNX Runtime's TensorRT execution provider, by their own names.
    pub tensorrt: BTreeMap<String, OptionValue>,
}

impl DeployConfig {
    /// The options of all providers.
    pub fn providers(&self) -> ProviderOptions {
        ProviderOptions {
            cuda: self.cuda.clone(),
            tensorrt: self.tensorrt.clone(),
        }
    }
}

/// The verdict on val_test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ValidateConfig {
    /// Level of each side of the verdict (γ).
    pub gamma: f64,
}

impl Default for ValidateConfig {
    fn default() -> Self {
        Self { gamma: 0.05 }
    }
}

fn default_run_dir() -> PathBuf {
    "runs/default".into()
}

/// 224 is a multiple of the patches of DINOv2 (14) and DINOv3 (16).
fn default_preprocess() -> PreprocessSpec {
    PreprocessSpec::dinov3(224, 224)
}

fn default_seed() -> u64 {
    42
}

/// Where things are in a run directory.
impl Config {
    /// The splits; their ledgers lie beside them.
    pub fn splits_path(&self) -> PathBuf {
        self.run_dir.join("splits.json")
    }

    /// The resolved configuration.
    pub fn resolved_path(&self) -> PathBuf {
        self.run_dir.join("config.yaml")
    }

    /// The checkpoint that training keeps.
    pub fn checkpoint_dir(&self) -> PathBuf {
        self.run_dir.join("checkpoints/best")
    }

    /// What an interrupted training continues from.
    pub fn state_path(&self) -> PathBuf {
        self.run_dir.join("checkpoints/last.safetensors")
    }

    /// The folder of TensorBoard's events.
    pub fn tensorboard_dir(&self) -> PathBuf {
        self.run_dir.join("tensorboard")
    }

    /// How `backbone.blocks: auto` has chosen.
    pub fn depth_path(&self) -> PathBuf {
        self.run_dir.join("depth.json")
    }

    /// The same with the first `blocks` blocks, as if they had been asked for.
    #[must_use]
    pub fn at_depth(&self, blocks: usize) -> Self {
        let mut config = self.clone();
        config.backbone.blocks = BlockChoice::First(blocks);
        config.backbone.depth = DepthConfig::default();
        config
    }

    /// Whether the gate is deployed, and why.
    pub fn gate_path(&self) -> PathBuf {
        self.run_dir.join("gate.json")
    }

    /// libtorch's logits of val_select.
    pub fn trained_logits_path(&self) -> PathBuf {
        self.run_dir.join("logits/val_select.trained.safetensors")
    }

    /// The backbone that self-supervised training leaves, with its record: a Hugging Face folder.
    pub fn pretrained_dir(&self) -> PathBuf {
        let from = self.explora.from.clone();
        from.unwrap_or_else(|| self.run_dir.join("explora"))
    }

    /// What an interrupted self-supervised training continues from.
    pub fn pretraining_state_path(&self) -> PathBuf {
        self.run_dir.join("checkpoints/explora-last.safetensors")
    }

    /// One line per epoch of self-supervised training.
    pub fn pretraining_metrics_path(&self) -> PathBuf {
        self.run_dir.join("metrics.explora.jsonl")
    }

    /// The backbone that head and adapters are trained on: that of `backbone`, or what self-supervised training makes of it.
    pub fn supervised_backbone(&self) -> BackboneConfig {
        if !self.phase.pretrains() {
            return self.backbone.clone();
        }
        BackboneConfig {
            path: self.pretrained_dir(),
            // Merged into it, and cut to its blocks, already.
            adapter: None,
            blocks: BlockChoice::All,
            depth: DepthConfig::default(),
            rope_periods: self.backbone.rope_periods,
        }
    }

    /// Whether adapters are trained with the head.
    pub fn adapts(&self) -> bool {
        match self.phase {
            Phase::Peft => true,
            Phase::ExploraSupervised => !self.peft.target_modules.is_empty(),
            Phase::Baseline | Phase::Gate | Phase::Explora => false,
        }
    }

    /// One line per epoch.
    pub fn metrics_path(&self) -> PathBuf {
        self.run_dir.join("metrics.jsonl")
    }

    /// The deployable model.
    pub fn bundle_dir(&self) -> PathBuf {
        self.run_dir.join("bundle")
    }

    /// Logits of a split through the deployed session.
    pub fn logits_path(&self, split: crate::split::Split) -> PathBuf {
        self.run_dir
            .join("logits")
            .join(format!("{split}.safetensors"))
    }

    /// Logits of a split through a variant's session: those of fp32 lie in `logits`, others in a folder there.
    pub fn variant_logits_path(&self, variant: &str, split: crate::split::Split) -> PathBuf {
        let path = self.logits_path(split);
        match (variant, path.parent(), path.file_name()) {
            (crate::bundle::FP32, ..) => path,
            (_, Some(folder), Some(name)) => folder.join(variant).join(name),
            _ => path,
        }
    }

    /// A file of the run that is about one variant: `name.json` of fp32, `name.<variant>.json` of others.
    pub fn variant_file(&self, name: &str, variant: &str) -> PathBuf {
        let name = match variant {
            crate::bundle::FP32 => format!("{name}.json"),
            _ => format!("{name}.{variant}.json"),
        };
        self.run_dir.join(name)
    }

    /// Features of the frozen backbone, shared by the runs of one folder.
    pub fn cache_dir(&self) -> PathBuf {
        let beside = || self.run_dir.parent().unwrap_or(Path::new("")).join("cache");
        self.train.cache_dir.clone().unwrap_or_else(beside)
    }

    /// The number of threads to use.
    pub fn thread_count(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(all)
    }

    /// The digest of what decides results: everything but where files lie and finished models run.
    pub fn digest(&self) -> Digest {
        let mut same = self.clone();
        same.deploy = DeployConfig::default();
        same.run_dir = PathBuf::new();
        same.data.source = PathBuf::new();
        same.data.options.root = None;
        same.backbone.path = PathBuf::new();
        same.backbone.adapter = same.backbone.adapter.map(|_| PathBuf::new());
        same.train.cache_dir = None;
        same.backbone.depth.max_cache_gib = DepthConfig::default().max_cache_gib;
        same.train.save_every_seconds = 0;
        same.train.init_from = same.train.init_from.map(|_| PathBuf::new());
        same.explora = same.explora.without_places();
        Digest::of_json(&same)
    }
}
