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
    /// An epoch of self-supervised training has ended.
    Pretraining(PretrainingRecord),
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
    /// What a training would do.
    Plan(Plan),
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

/// What a training would do, without doing it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The phase.
    pub phase: String,
    /// The backbone, in words.
    pub backbone: String,
    /// Parameters by module.
    pub modules: Vec<PlannedModule>,
    /// Images that are trained on.
    pub train_images: usize,
    /// Images that choose the epoch.
    pub select_images: usize,
    /// Epochs, at most.
    pub epochs: usize,
    /// Optimiser steps of an epoch.
    pub steps_per_epoch: usize,
    /// Images of a step.
    pub batch_size: usize,
    /// Images of one pass through the network.
    pub micro_batch_size: usize,
    /// Estimated memory in bytes, by what it is for; rough.
    pub memory: BTreeMap<String, u64>,
    /// The epoch and the step (from 1) where an interrupted training would go on.
    pub continues_at: Option<(usize, usize)>,
    /// Whether the result is there already.
    pub done: bool,
    /// What is trained before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<Plan>>,
}

/// A part of the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedModule {
    /// Its name.
    pub name: String,
    /// Its parameters.
    pub parameters: usize,
    /// Whether they are trained.
    pub trainable: bool,
}

impl Plan {
    /// Parameters that are trained, or not.
    pub fn parameters(&self, trainable: bool) -> usize {
        let modules = self
            .modules
            .iter()
            .filter(|module| module.trainable == trainable);
        modules.map(|module| module.parameters).sum()
    }

    /// In words, for people.
    pub fn text(&self) -> String {
        let names = self.modules.iter().map(|module| module.name.len());
        let width = names.max().unwrap_or(0);
        let before = self.before.iter();
        let mut lines: Vec<_> = before.map(|plan| plan.text()).collect();
        lines.extend([
            format!("phase {} on {}", self.phase, self.backbone),
            format!("  {:<width$} {:>12}", "module", "parameters"),
        ]);
        lines.extend(self.modules.iter().map(|module| {
            let trained = if module.trainable { "  trained" } else { "" };
            format!(
                "  {:<width$} {:>12}{trained}",
                module.name, module.parameters
            )
        }));
        let (trained, frozen) = (self.parameters(true), self.parameters(false));
        let share = 100.0 * trained as f64 / (trained + frozen).max(1) as f64;
        lines.push(format!(
            "  trained {trained} ({share:.2} %), frozen {frozen}"
        ));
        lines.push(match self.select_images {
            0 => format!("  {} images, without their labels", self.train_images),
            select => format!(
                "  {} images of train, {select} of val_select",
                self.train_images
            ),
        });
        lines.push(format!(
            "  {} epochs of {} steps at most ({} in all), {} images each, {} at a time",
            self.epochs,
            self.steps_per_epoch,
            self.epochs * self.steps_per_epoch,
            self.batch_size,
            self.micro_batch_size
        ));
        let mega = |bytes: u64| bytes.div_ceil(1 << 20);
        let parts: Vec<_> = self
            .memory
            .iter()
            .map(|(name, bytes)| format!("{name} {}", mega(*bytes)))
            .collect();
        let sum = mega(self.memory.values().sum());
        lines.push(format!(
            "  memory, roughly: {sum} MiB ({})",
            parts.join(", ")
        ));
        lines.push(match (self.done, self.continues_at) {
            (true, _) => "  the result is there already: nothing would be trained".to_owned(),
            (false, Some((epoch, step))) => {
                format!("  it would go on at epoch {epoch}, step {step}")
            }
            (false, None) => "  it would start anew".to_owned(),
        });
        lines.join("\n") + "\n"
    }
}

/// A line of `metrics.explora.jsonl`: an epoch of self-supervised training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PretrainingRecord {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Means over the epoch's images: the `loss` and its parts (`dino`, `ibot`, `koleo`), the `divergence` of the student from
    /// the teacher's targets in nats, and what tells of a collapse (`batch_entropy`, `sample_entropy`, `feature_deviation`).
    pub metrics: Metrics,
    /// The rate of the epoch's last step.
    pub learning_rate: f64,
    /// What of the teacher stayed at the epoch's last step.
    pub teacher_momentum: f64,
    /// The teacher's temperature at the epoch's last step.
    pub teacher_temperature: f64,
    /// The largest gradient norm before clipping.
    pub max_grad_norm: f64,
    /// Optimiser steps since the training began.
    pub steps: usize,
    /// How long the epoch took; for one that was interrupted, all parts together.
    pub seconds: f64,
    /// Images that were trained on per second of it.
    pub images_per_second: f64,
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
        let pretraining = PretrainingRecord {
            epoch: 1,
            metrics: Metrics::from([("loss".to_owned(), 3.5)]),
            learning_rate: 0.1,
            teacher_momentum: 0.99,
            teacher_temperature: 0.04,
            max_grad_norm: 2.0,
            steps: 10,
            seconds: 2.0,
            images_per_second: 5.5,
        };
        let events = [
            TrainingEvent::Pretraining(pretraining),
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
