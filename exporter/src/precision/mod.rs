//! Other precisions, as passes over a finished float32 model: its names, inputs and outputs stay, and inputs and outputs
//! stay float32.
//!
//! - [`fp16()`]: linear layers and what lies between them in half precision; residual stream, norms, softmax and
//!   convolutions in float32;
//! - [`int8()`]: linear layers as static QDQ: uint8 inputs whose ranges were seen on training images, int8 weights with
//!   one scale per output; the layers that cost the most accuracy stay in float32.
//!
//! A model whose weights lie beside it makes models whose weights do.
//!
//! What has to be seen is seen through a [`Runtime`], which the caller brings: temporary models with further outputs.
//! Dynamic int8, whose scale is taken over the whole batch, isn't offered: an image's answer would depend on its
//! neighbours, so that it could be certified one image at a time only, where it is slower than float32.

mod choose;
mod fp16;
mod int8;
mod model;
mod observe;
mod smooth;
mod weights;

pub use fp16::{Attention, Fp16, fp16};
pub use int8::{Int8, Int8Options, int8};

use crate::{Error, Exported, Result};
use model::Model;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What opens models: the command line implements it with ONNX Runtime.
pub trait Runtime {
    /// A session of a model.
    ///
    /// # Errors
    /// The runtime's own.
    fn open(&mut self, model: &Exported) -> Result<Box<dyn Observed>, Failure>;
}

/// A session whose outputs are asked for by name.
pub trait Observed {
    /// The values of the named float32 outputs, row-major and in the order asked for, for `pixel_values` of `shape`
    /// [N, 3, H, W].
    ///
    /// # Errors
    /// The session's own.
    fn run(
        &mut self,
        pixel_values: &[f32],
        shape: [usize; 4],
        outputs: &[&str],
    ) -> Result<Vec<Vec<f32>>, Failure>;
}

/// Training images to look at: `pixel_values` [n, 3, H, W] as the model takes them, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    pixels: &'a [f32],
    image: [usize; 3],
}

/// Images that go through a temporary model together.
const BATCH: usize = 8;

impl<'a> Sample<'a> {
    /// Images of shape [3, H, W], one after the other.
    ///
    /// # Errors
    /// [`Error::Sample`] unless `pixels` is a whole number of them, at least one.
    pub fn new(pixels: &'a [f32], image: [usize; 3]) -> Result<Self> {
        let size: usize = image.iter().product();
        if size == 0 || pixels.is_empty() || !pixels.len().is_multiple_of(size) {
            return Err(Error::Sample {
                values: pixels.len(),
                image,
            });
        }
        Ok(Self { pixels, image })
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.pixels.len() / self.image_len()
    }

    fn image_len(&self) -> usize {
        self.image.iter().product()
    }

    /// The first `n`, or all if there are fewer.
    fn first(self, n: usize) -> Self {
        let pixels = &self.pixels[..n.min(self.images()) * self.image_len()];
        Self { pixels, ..self }
    }

    /// Parts of at most `size` images, with their shape.
    fn batches(&self, size: usize) -> impl Iterator<Item = (&'a [f32], [usize; 4])> {
        let [channels, height, width] = self.image;
        let len = self.image_len();
        self.pixels
            .chunks(size * len)
            .map(move |part| (part, [part.len() / len, channels, height, width]))
    }
}

/// A session of a temporary model.
fn open(runtime: &mut dyn Runtime, model: &Model) -> Result<Box<dyn Observed>> {
    runtime
        .open(&model.exported()?)
        .map_err(|source| Error::Session { batch: 0, source })
}

/// The logits of all images of the sample, [n, K].
fn logits(
    runtime: &mut dyn Runtime,
    model: &Model,
    sample: Sample<'_>,
    output: &str,
) -> Result<Vec<f32>> {
    let mut session = open(runtime, model)?;
    let mut all = Vec::new();
    for (pixels, shape) in sample.batches(BATCH) {
        all.extend(observe::run(&mut *session, pixels, shape, &[output])?.remove(0));
    }
    Ok(all)
}
