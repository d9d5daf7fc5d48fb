//! The threads that run a model.

use super::{Outcome, Queue, Statistics, Times, queue::Waiting};
use crate::{
    engine::{Engine, Row},
    failure::Failure,
};
use prometheus_client::metrics::histogram::Histogram;
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

    fn judge(&self, mut batch: Vec<Waiting>) {
        let start = Instant::now();
        let rows: Vec<Row> = batch
            .iter_mut()
            .map(|one| std::mem::take(&mut one.job.row))
            .collect();
        let scored = self.engine.score(&rows);
        drop(rows);
        let inference = start.elapsed();
        self.note_pace(inference, batch.len());
        self.statistics.ran(batch.len(), inference);
        match scored {
            Ok(logits) => {
                let n = batch.len();
                for (one, logits) in batch.into_iter().zip(logits) {
                    self.decide(one, logits, start, inference, n);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the model failed");
                let failure = Failure::internal(format!("the model failed: {error}"));
                batch
                    .into_iter()
                    .for_each(|one| one.finish(Err(failure.clone())));
            }
        }
    }

    fn decide(
        &self,
        mut one: Waiting,
        logits: Vec<f32>,
        ran: Instant,
        inference: Duration,
        batch: usize,
    ) {
        let start = Instant::now();
        let judged = self
            .engine
            .decide(std::mem::take(&mut one.job.path), logits);
        let times = Times {
            decode: one.job.prepared.decode,
            preprocess: one.job.prepared.preprocess,
            queue: ran.saturating_duration_since(one.since),
            inference,
            decide: start.elapsed(),
            batch,
        };
        one.finish(Ok(Outcome { judged, times }));
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
