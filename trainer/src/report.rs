//! The two ways in which `stage1-train` tells what it does.

use stage1_core::{
    events::{Plan, TrainingEvent},
    progress::Progress,
};
use stage1_trainer::{
    Trained,
    events::{EpochRecord, Events, PretrainingRecord},
};
use std::{
    io::{self, Write},
    process,
    sync::Mutex,
};

/// One JSON object per line on standard output.
#[derive(Default)]
pub(crate) struct JsonLines {
    done: Mutex<u64>,
}

impl JsonLines {
    pub(crate) fn done(&self, trained: &Trained) {
        self.print(&TrainingEvent::Done {
            checkpoint: trained.checkpoint.clone(),
            reused: trained.reused,
            features_computed: trained.features_computed,
        });
    }

    pub(crate) fn plan(&self, plan: Plan) {
        self.print(&TrainingEvent::Plan(plan));
    }

    fn print(&self, event: &TrainingEvent) {
        let json = serde_json::to_string(event).expect("an event has a JSON form");
        // Whoever asked for events and no longer reads them has gone, and may soon train again in the same folder.
        if writeln!(io::stdout(), "{json}").is_err() {
            process::exit(2);
        }
    }

    fn counter(&self) -> std::sync::MutexGuard<'_, u64> {
        self.done.lock().expect("no holder panics")
    }
}

impl Progress for JsonLines {
    fn start(&self, what: &str, total: u64) {
        *self.counter() = 0;
        self.print(&TrainingEvent::Stage {
            name: what.to_owned(),
            total,
        });
    }

    fn advance(&self, n: u64) {
        let mut done = self.counter();
        *done += n;
        self.print(&TrainingEvent::Progress { done: *done });
    }

    fn finish(&self) {}
}

impl Events for JsonLines {
    fn epoch(&self, record: &EpochRecord) {
        self.print(&TrainingEvent::Epoch(record.clone()));
    }

    fn pretraining(&self, record: &PretrainingRecord) {
        self.print(&TrainingEvent::Pretraining(record.clone()));
    }

    fn warning(&self, message: &str) {
        self.print(&TrainingEvent::Warning {
            message: message.to_owned(),
        });
    }

    fn note(&self, message: &str) {
        self.print(&TrainingEvent::Note {
            message: message.to_owned(),
        });
    }
}

/// Lines for people on standard error.
#[derive(Default)]
pub(crate) struct Story {
    stage: Mutex<Stage>,
}

#[derive(Default)]
struct Stage {
    name: String,
    total: u64,
    done: u64,
}

impl Story {
    pub(crate) fn plan(&self, plan: &Plan) {
        tell(plan.text().trim_end());
    }

    pub(crate) fn done(&self, trained: &Trained) {
        let how = if trained.reused {
            "unchanged, reused"
        } else {
            "written"
        };
        tell(&format!(
            "checkpoint {}: {how}",
            trained.checkpoint.display()
        ));
    }
}

impl Progress for Story {
    fn start(&self, what: &str, total: u64) {
        tell(&format!("{what}: {total}"));
        *self.stage.lock().expect("no holder panics") = Stage {
            name: what.to_owned(),
            total,
            done: 0,
        };
    }

    /// A line for each tenth.
    fn advance(&self, n: u64) {
        let mut stage = self.stage.lock().expect("no holder panics");
        let tenth = |done: u64| done * 10 / stage.total.max(1);
        let (before, after) = (tenth(stage.done), tenth(stage.done + n));
        stage.done += n;
        // Epochs have lines of their own.
        if after > before && stage.name != "epochs" {
            tell(&format!(
                "{}: {} of {}",
                stage.name, stage.done, stage.total
            ));
        }
    }

    fn finish(&self) {}
}

impl Events for Story {
    fn epoch(&self, record: &EpochRecord) {
        let metrics: Vec<_> = record
            .val_select
            .iter()
            .map(|(name, value)| format!("{name} {value:.4}"))
            .collect();
        tell(&format!(
            "epoch {:3}  loss {:.4}  val_select: {}  ({:.0} images/s){}",
            record.epoch,
            record.train_loss,
            metrics.join("  "),
            record.images_per_second,
            if record.best { "  (best)" } else { "" }
        ));
    }

    fn pretraining(&self, record: &PretrainingRecord) {
        let metrics = record.metrics.iter();
        let metrics: Vec<_> = metrics
            .map(|(name, value)| format!("{name} {value:.4}"))
            .collect();
        tell(&format!(
            "self-supervised epoch {:3}  {}  ({:.0} images/s)",
            record.epoch,
            metrics.join("  "),
            record.images_per_second
        ));
    }

    fn warning(&self, message: &str) {
        tell(&format!("warning: {message}"));
    }

    fn note(&self, message: &str) {
        tell(message);
    }
}

fn tell(line: &str) {
    // Nobody listens when standard error is closed; the training goes on.
    let _ = writeln!(io::stderr(), "{line}");
}
