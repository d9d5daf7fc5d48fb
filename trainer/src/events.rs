//! What a training tells while it runs.

use stage1_core::progress::{Progress, Silent};

pub use stage1_core::events::{EpochRecord, Metrics, PretrainingRecord};

/// A sink for what happens.
pub trait Events: Progress {
    /// An epoch has ended.
    fn epoch(&self, record: &EpochRecord);
    /// An epoch of self-supervised training has ended.
    fn pretraining(&self, record: &PretrainingRecord);
    /// Something that the user should know, and that doesn't stop the run.
    fn warning(&self, message: &str);
    /// Something that the user may like to know.
    fn note(&self, message: &str);
}

impl Events for Silent {
    fn epoch(&self, _: &EpochRecord) {}
    fn pretraining(&self, _: &PretrainingRecord) {}
    fn warning(&self, _: &str) {}
    fn note(&self, _: &str) {}
}
