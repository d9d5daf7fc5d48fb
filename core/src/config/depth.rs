//! How many of the backbone's blocks are run: a number, or the fewest that are good enough.

use crate::model::Blocks;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many blocks of a vision transformer are run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a number of blocks, `auto`, or null for all"
)]
pub enum BlockChoice {
    /// All of them (`null`).
    #[default]
    All,
    /// The first so many, at least 1.
    First(usize),
    /// As few as [`DepthConfig`] allows, by what heads on them do on val_select.
    Auto(AutoBlocks),
}

/// `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AutoBlocks {
    /// The shallowest block whose head is good enough.
    Auto,
}

impl BlockChoice {
    /// Whether training decides.
    pub fn is_auto(self) -> bool {
        matches!(self, Self::Auto(_))
    }

    /// The number that is run as long as training hasn't decided: all of them where it will.
    pub fn fixed(self) -> Blocks {
        match self {
            Self::First(count) => Blocks::First(count),
            Self::All | Self::Auto(_) => Blocks::All,
        }
    }
}

impl From<Blocks> for BlockChoice {
    fn from(blocks: Blocks) -> Self {
        match blocks {
            Blocks::All => Self::All,
            Blocks::First(count) => Self::First(count),
        }
    }
}

/// How `backbone.blocks: auto` chooses: a head is trained on each candidate block, and the shallowest one is taken whose
/// `train.early_stop.metric` on val_select is within `tolerance` of the best one's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DepthConfig {
    /// How much worse than the best block's a head may be, in the metric's own unit.
    pub tolerance: f64,
    /// The blocks that may be chosen, counted from 1, ascending; `null` means all.
    pub candidates: Option<Vec<usize>>,
    /// The most that the features of all candidates may add to the cache on disk, in GiB: each candidate takes 8 bytes per
    /// image and dimension of a token.
    pub max_cache_gib: f64,
}

impl Default for DepthConfig {
    fn default() -> Self {
        Self {
            // A point of MCC or accuracy: about one standard error of either on a val_select of a thousand images, so that
            // a difference that small is rather luck than depth, while a block less is 1/12 of the time of a ViT-B.
            tolerance: 0.01,
            candidates: None,
            max_cache_gib: 16.0,
        }
    }
}
