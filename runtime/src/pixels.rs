//! The two forms in which models take pictures.

use ort::value::PrimitiveTensorElementType;
use stage1_core::preprocess::{Error, PixelFormat, Preprocessor, RgbImage};
use std::fmt::Debug;

/// A value of a picture as a model takes it.
pub(crate) trait Pixel:
    PrimitiveTensorElementType + Debug + Copy + Default + Send + Sync + 'static
{
    const FORMAT: PixelFormat;

    /// Writes the model's input for `image`.
    fn preprocess(
        preprocessor: &mut Preprocessor,
        image: &RgbImage,
        out: &mut [Self],
    ) -> Result<(), Error>;
}

impl Pixel for f32 {
    const FORMAT: PixelFormat = PixelFormat::Float32;

    fn preprocess(
        preprocessor: &mut Preprocessor,
        image: &RgbImage,
        out: &mut [Self],
    ) -> Result<(), Error> {
        preprocessor.run_into(image, out)
    }
}

impl Pixel for u8 {
    const FORMAT: PixelFormat = PixelFormat::Uint8;

    fn preprocess(
        preprocessor: &mut Preprocessor,
        image: &RgbImage,
        out: &mut [Self],
    ) -> Result<(), Error> {
        preprocessor.run_bytes_into(image, out)
    }
}

/// The pixels of some pictures, one after the other.
#[derive(Debug, Clone)]
pub(crate) enum Pixels {
    Float32(Vec<f32>),
    Uint8(Vec<u8>),
}
