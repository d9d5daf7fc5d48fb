//! Sums since the bundle was loaded, as the protocol's statistics tell them.

use super::Times;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How often something happened, and how long it took in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) count: u64,
    pub(crate) time: Duration,
}

impl Sum {
    fn add(&mut self, count: u64, time: Duration) {
        self.count += count;
        self.time += time;
    }
}

/// All sums at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sums {
    /// Milliseconds since 1970.
    pub(crate) last: u64,
    pub(crate) images: u64,
    /// Requests, from head to answer.
    pub(crate) success: Sum,
    pub(crate) fail: Sum,
    /// Images, in each stage.
    pub(crate) queue: Sum,
    pub(crate) input: Sum,
    pub(crate) infer: Sum,
    pub(crate) output: Sum,
    /// Runs of the model, by number of images.
    pub(crate) batches: BTreeMap<usize, Sum>,
}

#[derive(Debug, Default)]
pub(crate) struct Statistics(Mutex<Sums>);

impl Statistics {
    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Sums {
        self.lock().clone()
    }

    /// The model ran.
    pub(super) fn ran(&self, images: usize, time: Duration) {
        let mut sums = self.lock();
        sums.images += images as u64;
        sums.batches.entry(images).or_default().add(1, time);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        sums.last = since.unwrap_or_default().as_millis() as u64;
    }

    /// A request was answered.
    pub(crate) fn succeeded<'a>(
        &self,
        time: Duration,
        images: impl IntoIterator<Item = &'a Times>,
    ) {
        let mut sums = self.lock();
        sums.success.add(1, time);
        for image in images {
            sums.queue.add(1, image.queue);
            sums.input.add(1, image.decode + image.preprocess);
            sums.infer.add(1, image.inference);
            sums.output.add(1, image.decide);
        }
    }

    /// A request for this bundle failed.
    pub(crate) fn failed(&self, time: Duration) {
        self.lock().fail.add(1, time);
    }
}
