//! A bundle that serves: its engine, its queue, and the threads between them.

mod queue;
mod statistics;
mod worker;

pub(crate) use queue::{Job, Queue};
pub(crate) use statistics::{Statistics, Sum};

use crate::{
    engine::{About, Engine, Judged},
    failure::{Failure, Result},
    metrics::{Metrics, Stage},
    options::Batching,
};
use bytes::Bytes;
use stage1_core::bundle::{DecisionKind, Prediction};
use stage1_runtime::{ImageError, Row};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

/// What is to be judged.
pub(crate) struct Item {
    /// What its record is called.
    pub(crate) path: String,
    pub(crate) picture: Picture,
}

/// An image, or what has been made of it.
pub(crate) enum Picture {
    /// The bytes of an image file.
    File(Bytes),
    /// The model's input.
    Row(Row),
}

/// What became of one image, and how long each step took.
pub(crate) struct Outcome {
    pub(crate) judged: Judged,
    pub(crate) times: Times,
}

/// Time of one image in each stage; what it didn't go through is zero.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) decode: Duration,
    pub(crate) preprocess: Duration,
    pub(crate) queue: Duration,
    pub(crate) inference: Duration,
    pub(crate) decide: Duration,
    /// Images that went through the model with it.
    pub(crate) batch: usize,
}

impl Times {
    pub(crate) fn stages(&self) -> [(Stage, Duration); 5] {
        [
            (Stage::Decode, self.decode),
            (Stage::Preprocess, self.preprocess),
            (Stage::Queue, self.queue),
            (Stage::Inference, self.inference),
            (Stage::Decide, self.decide),
        ]
    }
}

/// One version of a bundle. When the last request that uses it has ended, its threads end too.
pub(crate) struct Model {
    pub(crate) name: String,
    engine: Arc<Engine>,
    queue: Arc<Queue>,
    slots: Arc<Semaphore>,
    capacity: usize,
    decoders: Arc<Semaphore>,
    /// Nanoseconds per image, of late.
    pace: Arc<AtomicU64>,
    instances: usize,
    pub(crate) statistics: Arc<Statistics>,
}

impl Model {
    /// Starts the threads of `engine`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(
        name: &str,
        engine: Engine,
        batching: &Batching,
        decoders: Arc<Semaphore>,
        metrics: &Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let model = Self {
            name: name.to_owned(),
            engine: Arc::new(engine),
            queue: Arc::new(Queue::default()),
            slots: Arc::new(Semaphore::new(batching.queue)),
            capacity: batching.queue,
            decoders,
            pace: Arc::default(),
            instances: batching.instances,
            statistics: Arc::default(),
        };
        for i in 0..batching.instances {
            let worker = worker::Worker {
                engine: Arc::clone(&model.engine),
                queue: Arc::clone(&model.queue),
                max_batch: batching.max_batch.min(model.about().batch),
                max_delay: batching.max_delay,
                pace: Arc::clone(&model.pace),
                statistics: Arc::clone(&model.statistics),
                batch_size: metrics.batch_size(name),
            };
            std::thread::Builder::new()
                .name(format!("stage1-model-{i}"))
                .spawn(move || worker.run())?;
        }
        Ok(model)
    }

    pub(crate) fn about(&self) -> &About {
        self.engine.about()
    }

    /// Images that may be in the server at once, of this bundle.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Images in the server, of this bundle.
    pub(crate) fn in_flight(&self) -> usize {
        self.capacity - self.slots.available_permits()
    }

    /// Images that wait for the model.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Judges images, or fails at once if there is no room for them. One that can't be decoded becomes a record with an
    /// error. If the future is dropped, what waits leaves the queue.
    pub(crate) async fn judge(self: &Arc<Self>, items: Vec<Item>) -> Result<Vec<Outcome>> {
        let mut slots = self.reserve(items.len())?;
        let mut places = Vec::with_capacity(items.len());
        let mut tasks = JoinSet::new();
        for (i, item) in items.into_iter().enumerate() {
            let slot = slots.split(1).expect("as many were reserved");
            let model = Arc::clone(self);
            tasks.spawn(async move { (i, model.judge_one(item, slot).await) });
            places.push(None);
        }
        while let Some(joined) = tasks.join_next().await {
            let (i, outcome) = joined.map_err(Failure::internal)?;
            places[i] = Some(outcome?);
        }
        Ok(places.into_iter().flatten().collect())
    }

    fn reserve(&self, n: usize) -> Result<OwnedSemaphorePermit> {
        if n > self.capacity {
            return Err(Failure::Invalid(format!(
                "the request has {n} images, this server takes at most {} at once; divide it, or raise --queue",
                self.capacity
            )));
        }
        let n = u32::try_from(n).map_err(Failure::internal)?;
        let slots = Arc::clone(&self.slots).try_acquire_many_owned(n);
        slots.map_err(|_| Failure::Busy {
            what: format!(
                "the queue of `{}` is full ({} images of at most {})",
                self.name,
                self.in_flight(),
                self.capacity
            ),
            after: self.patience(),
        })
    }

    /// When those that are in the server now will have left it, by the pace of late.
    pub(crate) fn patience(&self) -> Duration {
        let pace = Duration::from_nanos(self.pace.load(Ordering::Relaxed));
        let ahead = pace * self.in_flight() as u32 / self.instances as u32;
        Duration::from_secs(ahead.as_secs_f64().ceil().clamp(1.0, 60.0) as u64)
    }

    async fn judge_one(&self, item: Item, slot: OwnedSemaphorePermit) -> Result<Outcome> {
        let Item { path, picture } = item;
        let row = match picture {
            Picture::Row(row) => row,
            Picture::File(bytes) => match self.decode(bytes).await? {
                Ok(row) => row,
                Err(error) => return Ok(Outcome::failed(path, &error)),
            },
        };
        let job = Job { path, row, slot };
        self.queue.push(job).outcome().await
    }

    /// On one of the threads for that, of which there are few: a picture takes much more memory than its file.
    async fn decode(&self, bytes: Bytes) -> Result<std::result::Result<Row, ImageError>> {
        let decoders = Arc::clone(&self.decoders);
        let turn = decoders.acquire_owned().await.map_err(Failure::internal)?;
        let engine = Arc::clone(&self.engine);
        let task = tokio::task::spawn_blocking(move || {
            let row = engine.preprocess(&bytes);
            drop(turn);
            row
        });
        task.await.map_err(Failure::internal)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Outcome {
    fn failed(path: String, error: &ImageError) -> Self {
        Self {
            judged: Judged {
                prediction: Prediction::failed(path, error),
                probabilities: Vec::new(),
            },
            times: Times::default(),
        }
    }

    pub(crate) fn is_error(&self) -> bool {
        self.judged.prediction.decision == DecisionKind::Error
    }
}
