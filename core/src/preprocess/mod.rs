//! From the bytes of an image file to a model's input: one implementation for training and inference.
//!
//! 1. [`decode`] turns a file's bytes into upright 8-bit RGB, within [`Limits`]; [`Preprocessor::decode`] so much of it as a
//!    spec wants;
//! 2. [`Preprocessor`] resizes, crops and normalises it as a [`PreprocessSpec`] says.
//!
//! ```
//! use stage1_core::preprocess::{Preprocessor, PreprocessSpec, RgbImage};
//!
//! let image = RgbImage::from_pixel(320, 200, image::Rgb([124, 116, 104]));
//! let mut preprocessor = Preprocessor::new(PreprocessSpec::dinov3(224, 224))?;
//! let pixels = preprocessor.run(&image)?; // [3, 224, 224], near zero: the picture is the ImageNet mean
//! assert_eq!(pixels.len(), 3 * 224 * 224);
//! # assert!(pixels.iter().all(|p| p.abs() < 0.01));
//! # Ok::<(), stage1_core::preprocess::Error>(())
//! ```
//!
//! A spec names a pipeline down to its arithmetic, because the reference implementations differ: Pillow and
//! torchvision's uint8 path round to whole grey levels between the passes of a resize (and not in the same order), Hugging
//! Face's DINOv3 processor resizes floats.
//! Augmentation isn't done here.

mod decode;
mod error;
mod jpeg;
mod normalise;
mod orientation;
mod pixels;
mod processor;
mod resize;
mod rgb;
mod source;
mod spec;
mod taps;

pub use decode::{Limits, decode, decode_file};
pub use error::{DecodeError, Error};
pub use image::RgbImage;
pub use normalise::Normalisation;
pub use pixels::{NotLevels, PixelFormat};
pub use processor::Preprocessor;
pub use spec::{
    Arithmetic, CentreCrop, CropRounding, Decode, Filter, IMAGENET_MEAN, IMAGENET_STD,
    PreprocessSpec, Resize,
};
