//! The threads that run a model.

use super::{Outcome, Queue, Statistics, Times, queue::Waiting};
use crate::{engine::Engine, failure::Failure};
use prometheus_client::metrics::histogram::Histogram;
use stage1_runtime::{Row, Scores};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub(super) struct Worker {
    pub(super) engine: Arc<Engine>,
    pub(super) queue: Arc<Queue>,
    pub(super) max_batch: usize,
    pub(super) max_delay: Duration,
    pub(super) pace: Arc<AtomicU64>,
    pub(super) statistics: Arc<Statistics>,
    pub(super) batch_size: Histogram,
}

impl Worker {
    /// Until the queue is closed and empty.
    pub(super) fn run(self) {
        while let Some(batch) = self.queue.next_batch(self.max_batch, self.max_delay) {
            self.batch_size.observe(batch.len() as f64);
            // Whatever fails, the thread stays: others wait for it.
            let judged = catch_unwind(AssertUnwindSafe(|| self.judge(batch)));
            if judged.is_err() {
                tracing::error!("a run of the model panicked");
            }
        }
    }

    fn judge(&self, batch: Vec<(Row, Waiting)>) {
        let start = Instant::now();
        let n = batch.len();
        let (rows, batch): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        match self.engine.score(&rows) {
            Ok(scored) => {
                self.note_pace(scored.inference, n);
                self.statistics.ran(n, scored.inference);
                let times = rows.iter().map(|row| Times {
                    decode: row.timings().decode,
                    preprocess: row.timings().preprocess,
                    inference: scored.inference,
                    batch: n,
                    ..Times::default()
                });
                for ((one, times), scores) in batch.into_iter().zip(times).zip(scored.scores) {
                    let queue = start.saturating_duration_since(one.since) + scored.waited;
                    self.decide(one, scores, Times { queue, ..times });
                }
            }
            Err(error) => {
                tracing::error!(%error, "the model failed");
                let failure = Failure::internal(format!("the model failed: {error}"));
                for one in batch {
                    one.finish(Err(failure.clone()));
                }
            }
        }
    }

    fn decide(&self, mut one: Waiting, scores: Scores, times: Times) {
        let start = Instant::now();
        let judged = self.engine.decide(std::mem::take(&mut one.path), scores);
        let decide = start.elapsed();
        one.finish(Ok(Outcome {
            judged,
            times: Times { decide, ..times },
        }));
    }

    /// A moving average, for what a full queue tells.
    fn note_pace(&self, inference: Duration, images: usize) {
        let now = inference.as_nanos() as u64 / images as u64;
        let before = self.pace.load(Ordering::Relaxed);
        let pace = if before == 0 {
            now
        } else {
            (7 * before + now) / 8
        };
        self.pace.store(pace, Ordering::Relaxed);
    }
}
