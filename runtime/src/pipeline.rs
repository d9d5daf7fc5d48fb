//! Files to model inputs, decoded on all cores while the model runs on the images before.

use crate::{Error, Result, Timings};
use rayon::{ThreadPool, prelude::*};
use stage1_core::preprocess::{
    self, DecodeError, Limits, PreprocessSpec, Preprocessor, decode, decode_file,
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    time::Instant,
};

/// Why an image has no logits.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It can't be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It can't be brought to the model's size.
    #[error(transparent)]
    Preprocess(#[from] preprocess::Error),
}

/// An image of a chunk: whether its pixels are there.
pub(crate) struct Slot {
    pub(crate) path: PathBuf,
    pub(crate) outcome: Result<(), ImageError>,
    pub(crate) timings: Timings,
}

/// Some images in order, and the pixels of the good ones, `[n, 3, height, width]`.
pub(crate) struct Chunk {
    pub(crate) slots: Vec<Slot>,
    pub(crate) pixels: Vec<f32>,
}

/// Decodes and preprocesses.
pub(crate) struct Pipeline {
    pool: ThreadPool,
    spec: Arc<PreprocessSpec>,
    limits: Limits,
    one: Preprocessor,
}

impl Pipeline {
    pub(crate) fn new(spec: PreprocessSpec, limits: Limits, threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("stage1-decode-{i}"))
            .build()
            .map_err(|source| Error::Threads { threads, source })?;
        Ok(Self {
            pool,
            one: Preprocessor::new(spec.clone())?,
            spec: Arc::new(spec),
            limits,
        })
    }

    /// The pixels of one image in memory, on the calling thread.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> (Result<Vec<f32>, ImageError>, Timings) {
        let start = Instant::now();
        let decoded = decode(bytes, self.limits);
        let decode = start.elapsed();
        let start = Instant::now();
        let pixels = decoded
            .map_err(ImageError::from)
            .and_then(|image| Ok(self.one.run(&image)?));
        let preprocess = start.elapsed();
        let timings = Timings {
            decode,
            preprocess,
            ..Timings::default()
        };
        (pixels, timings)
    }

    /// Begins to decode files, and returns at once.
    fn start(&self, paths: Vec<PathBuf>) -> Receiver<Result<Chunk>> {
        let (sender, receiver) = sync_channel(1);
        let (spec, limits) = (Arc::clone(&self.spec), self.limits);
        self.pool.spawn(move || {
            // A receiver that is gone has no use for the chunk.
            let _ = sender.send(decode_chunk(paths, &spec, limits));
        });
        receiver
    }
}

fn decode_chunk(paths: Vec<PathBuf>, spec: &PreprocessSpec, limits: Limits) -> Result<Chunk> {
    let image_len = Preprocessor::new(spec.clone())?.output_len();
    let mut pixels = vec![0.0; paths.len() * image_len];
    let slots = paths
        .into_par_iter()
        .zip(pixels.par_chunks_mut(image_len))
        .map_init(
            || Preprocessor::new(spec.clone()),
            |preprocessor, (path, out)| match preprocessor {
                Ok(preprocessor) => fill(preprocessor, path, limits, out),
                Err(_) => unreachable!("the spec was accepted above"),
            },
        )
        .collect::<Vec<_>>();
    close_gaps(&mut pixels, &slots, image_len);
    Ok(Chunk { slots, pixels })
}

fn fill(preprocessor: &mut Preprocessor, path: PathBuf, limits: Limits, out: &mut [f32]) -> Slot {
    let start = Instant::now();
    let decoded = decode_file(&path, limits);
    let decode = start.elapsed();
    let start = Instant::now();
    let outcome = decoded
        .map_err(ImageError::from)
        .and_then(|image| Ok(preprocessor.run_into(&image, out)?));
    let preprocess = start.elapsed();
    let timings = Timings {
        decode,
        preprocess,
        ..Timings::default()
    };
    Slot {
        path,
        outcome,
        timings,
    }
}

/// Moves the good images' pixels together.
fn close_gaps(pixels: &mut Vec<f32>, slots: &[Slot], image_len: usize) {
    let mut kept = 0;
    for (i, _) in slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| slot.outcome.is_ok())
    {
        if i != kept {
            pixels.copy_within(i * image_len..(i + 1) * image_len, kept * image_len);
        }
        kept += 1;
    }
    pixels.truncate(kept * image_len);
}

/// Chunks of images in the order of their paths, each decoded while the one before is worked on.
pub(crate) struct Chunks<I> {
    paths: I,
    size: usize,
    pending: Option<Receiver<Result<Chunk>>>,
}

impl<P: AsRef<Path>, I: Iterator<Item = P>> Chunks<I> {
    /// Begins to decode the first `size` images.
    pub(crate) fn start(pipeline: &Pipeline, paths: I, size: usize) -> Self {
        let pending = None;
        let mut chunks = Self {
            paths,
            size,
            pending,
        };
        chunks.begin(pipeline);
        chunks
    }

    /// The next chunk; those after it begin to be decoded.
    pub(crate) fn next(&mut self, pipeline: &Pipeline) -> Option<Result<Chunk>> {
        let receiver = self.pending.take()?;
        let chunk = receiver.recv().expect("a decoding thread sends its chunk");
        self.begin(pipeline);
        Some(chunk)
    }

    fn begin(&mut self, pipeline: &Pipeline) {
        let paths = self.paths.by_ref().take(self.size);
        let next: Vec<_> = paths.map(|path| path.as_ref().to_owned()).collect();
        self.pending = (!next.is_empty()).then(|| pipeline.start(next));
    }
}
