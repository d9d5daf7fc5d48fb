//! Many images in order: decoded on all cores while the model runs on those before, in memory that doesn't grow with their
//! number.

use crate::{
    CancelToken, ImageInput, Result,
    decoder::{Chunk, Decoder},
};
use std::{
    collections::VecDeque,
    iter::Fuse,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    vec,
};

/// What becomes of a decoded chunk: a result per image.
pub(crate) type Work<T> = Arc<dyn Fn(Chunk) -> Result<Vec<T>> + Send + Sync>;

/// The results for one chunk, on their way to whoever asks for them in order.
type Reply<T> = Sender<Result<Vec<T>>>;

/// How a stream is cut up and worked on.
pub(crate) struct Plan<T> {
    pub(crate) decoder: Arc<Decoder>,
    /// Images that are decoded together.
    pub(crate) chunk: usize,
    /// Chunks that are worked on at once.
    pub(crate) workers: usize,
    pub(crate) work: Work<T>,
}

/// Results in the order of the inputs, which are taken as they are needed, on the thread that iterates. After an error, or
/// once cancelled, it ends.
pub(crate) struct Ordered<I, T> {
    inputs: Fuse<I>,
    chunk: usize,
    decoder: Arc<Decoder>,
    stop: Stop,
    decoded: Option<Sender<(Chunk, Reply<T>)>>,
    workers: Vec<JoinHandle<()>>,
    pending: VecDeque<Receiver<Result<Vec<T>>>>,
    ready: vec::IntoIter<T>,
}

/// Nobody waits for the results any more.
#[derive(Clone)]
struct Stop {
    cancel: CancelToken,
    dropped: Arc<AtomicBool>,
}

impl Stop {
    fn is_set(&self) -> bool {
        self.cancel.is_cancelled() || self.dropped.load(Ordering::Relaxed)
    }
}

impl<I: Iterator<Item = ImageInput<'static>>, T: Send + 'static> Ordered<I, T> {
    pub(crate) fn start(inputs: I, plan: Plan<T>, cancel: CancelToken) -> Self {
        let stop = Stop {
            cancel,
            dropped: Arc::new(AtomicBool::new(false)),
        };
        let (decoded, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let worker = |_| {
            let (queue, work, stop) = (Arc::clone(&queue), Arc::clone(&plan.work), stop.clone());
            thread::spawn(move || work_off(&queue, &work, &stop))
        };
        Self {
            inputs: inputs.fuse(),
            chunk: plan.chunk,
            decoder: plan.decoder,
            decoded: Some(decoded),
            workers: (0..plan.workers).map(worker).collect(),
            stop,
            pending: VecDeque::new(),
            ready: Vec::new().into_iter(),
        }
    }

    /// Keeps every worker busy, one chunk waiting, and one being decoded.
    fn fill(&mut self) {
        while self.pending.len() < self.workers.len() + 2 {
            let inputs: Vec<_> = self.inputs.by_ref().take(self.chunk).collect();
            if inputs.is_empty() {
                return;
            }
            let (reply, receiver) = channel();
            self.pending.push_back(receiver);
            self.decode(inputs, reply);
        }
    }

    fn decode(&self, inputs: Vec<ImageInput<'static>>, reply: Reply<T>) {
        let Some(decoded) = self.decoded.clone() else {
            return;
        };
        let (decoder, stop) = (Arc::clone(&self.decoder), self.stop.clone());
        self.decoder.pool().spawn(move || {
            if let Some(chunk) = decoder.many(inputs, || stop.is_set()) {
                // Workers that are gone have no use for the chunk.
                _ = decoded.send((chunk, reply));
            }
        });
    }
}

impl<I: Iterator<Item = ImageInput<'static>>, T: Send + 'static> Iterator for Ordered<I, T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Result<T>> {
        loop {
            if self.stop.is_set() {
                return None;
            }
            if let Some(result) = self.ready.next() {
                return Some(Ok(result));
            }
            self.fill();
            match self.pending.pop_front()?.recv() {
                Ok(Ok(results)) => self.ready = results.into_iter(),
                Ok(Err(error)) => {
                    self.stop.dropped.store(true, Ordering::Relaxed);
                    return Some(Err(error));
                }
                // Without an answer only when it was told to stop, or panicked, which `drop` passes on.
                Err(_) => return None,
            }
        }
    }
}

impl<I, T> Drop for Ordered<I, T> {
    /// Waits for the runs that are under way: ONNX Runtime must not outlive its caller in a thread that nobody knows of.
    fn drop(&mut self) {
        self.stop.dropped.store(true, Ordering::Relaxed);
        self.decoded = None;
        for worker in self.workers.drain(..) {
            if let Err(panic) = worker.join()
                && !thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn work_off<T>(queue: &Mutex<Receiver<(Chunk, Reply<T>)>>, work: &Work<T>, stop: &Stop) {
    let next = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv()
            .ok()
    };
    while let Some((chunk, reply)) = next() {
        if stop.is_set() {
            return;
        }
        // A receiver that is gone has no use for the results.
        _ = reply.send(work(chunk));
    }
}
