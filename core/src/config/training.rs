//! What is particular to some phases of training: adapters, augmentation, imbalance.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Weights of the classes in the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeights {
    /// Every image counts the same.
    #[default]
    None,
    /// Every class counts the same: n / (K · n_k).
    Balanced,
    /// By the effective number of images, (1 − β) / (1 − β^n_k) (Cui et al., arXiv 1901.05555), scaled to a mean of 1; β is
    /// `effective_number_beta`.
    EffectiveNumber,
}

/// Which images an epoch holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Each image once.
    #[default]
    Natural,
    /// As many draws as there are images, each class equally often: images of small classes come repeatedly.
    Balanced,
}

/// The numbers that a training through the backbone computes in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// float32 throughout.
    #[default]
    Fp32,
    /// Linear layers and attention in bfloat16; weights that are trained, norms, sums over layers and the loss in float32.
    /// Epochs are judged in float32, as the exported model computes.
    Bf16,
}

/// Where a training computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TrainDevice {
    /// The processor.
    #[default]
    Cpu,
    /// A CUDA device, counted from 0.
    Cuda(usize),
}

impl TrainDevice {
    pub(super) fn is_cpu(&self) -> bool {
        *self == Self::Cpu
    }
}

impl TryFrom<String> for TrainDevice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::Cuda(0)),
            _ => {}
        }
        let number = text.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        number
            .map(Self::Cuda)
            .ok_or_else(|| format!("unknown device `{text}`, expected cpu, cuda or cuda:N"))
    }
}

impl From<TrainDevice> for String {
    fn from(device: TrainDevice) -> Self {
        match device {
            TrainDevice::Cpu => "cpu".to_owned(),
            TrainDevice::Cuda(number) => format!("cuda:{number}"),
        }
    }
}

/// Low-rank adapters, for `phase: peft`. Names and meanings are those of Hugging Face PEFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PeftConfig {
    /// Which linear layers are adapted: a list of names, or of what names end in; or one regular expression for the whole
    /// name; or `all-linear`. Each name of a list must be one of the backbone's.
    pub target_modules: TargetModules,
    /// Blocks whose layers are adapted, counted from 0; `null` means all.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Rank of the change.
    pub r: usize,
    /// The change is scaled with `lora_alpha / r` (with `use_rslora`: `lora_alpha / √r`).
    pub lora_alpha: f64,
    /// Other ranks by name (a regular expression for the end of the name).
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other alphas by name.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Dropout of the change's input.
    pub lora_dropout: f64,
    /// Rank-stabilised scale.
    pub use_rslora: bool,
    /// Direction and length of each row are trained apart.
    pub use_dora: bool,
    /// AdamW's peak learning rate of the adapters; the head has `train.learning_rate`.
    pub learning_rate: f64,
    /// LoRA+: how many times faster B (and DoRA's lengths) learn than A.
    pub lora_plus_ratio: f64,
    /// AdamW's weight decay of A and B.
    pub weight_decay: f64,
    /// Epochs in which the head alone is trained on features of the frozen backbone, before the adapters begin.
    pub head_warmup_epochs: usize,
    /// Keep only the inputs of the blocks and compute the inside of each again for its gradient: less memory, more time.
    pub checkpoint_blocks: bool,
}

impl Default for PeftConfig {
    fn default() -> Self {
        Self {
            target_modules: TargetModules::List(Vec::new()),
            layers_to_transform: None,
            r: 8,
            lora_alpha: 16.0,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            lora_dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            learning_rate: 1e-4,
            lora_plus_ratio: 1.0,
            weight_decay: 0.0,
            head_warmup_epochs: 0,
            checkpoint_blocks: false,
        }
    }
}

/// Names of linear layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetModules {
    /// Whole names, or what names end in after a dot.
    List(Vec<String>),
    /// A regular expression for the whole name, or `all-linear`.
    Pattern(String),
}

impl TargetModules {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::List(names) => names.is_empty(),
            Self::Pattern(pattern) => pattern.is_empty(),
        }
    }
}

/// Changes of training images, drawn anew each time; for phases that train through the backbone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// A random part of the picture, brought to the model's size; `null`: the whole, as in deployment.
    pub crop: Option<RandomCrop>,
    /// Probability of mirroring left and right.
    pub flip: f64,
    /// Brightness, contrast, saturation and hue, in random order.
    pub colour: ColourJitter,
    /// Probability of a grey picture.
    pub grey: f64,
    /// A Gaussian blur.
    pub blur: Blur,
    /// Bright values are inverted.
    pub solarise: Solarise,
    /// A few random operations of one strength, as RandAugment (Cubuk et al., arXiv 1909.13719).
    pub policy: AugmentPolicy,
    /// α of mixup's Beta(α, α) (Zhang et al., arXiv 1710.09412); 0 turns it off.
    pub mixup: f64,
    /// α of CutMix's Beta(α, α) (Yun et al., arXiv 1905.04899); 0 turns it off. With both, a batch gets either.
    pub cutmix: f64,
}

/// A random part of a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandomCrop {
    /// Its share of the picture's area, between these.
    pub area: [f64; 2],
    /// Its width divided by its height, between these (uniform in the logarithm).
    pub ratio: [f64; 2],
}

impl Default for RandomCrop {
    fn default() -> Self {
        Self {
            area: [0.35, 1.0],
            ratio: [0.75, 4.0 / 3.0],
        }
    }
}

/// Random changes of colour: a factor from 1 − x to 1 + x each, and a turn of the hue of at most `hue` of the circle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ColourJitter {
    /// Probability.
    pub probability: f64,
    /// Largest change of the brightness.
    pub brightness: f64,
    /// Largest change of the contrast.
    pub contrast: f64,
    /// Largest change of the saturation.
    pub saturation: f64,
    /// Largest turn of the hue, at most 0.5.
    pub hue: f64,
}

impl Default for ColourJitter {
    fn default() -> Self {
        Self {
            probability: 0.0,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.2,
            hue: 0.1,
        }
    }
}

/// A Gaussian blur.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Blur {
    /// Probability.
    pub probability: f64,
    /// Its standard deviation in pixels of the model's input, between these.
    pub sigma: [f64; 2],
}

impl Default for Blur {
    fn default() -> Self {
        Self {
            probability: 0.0,
            sigma: [0.1, 2.0],
        }
    }
}

/// Values from `threshold` on are inverted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Solarise {
    /// Probability.
    pub probability: f64,
    /// Grey level.
    pub threshold: u8,
}

impl Default for Solarise {
    fn default() -> Self {
        Self {
            probability: 0.0,
            threshold: 128,
        }
    }
}

/// Random operations of one strength.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentPolicy {
    /// How many are applied to each picture; 0 turns it off.
    pub operations: usize,
    /// Their strength, 0 to 10.
    pub magnitude: f64,
}

impl Default for AugmentPolicy {
    fn default() -> Self {
        Self {
            operations: 0,
            magnitude: 9.0,
        }
    }
}
