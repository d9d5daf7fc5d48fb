//! What a training tells while it runs.

use serde::Serialize;
use stage1_core::progress::{Progress, Silent};
use std::collections::BTreeMap;

/// Metrics on val_select by their short names.
pub type Metrics = BTreeMap<String, f64>;

/// An epoch's line in `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EpochRecord {
    /// The epoch, from 1.
    pub epoch: usize,
    /// The mean loss over the epoch's images, with class weights and label smoothing.
    pub train_loss: f64,
    /// The rate of the epoch's last step.
    pub learning_rate: f64,
    /// The largest gradient norm before clipping.
    pub max_grad_norm: f64,
    /// Metrics of the averaged weights.
    pub val_select: Metrics,
    /// Whether this is the best epoch so far.
    pub best: bool,
}

/// A sink for what happens.
pub trait Events: Progress {
    /// An epoch has ended.
    fn epoch(&self, record: &EpochRecord);
    /// Something that the user should know, and that doesn't stop the run.
    fn warning(&self, message: &str);
}

impl Events for Silent {
    fn epoch(&self, _: &EpochRecord) {}
    fn warning(&self, _: &str) {}
}
