//! A learned gate beside the classes: does the classifier answer this image rightly?

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the gate of `phase: gate` is trained. It reads the hidden layer that the classes read (`head.kind: mlp`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GateConfig {
    /// `cross_fitted` or `selective_net`.
    pub loss: GateLoss,
    /// Width of the gate's own hidden layer.
    pub hidden: usize,
    /// Parts of train, by unit, for `cross_fitted`: whether an image is answered rightly is said by a head that was trained
    /// on the other parts.
    pub folds: usize,
    /// Passes over the training images, for `cross_fitted`; each image once, whatever `train.sampling` is.
    pub epochs: usize,
    /// AdamW's peak learning rate, for `cross_fitted`.
    pub learning_rate: f64,
    /// AdamW's weight decay, for `cross_fitted`.
    pub weight_decay: f64,
    /// The coverage that `selective_net` is asked for.
    pub coverage: f64,
    /// λ of `selective_net`: how much a coverage below that costs.
    pub coverage_weight: f64,
    /// 1 − α of `selective_net`: the share of the auxiliary classes' loss, which see all images.
    pub auxiliary_weight: f64,
    /// Resamples of val_select for the intervals that decide whether the gate ships.
    pub resamples: usize,
}

/// What the gate learns from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GateLoss {
    /// The classifier is trained as in `baseline`. Then the gate learns, on its hidden layer, whether heads that hadn't seen an
    /// image answered it rightly: on its own training images a classifier is almost always right, which would starve the gate.
    #[default]
    CrossFitted,
    /// Classes and gate together (Geifman and El-Yaniv 2019, SelectiveNet): the loss of the images that the gate selects, at a
    /// given coverage.
    SelectiveNet,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            loss: GateLoss::CrossFitted,
            hidden: 32,
            folds: 5,
            epochs: 20,
            learning_rate: 1e-3,
            weight_decay: 0.01,
            coverage: 0.8,
            coverage_weight: 32.0,
            auxiliary_weight: 0.5,
            resamples: 2000,
        }
    }
}
