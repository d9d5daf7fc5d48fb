//! Extended self-supervised pre-training, for the phases `explora` and `explora-supervised`.

use super::{ColourJitter, load::Rule};
use crate::artifact::json::brief;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// ExPLoRA (Khanna, Irgau, Lobell, Ermon: ExPLoRA: Parameter-Efficient Extended Pre-training to Adapt Vision Transformers
/// under Domain Shifts, ICML 2025) with the objective of DINOv2 (Oquab et al.: DINOv2: Learning Robust Visual Features
/// without Supervision, 2023).
///
/// Defaults are the published values, but for the number of prototypes (65,536 there), the batch (1,024 there; the rate
/// here is the published one times √(64 / 1,024)) and the epochs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExploraConfig {
    /// Folders of unlabelled images, with all below them. Images that are also in val_select, val_calib or val_test, or
    /// nearly, are left out and counted.
    pub data: Vec<PathBuf>,
    /// Whether the images of `train` are used, without their labels.
    pub train_images: bool,
    /// The folder `explora` of another run with the same splits, whose backbone is used instead of training one; for
    /// `phase: explora-supervised`.
    pub from: Option<PathBuf>,
    /// Blocks that are trained whole, counted from 0; `null`: the last one.
    pub unfreeze_blocks: Option<Vec<usize>>,
    /// Rank of the changes of q and v in the other blocks.
    pub r: usize,
    /// They are scaled with `lora_alpha / r`. (The paper doesn't say which it used.)
    pub lora_alpha: f64,
    /// Whether the norms of the other blocks and the final one are trained.
    pub norms: bool,
    /// Whether the class token is trained.
    pub class_token: bool,
    /// Passes over the images.
    pub epochs: usize,
    /// Images per optimiser step.
    pub batch_size: usize,
    /// Images per forward and backward pass of a step, whose gradients are averaged; each part has its own centring and
    /// neighbours, as in the published training, so that it isn't the same as one pass. `null`: the whole batch.
    pub micro_batch_size: Option<usize>,
    /// AdamW's peak learning rate.
    pub learning_rate: f64,
    /// What is in a block learns at this share of the rate of what is in the next one; class and mask token come before the
    /// first block, the final norm and the projection heads after the last. 0.9 is DINOv2's; 1: all at the same rate.
    pub layerwise_decay: f64,
    /// Epochs of linear warm-up before the cosine.
    pub warmup_epochs: f64,
    /// AdamW's weight decay (of matrices only) at the start; it follows half a cosine.
    pub weight_decay: f64,
    /// The same at the end.
    pub weight_decay_end: f64,
    /// Largest norm of the gradient over all trained parameters.
    pub max_grad_norm: f64,
    /// Epochs in which the prototypes stay as they were drawn.
    pub freeze_prototypes_epochs: f64,
    /// How much of the teacher stays at each step, at the start; it follows half a cosine.
    pub teacher_momentum: f64,
    /// The same at the end.
    pub teacher_momentum_end: f64,
    /// The student's temperature.
    pub student_temperature: f64,
    /// The teacher's temperature at the start; it rises linearly.
    pub teacher_temperature_start: f64,
    /// The teacher's temperature after its warm-up.
    pub teacher_temperature: f64,
    /// Epochs of that warm-up.
    pub teacher_warmup_epochs: f64,
    /// Rounds of Sinkhorn and Knopp's algorithm, which centres the teacher's answers; 0 leaves them as they are, and
    /// then nothing keeps them from collapsing.
    pub sinkhorn_iterations: usize,
    /// The two large parts of a picture, of the model's size.
    pub global_crops: GlobalCrops,
    /// The small ones.
    pub local_crops: LocalCrops,
    /// Which patches of the large parts the student doesn't see.
    pub mask: MaskConfig,
    /// From tokens to prototypes, drawn anew.
    pub head: ProjectionConfig,
    /// What the parts of the loss count.
    pub loss: LossWeights,
    /// How colours are varied.
    pub views: ViewsConfig,
    /// What stops the training because it has collapsed.
    pub guards: GuardsConfig,
}

impl Default for ExploraConfig {
    fn default() -> Self {
        Self {
            data: Vec::new(),
            train_images: true,
            from: None,
            unfreeze_blocks: None,
            r: 64,
            lora_alpha: 64.0,
            norms: true,
            class_token: true,
            epochs: 10,
            batch_size: 64,
            micro_batch_size: None,
            learning_rate: 2.5e-4,
            layerwise_decay: 0.9,
            warmup_epochs: 1.0,
            weight_decay: 0.04,
            weight_decay_end: 0.4,
            max_grad_norm: 3.0,
            freeze_prototypes_epochs: 1.0,
            teacher_momentum: 0.992,
            teacher_momentum_end: 1.0,
            student_temperature: 0.1,
            teacher_temperature_start: 0.04,
            teacher_temperature: 0.07,
            teacher_warmup_epochs: 3.0,
            sinkhorn_iterations: 3,
            global_crops: GlobalCrops::default(),
            local_crops: LocalCrops::default(),
            mask: MaskConfig::default(),
            head: ProjectionConfig::default(),
            loss: LossWeights::default(),
            views: ViewsConfig::default(),
            guards: GuardsConfig::default(),
        }
    }
}

/// Two large parts of each picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GlobalCrops {
    /// Their share of the picture's area, between these.
    pub area: [f64; 2],
}

impl Default for GlobalCrops {
    fn default() -> Self {
        Self { area: [0.32, 1.0] }
    }
}

/// Small parts of each picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LocalCrops {
    /// How many; 0: none.
    pub count: usize,
    /// Height and width in pixels, multiples of the patch; `null`: three sevenths of the model's size, to the nearest patch
    /// (98 for patches of 14 at 224, 96 for 16).
    pub size: Option<[usize; 2]>,
    /// Their share of the picture's area, between these.
    pub area: [f64; 2],
}

impl Default for LocalCrops {
    fn default() -> Self {
        Self {
            count: 8,
            size: None,
            area: [0.05, 0.32],
        }
    }
}

/// Blocks of patches that are replaced by a mask token in the student's large parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaskConfig {
    /// The share of the large parts that have any.
    pub probability: f64,
    /// The share of patches that is masked in these, between two numbers.
    pub ratio: [f64; 2],
}

impl Default for MaskConfig {
    fn default() -> Self {
        Self {
            probability: 0.5,
            ratio: [0.1, 0.5],
        }
    }
}

/// Three linear layers, then the cosines with the prototypes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProjectionConfig {
    /// Number of prototypes.
    pub prototypes: usize,
    /// Width of the two hidden layers.
    pub hidden: usize,
    /// Width of the prototypes.
    pub bottleneck: usize,
    /// Whether patch tokens have a head of their own.
    pub separate_for_patches: bool,
}

impl Default for ProjectionConfig {
    fn default() -> Self {
        Self {
            prototypes: 4096,
            hidden: 2048,
            bottleneck: 256,
            separate_for_patches: false,
        }
    }
}

/// What the parts of the loss count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LossWeights {
    /// Class tokens of different parts of a picture (DINO).
    pub dino: f64,
    /// Masked patches (iBOT).
    pub ibot: f64,
    /// Distance to the nearest neighbour (KoLeo).
    pub koleo: f64,
}

impl Default for LossWeights {
    fn default() -> Self {
        Self {
            dino: 1.0,
            ibot: 1.0,
            koleo: 0.1,
        }
    }
}

/// How each part of a picture is varied. `augment` is for the supervised training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ViewsConfig {
    /// Probability of mirroring left and right.
    pub flip: f64,
    /// Brightness, contrast, saturation and hue.
    pub colour: ColourJitter,
    /// Probability of a grey picture.
    pub grey: f64,
    /// Probability of a blur (of 0.1 to 2 pixels): of the first large part, of the second, of the small ones.
    pub blur: [f64; 3],
    /// Probability with which the second large part is solarised.
    pub solarise: f64,
}

impl Default for ViewsConfig {
    fn default() -> Self {
        Self {
            flip: 0.5,
            colour: ColourJitter {
                probability: 0.8,
                ..ColourJitter::default()
            },
            grey: 0.2,
            blur: [1.0, 0.1, 0.5],
            solarise: 0.2,
        }
    }
}

/// Limits beyond which a training has collapsed. They are compared with averages over about the last ten steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuardsConfig {
    /// Steps before the first comparison.
    pub after_steps: usize,
    /// Smallest entropy of the teacher's uncentred answers, averaged over a batch, as a share of the largest that the batch
    /// allows: below it, all images are given to few prototypes.
    pub min_batch_entropy: f64,
    /// Largest entropy of a teacher's answer, on average, as a share of ln(prototypes): above it, answers say nothing.
    pub max_sample_entropy: f64,
    /// Smallest deviation of the teacher's normalised class tokens, √(1 − ‖mean‖²): 0 where all are the same.
    pub min_feature_deviation: f64,
}

impl Default for GuardsConfig {
    fn default() -> Self {
        Self {
            after_steps: 20,
            min_batch_entropy: 0.05,
            max_sample_entropy: 0.9999,
            min_feature_deviation: 0.02,
        }
    }
}

impl ExploraConfig {
    /// The size of the small parts, for patches and a model of this size.
    pub fn local_size(&self, (height, width): (usize, usize), patch: usize) -> (usize, usize) {
        let nearest = |side: usize| ((6 * side + 7 * patch) / (14 * patch)).max(1) * patch;
        match self.local_crops.size {
            Some([height, width]) => (height, width),
            None => (nearest(height), nearest(width)),
        }
    }

    /// The same with every path empty: where files lie decides no result.
    #[must_use]
    pub fn without_places(&self) -> Self {
        Self {
            data: vec![PathBuf::new(); self.data.len()],
            from: self.from.as_ref().map(|_| PathBuf::new()),
            ..self.clone()
        }
    }

    /// Rules of values; what belongs to which phase is said elsewhere.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let zero_up = |x: f64| x.is_finite() && x >= 0.0;
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let area = |[low, high]: [f64; 2]| low > 0.0 && low <= high && high <= 1.0;
        let whole = |key, holds, got: usize| (key, holds, "a whole number ≥ 1", got.to_string());
        let above = |key, x: f64| (key, positive(x), "a number > 0", x.to_string());
        let from_zero = |key, x: f64| (key, zero_up(x), "a number ≥ 0", x.to_string());
        let probability = |key, x: f64| (key, share(x), "a number from 0 to 1", x.to_string());
        let within = |key, x: f64| {
            let holds = zero_up(x) && x <= self.epochs as f64;
            (
                key,
                holds,
                "a number from 0 to explora.epochs",
                x.to_string(),
            )
        };
        let two = "two rising numbers above 0, at most 1";
        let (colour, loss) = (&self.views.colour, &self.loss);
        let strengths = [colour.brightness, colour.contrast, colour.saturation];
        vec![
            (
                "explora.data",
                self.train_images || !self.data.is_empty() || self.from.is_some(),
                "folders of images, or `explora.train_images: true`",
                "neither".to_owned(),
            ),
            (
                "explora.unfreeze_blocks",
                self.unfreeze_blocks.as_deref().is_none_or(|blocks| {
                    let rising = blocks.windows(2).all(|pair| pair[0] < pair[1]);
                    !blocks.is_empty() && rising
                }),
                "null, or a rising list of blocks",
                brief(&self.unfreeze_blocks.as_deref().unwrap_or_default()),
            ),
            whole("explora.r", self.r > 0, self.r),
            above("explora.lora_alpha", self.lora_alpha),
            whole("explora.epochs", self.epochs > 0, self.epochs),
            (
                "explora.batch_size",
                self.batch_size > 1,
                "a whole number ≥ 2, since images are compared with each other",
                self.batch_size.to_string(),
            ),
            (
                "explora.micro_batch_size",
                self.micro_batch_size.is_none_or(|size| size > 1),
                "null, or a whole number ≥ 2, since images are compared with each other",
                self.micro_batch_size.unwrap_or_default().to_string(),
            ),
            above("explora.learning_rate", self.learning_rate),
            (
                "explora.layerwise_decay",
                positive(self.layerwise_decay) && self.layerwise_decay <= 1.0,
                "a number > 0, at most 1",
                self.layerwise_decay.to_string(),
            ),
            within("explora.warmup_epochs", self.warmup_epochs),
            from_zero("explora.weight_decay", self.weight_decay),
            from_zero("explora.weight_decay_end", self.weight_decay_end),
            above("explora.max_grad_norm", self.max_grad_norm),
            from_zero(
                "explora.freeze_prototypes_epochs",
                self.freeze_prototypes_epochs,
            ),
            probability("explora.teacher_momentum", self.teacher_momentum),
            probability("explora.teacher_momentum_end", self.teacher_momentum_end),
            above("explora.student_temperature", self.student_temperature),
            above(
                "explora.teacher_temperature_start",
                self.teacher_temperature_start,
            ),
            above("explora.teacher_temperature", self.teacher_temperature),
            from_zero("explora.teacher_warmup_epochs", self.teacher_warmup_epochs),
            (
                "explora.sinkhorn_iterations",
                self.sinkhorn_iterations <= 100,
                "at most 100",
                self.sinkhorn_iterations.to_string(),
            ),
            (
                "explora.global_crops.area",
                area(self.global_crops.area),
                two,
                brief(&self.global_crops.area),
            ),
            (
                "explora.local_crops.area",
                area(self.local_crops.area),
                two,
                brief(&self.local_crops.area),
            ),
            probability("explora.mask.probability", self.mask.probability),
            (
                "explora.mask.ratio",
                area(self.mask.ratio),
                two,
                brief(&self.mask.ratio),
            ),
            (
                "explora.head.prototypes",
                self.head.prototypes > 1,
                "a whole number ≥ 2",
                self.head.prototypes.to_string(),
            ),
            whole(
                "explora.head.hidden",
                self.head.hidden > 0,
                self.head.hidden,
            ),
            whole(
                "explora.head.bottleneck",
                self.head.bottleneck > 0,
                self.head.bottleneck,
            ),
            (
                "explora.loss.dino",
                positive(loss.dino),
                "a number > 0 (what is learned without it isn't ExPLoRA)",
                loss.dino.to_string(),
            ),
            from_zero("explora.loss.ibot", loss.ibot),
            from_zero("explora.loss.koleo", loss.koleo),
            probability("explora.views.flip", self.views.flip),
            probability("explora.views.colour.probability", colour.probability),
            (
                "explora.views.colour",
                strengths.into_iter().all(share) && (0.0..=0.5).contains(&colour.hue),
                "brightness, contrast and saturation from 0 to 1, hue from 0 to 0.5",
                format!("{strengths:?} and {}", colour.hue),
            ),
            probability("explora.views.grey", self.views.grey),
            (
                "explora.views.blur",
                self.views.blur.into_iter().all(share),
                "three numbers from 0 to 1",
                brief(&self.views.blur),
            ),
            probability("explora.views.solarise", self.views.solarise),
            probability(
                "explora.guards.min_batch_entropy",
                self.guards.min_batch_entropy,
            ),
            probability(
                "explora.guards.max_sample_entropy",
                self.guards.max_sample_entropy,
            ),
            probability(
                "explora.guards.min_feature_deviation",
                self.guards.min_feature_deviation,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_parts_are_whole_patches_of_about_three_sevenths() {
        let config = ExploraConfig::default();
        let cases = [
            ((224, 224), 14, (98, 98)),
            ((224, 224), 16, (96, 96)),
            ((518, 518), 14, (224, 224)),
            ((70, 70), 14, (28, 28)),
            ((32, 64), 16, (16, 32)),
            ((16, 20), 2, (6, 8)),
        ];
        for (size, patch, want) in cases {
            assert_eq!(config.local_size(size, patch), want, "{size:?} {patch}");
        }
    }
}
