//! Images to model inputs: one on the calling thread, or many on a pool of threads.

use crate::{
    Error, ImageInput, Result, Timings,
    pixels::{Pixel, Pixels},
};
use rayon::{ThreadPool, prelude::*};
use stage1_core::preprocess::{
    self, DecodeError, Limits, PixelFormat, PreprocessSpec, Preprocessor, RgbImage,
};
use std::{
    borrow::Cow,
    path::PathBuf,
    sync::{Mutex, PoisonError},
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

/// Decodes and preprocesses, on any number of threads at once.
pub(crate) struct Decoder {
    pool: ThreadPool,
    format: PixelFormat,
    limits: Limits,
    fresh: Preprocessor,
    /// Used before, with their buffers: as many as ever ran at once.
    idle: Mutex<Vec<Preprocessor>>,
}

impl Decoder {
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
            format,
            limits,
            fresh: Preprocessor::new(spec)?,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// The number of values of an image.
    pub(crate) fn image_len(&self) -> usize {
        self.fresh.output_len()
    }

    /// The form in which the model takes pictures.
    pub(crate) fn format(&self) -> PixelFormat {
        self.format
    }

    /// The threads that decode many images.
    pub(crate) fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// The pixels of one image, on the calling thread.
    pub(crate) fn one(&self, input: &ImageInput<'_>) -> (Result<Pixels, ImageError>, Timings) {
        match self.format {
            PixelFormat::Float32 => {
                let (pixels, timings) = self.one_of(input);
                (pixels.map(Pixels::Float32), timings)
            }
            PixelFormat::Uint8 => {
                let (pixels, timings) = self.one_of(input);
                (pixels.map(Pixels::Uint8), timings)
            }
        }
    }

    fn one_of<T: Pixel>(&self, input: &ImageInput<'_>) -> (Result<Vec<T>, ImageError>, Timings) {
        let mut pixels = vec![T::default(); self.image_len()];
        let (outcome, timings) = self.write(input, &mut pixels);
        (outcome.map(|()| pixels), timings)
    }

    /// The pixels of many images, on all threads of the pool, straight into the model's input; none once `stopped`.
    pub(crate) fn many(
        &self,
        inputs: Vec<ImageInput<'_>>,
        stopped: impl Fn() -> bool + Sync,
    ) -> Option<Chunk> {
        Some(match self.format {
            PixelFormat::Float32 => {
                let (slots, pixels) = self.many_of(inputs, stopped)?;
                Chunk {
                    slots,
                    pixels: Pixels::Float32(pixels),
                }
            }
            PixelFormat::Uint8 => {
                let (slots, pixels) = self.many_of(inputs, stopped)?;
                Chunk {
                    slots,
                    pixels: Pixels::Uint8(pixels),
                }
            }
        })
    }

    fn many_of<T: Pixel>(
        &self,
        inputs: Vec<ImageInput<'_>>,
        stopped: impl Fn() -> bool + Sync,
    ) -> Option<(Vec<Slot>, Vec<T>)> {
        let image_len = self.image_len();
        let mut pixels = vec![T::default(); inputs.len() * image_len];
        let fill = |(input, out): (ImageInput<'_>, &mut [T])| {
            if stopped() {
                return None;
            }
            let (outcome, timings) = self.write(&input, out);
            Some(Slot {
                path: input.into_path(),
                outcome,
                timings,
            })
        };
        let slots: Option<Vec<_>> = self.pool.install(|| {
            let outs = pixels.par_chunks_mut(image_len);
            inputs
                .into_par_iter()
                .zip(outs)
                .with_max_len(1)
                .map(fill)
                .collect()
        });
        let slots = slots?;
        close_gaps(&mut pixels, &slots, image_len);
        Some((slots, pixels))
    }

    fn write<T: Pixel>(
        &self,
        input: &ImageInput<'_>,
        out: &mut [T],
    ) -> (Result<(), ImageError>, Timings) {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let used = idle().pop();
        let mut preprocessor = used.unwrap_or_else(|| self.fresh.clone());
        let start = Instant::now();
        let decoded = self.decode(&mut preprocessor, input);
        let decode = start.elapsed();
        let start = Instant::now();
        let outcome = decoded.and_then(|image| preprocess(&mut preprocessor, image, out));
        idle().push(preprocessor);
        let timings = Timings {
            decode,
            preprocess: start.elapsed(),
            ..Timings::default()
        };
        (outcome, timings)
    }

    fn decode<'a>(
        &self,
        preprocessor: &mut Preprocessor,
        input: &'a ImageInput<'_>,
    ) -> Result<Cow<'a, RgbImage>, ImageError> {
        let limits = self.limits;
        Ok(match input {
            ImageInput::Path(path) => Cow::Owned(preprocessor.decode_file_again(path, limits)?),
            ImageInput::Bytes(bytes) => Cow::Owned(preprocessor.decode_again(bytes, limits)?),
            ImageInput::Pixels(image) => Cow::Borrowed(image),
        })
    }
}

fn preprocess<T: Pixel>(
    preprocessor: &mut Preprocessor,
    image: Cow<'_, RgbImage>,
    out: &mut [T],
) -> Result<(), ImageError> {
    let written = T::preprocess(preprocessor, &image, out);
    if let Cow::Owned(image) = image {
        preprocessor.give_back(image);
    }
    Ok(written?)
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
