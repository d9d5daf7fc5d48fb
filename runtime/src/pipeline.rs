//! Files to model inputs, decoded on all cores while the model runs on the images before.

use crate::{
    Error, Result, Timings,
    pixels::{Pixel, Pixels},
};
use rayon::{ThreadPool, prelude::*};
use stage1_core::preprocess::{
    self, DecodeError, Limits, PixelFormat, PreprocessSpec, Preprocessor, RgbImage, decode,
    decode_file,
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

/// Some images in order, and the pixels of the good ones.
pub(crate) struct Chunk {
    pub(crate) slots: Vec<Slot>,
    pub(crate) pixels: Pixels,
}

/// Decodes and preprocesses.
pub(crate) struct Pipeline {
    pool: ThreadPool,
    spec: Arc<PreprocessSpec>,
    format: PixelFormat,
    limits: Limits,
    one: Preprocessor,
}

impl Pipeline {
    /// # Errors
    /// [`Error::Preprocess`] when the spec isn't valid or doesn't yield pictures of this format; [`Error::Threads`].
    pub(crate) fn new(
        spec: PreprocessSpec,
        format: PixelFormat,
        limits: Limits,
        threads: usize,
    ) -> Result<Self> {
        spec.check_format(format)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("stage1-decode-{i}"))
            .build()
            .map_err(|source| Error::Threads { threads, source })?;
        Ok(Self {
            pool,
            one: Preprocessor::new(spec.clone())?,
            spec: Arc::new(spec),
            format,
            limits,
        })
    }

    /// The pixels of one image in memory, on the calling thread.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> (Result<Pixels, ImageError>, Timings) {
        let start = Instant::now();
        let decoded = decode(bytes, self.limits);
        let decode = start.elapsed();
        let start = Instant::now();
        let pixels = decoded
            .map_err(ImageError::from)
            .and_then(|image| match self.format {
                PixelFormat::Float32 => Ok(Pixels::Float32(one(&mut self.one, &image)?)),
                PixelFormat::Uint8 => Ok(Pixels::Uint8(one(&mut self.one, &image)?)),
            });
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
        let (spec, format, limits) = (Arc::clone(&self.spec), self.format, self.limits);
        self.pool.spawn(move || {
            let chunk = decode_chunk(paths, &spec, format, limits);
            // A receiver that is gone has no use for the chunk.
            let _ = sender.send(chunk);
        });
        receiver
    }
}

fn one<T: Pixel>(
    preprocessor: &mut Preprocessor,
    image: &RgbImage,
) -> Result<Vec<T>, preprocess::Error> {
    let mut pixels = vec![T::default(); preprocessor.output_len()];
    T::preprocess(preprocessor, image, &mut pixels)?;
    Ok(pixels)
}

fn decode_chunk(
    paths: Vec<PathBuf>,
    spec: &PreprocessSpec,
    format: PixelFormat,
    limits: Limits,
) -> Result<Chunk> {
    Ok(match format {
        PixelFormat::Float32 => {
            let (slots, pixels) = decode_all(paths, spec, limits)?;
            Chunk {
                slots,
                pixels: Pixels::Float32(pixels),
            }
        }
        PixelFormat::Uint8 => {
            let (slots, pixels) = decode_all(paths, spec, limits)?;
            Chunk {
                slots,
                pixels: Pixels::Uint8(pixels),
            }
        }
    })
}

fn decode_all<T: Pixel>(
    paths: Vec<PathBuf>,
    spec: &PreprocessSpec,
    limits: Limits,
) -> Result<(Vec<Slot>, Vec<T>)> {
    let image_len = Preprocessor::new(spec.clone())?.output_len();
    let mut pixels = vec![T::default(); paths.len() * image_len];
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
    Ok((slots, pixels))
}

fn fill<T: Pixel>(
    preprocessor: &mut Preprocessor,
    path: PathBuf,
    limits: Limits,
    out: &mut [T],
) -> Slot {
    let start = Instant::now();
    let decoded = decode_file(&path, limits);
    let decode = start.elapsed();
    let start = Instant::now();
    let outcome = decoded
        .map_err(ImageError::from)
        .and_then(|image| Ok(T::preprocess(preprocessor, &image, out)?));
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
fn close_gaps<T: Copy>(pixels: &mut Vec<T>, slots: &[Slot], image_len: usize) {
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
