//! What a training tells while it runs: `stage1-train` writes these events, one JSON object to the line, `stage1` reads them.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// Metrics on val_select by their short names.
pub type Metrics = BTreeMap<String, f64>;

/// One line that `stage1-train --events` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TrainingEvent {
    /// A step of `total` items begins (0: unknown).
    Stage {
        /// What it does.
        name: String,
        /// How many items it has.
        total: u64,
    },
    /// So many items of the step are done.
    Progress {
        /// Since the step began.
        done: u64,
    },
    /// An epoch has ended.
    Epoch(EpochRecord),
    /// Something that the user should know, and that doesn't stop the run.
    Warning {
        /// In words.
        message: String,
    },
    /// Something that the user may like to know.
    Note {
        /// In words.
        message: String,
    },
    /// The training has ended well.
    Done {
        /// The checkpoint's folder.
        checkpoint: PathBuf,
        /// Whether it was there already, made from the same inputs.
        reused: bool,
        /// Images whose features were computed.
        features_computed: usize,
    },
}

/// An epoch's line in `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Optimiser steps since the training began.
    pub steps: usize,
    /// How long the epoch's training took, without the judging; for an epoch that was interrupted, all parts together.
    pub seconds: f64,
    /// Images that were trained on per second of it.
    pub images_per_second: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let record = EpochRecord {
            epoch: 1,
            train_loss: 0.5,
            learning_rate: 0.1,
            max_grad_norm: 2.0,
            val_select: Metrics::from([("mcc".to_owned(), 1.0)]),
            best: true,
            steps: 10,
            seconds: 2.0,
            images_per_second: 5.5,
        };
        let events = [
            TrainingEvent::Stage {
                name: "features".to_owned(),
                total: 3,
            },
            TrainingEvent::Progress { done: 2 },
            TrainingEvent::Epoch(record),
            TrainingEvent::Warning {
                message: "a \"b\"".to_owned(),
            },
            TrainingEvent::Done {
                checkpoint: "run/checkpoints/best".into(),
                reused: false,
                features_computed: 7,
            },
        ];
        for event in events {
            let line = serde_json::to_string(&event).unwrap();
            assert_eq!(
                serde_json::from_str::<TrainingEvent>(&line).unwrap(),
                event,
                "{line}"
            );
        }
    }
}
