use super::{
    Arithmetic, DecodeError, Error, Limits, PixelFormat, PreprocessSpec, Resize,
    decode::{decode_file_for, decode_for},
    normalise::{Normalisation, Window, write_planes},
    resize::Scratch,
    spec::{Decode, Size},
};
use image::RgbImage;
use std::{mem, path::Path};

/// The most pixels of a picture between the passes of a resize, against pictures of one pixel by millions.
const MAX_INTERMEDIATE: u64 = 1 << 26;

/// The most bytes of a picture whose memory is kept for the next one: ten megapixels.
const MAX_SPARE: usize = 32 << 20;

/// Carries out a [`PreprocessSpec`]. Its buffers are reused from picture to picture: keep one per thread (it is `Clone`).
#[derive(Clone)]
pub struct Preprocessor {
    spec: PreprocessSpec,
    normalisation: Normalisation,
    scratch: Scratch,
    /// The memory of a picture that was given back.
    spare: Vec<u8>,
}

impl Preprocessor {
    /// # Errors
    /// [`Error::Spec`] for a spec that isn't [valid](PreprocessSpec::validate).
    pub fn new(spec: PreprocessSpec) -> Result<Self, Error> {
        spec.validate()?;
        Ok(Self {
            normalisation: spec.normalisation(),
            spec,
            scratch: Scratch::default(),
            spare: Vec::new(),
        })
    }

    /// What it carries out.
    pub fn spec(&self) -> &PreprocessSpec {
        &self.spec
    }

    /// Decodes the bytes of an image file as [`super::decode`] does, and of a JPEG as much as the spec wants.
    ///
    /// # Errors
    /// As [`super::decode`].
    pub fn decode(&self, bytes: &[u8], limits: Limits) -> Result<RgbImage, DecodeError> {
        decode_for(bytes, limits, self.least(), Vec::new())
    }

    /// As [`Preprocessor::decode`], of a file; every error names it.
    ///
    /// # Errors
    /// As [`super::decode_file`].
    pub fn decode_file(&self, path: &Path, limits: Limits) -> Result<RgbImage, DecodeError> {
        decode_file_for(path, limits, self.least(), Vec::new())
    }

    /// As [`Preprocessor::decode`], into the memory of a picture that was [given back](Preprocessor::give_back), if there is
    /// one: a system that hands out megabytes page by page takes longer for that than a resize does.
    ///
    /// # Errors
    /// As [`super::decode`].
    pub fn decode_again(&mut self, bytes: &[u8], limits: Limits) -> Result<RgbImage, DecodeError> {
        let spare = mem::take(&mut self.spare);
        decode_for(bytes, limits, self.least(), spare)
    }

    /// As [`Preprocessor::decode_again`], of a file; every error names it.
    ///
    /// # Errors
    /// As [`super::decode_file`].
    pub fn decode_file_again(
        &mut self,
        path: &Path,
        limits: Limits,
    ) -> Result<RgbImage, DecodeError> {
        let spare = mem::take(&mut self.spare);
        decode_file_for(path, limits, self.least(), spare)
    }

    /// Keeps a picture's memory for the next one, unless it is uncommonly large.
    pub fn give_back(&mut self, image: RgbImage) {
        let memory = image.into_raw();
        if memory.capacity() <= MAX_SPARE {
            self.spare = memory;
        }
    }

    /// What a picture must be large enough for, where not all of it is decoded.
    fn least(&self) -> Option<Resize> {
        match self.spec.decode {
            Decode::Full => None,
            Decode::Scaled => Some(self.spec.resize),
        }
    }

    /// The number of values per picture, `3 * height * width`.
    pub fn output_len(&self) -> usize {
        let (height, width) = self.spec.output_size();
        3 * height * width
    }

    /// The model's input for `image`, `[3, height, width]` row by row.
    ///
    /// # Errors
    /// As [`Preprocessor::run_into`], the length of the output aside.
    pub fn run(&mut self, image: &RgbImage) -> Result<Vec<f32>, Error> {
        let mut out = vec![0.0; self.output_len()];
        self.run_into(image, &mut out)?;
        Ok(out)
    }

    /// Writes the model's input for `image` into `out`, `[3, height, width]` row by row: a slice of a batch.
    ///
    /// # Errors
    /// [`Error::OutputLength`] unless `out` has [`Preprocessor::output_len`] values; [`Error::EmptyPicture`] and
    /// [`Error::TooElongated`] for pictures that can't be resized. `out` is then as it was.
    pub fn run_into(&mut self, image: &RgbImage, out: &mut [f32]) -> Result<(), Error> {
        self.check_len(out)?;
        let (between, target) = self.sizes(image)?;
        let window = Window::new(target, self.spec.crop);
        let filter = self.spec.filter;
        match self.spec.arithmetic {
            Arithmetic::Uint8 | Arithmetic::Pillow => {
                let pixels = self.scratch.resize_bytes(image, between, target, filter);
                write_planes(pixels, window, self.normalisation, out);
            }
            Arithmetic::Float32 => {
                let pixels = self.scratch.resize_floats(image, target, filter);
                write_planes(pixels, window, self.normalisation, out);
            }
        }
        Ok(())
    }

    /// Writes the grey levels of `image` before normalisation into `out`, `[height, width, 3]` row by row: what a model takes
    /// that normalises by itself.
    ///
    /// # Errors
    /// As [`Preprocessor::run_into`], and [`Error::NoLevels`] for a spec that resizes in floats.
    pub fn run_bytes_into(&mut self, image: &RgbImage, out: &mut [u8]) -> Result<(), Error> {
        self.spec.check_format(PixelFormat::Uint8)?;
        self.check_len(out)?;
        self.write_levels(image, out)
    }

    /// The resized and cropped picture before normalisation, in whole grey levels whatever the spec's arithmetic.
    ///
    /// # Errors
    /// As [`Preprocessor::run`].
    pub fn resized_u8(&mut self, image: &RgbImage) -> Result<RgbImage, Error> {
        let (height, width) = self.spec.output_size();
        let mut out = RgbImage::new(width as u32, height as u32);
        self.write_levels(image, &mut out)?;
        Ok(out)
    }

    fn write_levels(&mut self, image: &RgbImage, out: &mut [u8]) -> Result<(), Error> {
        let (between, target) = self.sizes(image)?;
        let window = Window::new(target, self.spec.crop);
        let filter = self.spec.filter;
        let pixels = self.scratch.resize_bytes(image, between, target, filter);
        let width = window.size.0;
        let rows = out.chunks_exact_mut(3 * width);
        for (out, (column, pixels)) in rows.zip(window.rows(pixels)) {
            if pixels.len() < width {
                // Padding is black.
                out.fill(0);
            }
            let (out, _) = out[3 * column..].as_chunks_mut();
            for (out, pixel) in out.iter_mut().zip(pixels) {
                *out = pixel.0;
            }
        }
        Ok(())
    }

    fn check_len<T>(&self, out: &[T]) -> Result<(), Error> {
        let (got, want) = (out.len(), self.output_len());
        match got == want {
            true => Ok(()),
            false => Err(Error::OutputLength { got, want }),
        }
    }

    /// The sizes (width, height) of `image` between the passes and after the resize.
    fn sizes(&self, image: &RgbImage) -> Result<(Size, Size), Error> {
        let (width, height) = image.dimensions();
        if width == 0 || height == 0 {
            return Err(Error::EmptyPicture { width, height });
        }
        let too_elongated = |intermediate| Error::TooElongated {
            width,
            height,
            intermediate,
            limit: MAX_INTERMEDIATE,
        };
        let target = self.spec.resize.target(width, height);
        let target = target.ok_or_else(|| too_elongated(u64::MAX))?;
        let between = self.spec.arithmetic.between((width, height), target);
        let area = |(width, height): Size| u64::from(width) * u64::from(height);
        let intermediate = area(between).max(area(target));
        if intermediate > MAX_INTERMEDIATE {
            return Err(too_elongated(intermediate));
        }
        Ok((between, target))
    }
}
