//! Images that wait for the model.

use super::Outcome;
use crate::failure::{Failure, Result};
use stage1_runtime::Row;
use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// An image that is ready for the model.
pub(crate) struct Job {
    pub(crate) path: String,
    pub(crate) row: Row,
    /// Its place among those that the bundle takes at once.
    pub(crate) slot: OwnedSemaphorePermit,
}

/// A job in the queue.
struct Entry {
    id: u64,
    row: Row,
    waiting: Waiting,
}

/// What is left of a job when its row is taken.
pub(super) struct Waiting {
    pub(super) path: String,
    pub(super) since: Instant,
    slot: OwnedSemaphorePermit,
    answer: oneshot::Sender<Result<Outcome>>,
}

impl Waiting {
    /// Frees the job's place, then tells whoever still listens.
    pub(super) fn finish(self, outcome: Result<Outcome>) {
        drop(self.slot);
        _ = self.answer.send(outcome);
    }
}

/// First come, first served. It needs no bound of its own: every job in it holds one of the bundle's slots.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Entry>,
    next: u64,
    is_closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a job at the end.
    pub(crate) fn push(self: &Arc<Self>, job: Job) -> Ticket {
        let (answer, receiver) = oneshot::channel();
        let Job { path, row, slot } = job;
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let waiting = Waiting {
            path,
            since: Instant::now(),
            slot,
            answer,
        };
        state.waiting.push_back(Entry { id, row, waiting });
        drop(state);
        self.changed.notify_one();
        Ticket {
            queue: Arc::clone(self),
            id,
            receiver,
        }
    }

    /// The next jobs, as soon as there are `max` of them or the first has waited for `delay`; none when the queue was closed
    /// and is empty.
    pub(super) fn next_batch(&self, max: usize, delay: Duration) -> Option<Vec<(Row, Waiting)>> {
        let mut state = self.lock();
        loop {
            let Some(first) = state.waiting.front() else {
                if state.is_closed {
                    return None;
                }
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = delay.saturating_sub(first.waiting.since.elapsed());
            if state.waiting.len() >= max || state.is_closed || left.is_zero() {
                let n = state.waiting.len().min(max);
                let batch = state.waiting.drain(..n);
                return Some(batch.map(|entry| (entry.row, entry.waiting)).collect());
            }
            let waited = self.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing more will come: those that wait are still served.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Jobs that wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    fn remove(&self, id: u64) {
        let mut state = self.lock();
        if let Some(at) = state.waiting.iter().position(|entry| entry.id == id) {
            state.waiting.remove(at);
        }
    }
}

/// The right to a job's outcome. Dropped, it takes the job out of the queue: nobody waits for it any more.
pub(crate) struct Ticket {
    queue: Arc<Queue>,
    id: u64,
    receiver: oneshot::Receiver<Result<Outcome>>,
}

impl Ticket {
    pub(crate) async fn outcome(mut self) -> Result<Outcome> {
        let outcome = (&mut self.receiver).await;
        outcome.unwrap_or_else(|_| Err(Failure::internal("the thread that ran the model failed")))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use tokio::sync::Semaphore;

    fn job(path: &str, slots: &Arc<Semaphore>) -> Job {
        Job {
            path: path.to_owned(),
            row: Row::uint8(Vec::new()),
            slot: Arc::clone(slots).try_acquire_owned().unwrap(),
        }
    }

    fn paths(batch: &[(Row, Waiting)]) -> Vec<&str> {
        batch.iter().map(|(_, one)| one.path.as_str()).collect()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_batch_is_full_or_its_first_image_has_waited() {
        let (queue, slots) = (Arc::new(Queue::default()), Arc::new(Semaphore::new(8)));
        let tickets: Vec<_> = ["a", "b", "c", "d", "e"]
            .map(|path| queue.push(job(path, &slots)))
            .into();
        assert_eq!(paths(&queue.next_batch(3, LONG).unwrap()), ["a", "b", "c"]);
        let start = Instant::now();
        let rest = queue.next_batch(3, Duration::from_millis(50)).unwrap();
        assert_eq!(paths(&rest), ["d", "e"]);
        assert!(start.elapsed() < LONG / 2);
        drop((tickets, rest));
        assert_eq!(slots.available_permits(), 8);
    }

    #[test]
    fn whoever_gives_up_leaves_the_queue_and_frees_the_place() {
        let (queue, slots) = (Arc::new(Queue::default()), Arc::new(Semaphore::new(2)));
        let (stays, goes) = (queue.push(job("", &slots)), queue.push(job("", &slots)));
        drop(goes);
        assert_eq!((queue.len(), slots.available_permits()), (1, 1));
        drop(stays);
        assert_eq!((queue.len(), slots.available_permits()), (0, 2));
    }

    #[test]
    fn a_closed_queue_is_emptied_then_ends() {
        let (queue, slots) = (Arc::new(Queue::default()), Arc::new(Semaphore::new(2)));
        let _ticket = queue.push(job("", &slots));
        let closer = Arc::clone(&queue);
        let closing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            closer.close();
        });
        assert_eq!(queue.next_batch(8, LONG).unwrap().len(), 1);
        assert!(queue.next_batch(8, LONG).is_none());
        closing.join().unwrap();
    }
}
