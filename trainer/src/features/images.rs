//! From a file to the backbone's input, with a check that it is the file that the splits were made with.

use crate::{Error, Result, augment::Augmenter, random::Draw};
use rayon::prelude::*;
use stage1_core::{
    artifact::Digest,
    preprocess::{Limits, PreprocessSpec, Preprocessor, RgbImage},
};
use std::{fs, path::PathBuf};

/// An image to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// The digest of its bytes, which the file must have when it is read.
    pub digest: Digest,
}

/// Reads images as one preprocessing says.
pub struct ImageReader {
    preprocessor: Preprocessor,
    limits: Limits,
}

impl ImageReader {
    /// # Errors
    /// [`Error::Preprocess`] for a contradictory `spec`.
    pub fn new(spec: &PreprocessSpec, limits: Limits) -> Result<Self> {
        let preprocessor = Preprocessor::new(spec.clone()).map_err(Error::Preprocess)?;
        Ok(Self {
            preprocessor,
            limits,
        })
    }

    /// Height and width of what it returns.
    pub fn size(&self) -> (usize, usize) {
        let (height, width) = self.preprocessor.spec().output_size();
        (height, width)
    }

    /// The inputs of `images`, read in parallel, `[3, H, W]` each.
    ///
    /// An image's error takes its place.
    pub fn read(&self, images: &[Image]) -> Vec<Result<Vec<f32>>> {
        let one_per_thread = || self.preprocessor.clone();
        let read =
            |preprocessor: &mut Preprocessor, image: &Image| self.read_one(preprocessor, image);
        images.par_iter().map_init(one_per_thread, read).collect()
    }

    /// As [`ImageReader::read`], each varied as seed, epoch (from 1) and its place in the epoch's order say; the first has
    /// the place `first`.
    pub fn read_varied(
        &self,
        images: &[Image],
        augmenter: &Augmenter,
        seed: u64,
        epoch: usize,
        first: usize,
    ) -> Vec<Result<Vec<f32>>> {
        let one_per_thread = || augmenter.clone();
        let read = |augmenter: &mut Augmenter, (i, image): (usize, &Image)| {
            let place = first + i;
            let mut numbers = Draw::Picture { epoch, place }.numbers(seed);
            let varied = augmenter.run(&self.decode(image)?, &mut numbers);
            varied.map_err(|source| Error::PreprocessImage {
                path: image.path.clone(),
                source,
            })
        };
        let images = images.par_iter().enumerate();
        images.map_init(one_per_thread, read).collect()
    }

    fn read_one(&self, preprocessor: &mut Preprocessor, image: &Image) -> Result<Vec<f32>> {
        let values = preprocessor.run(&self.decode(image)?);
        values.map_err(|source| Error::PreprocessImage {
            path: image.path.clone(),
            source,
        })
    }

    /// The picture in a file that is the one of the splits.
    pub(crate) fn decode(&self, image: &Image) -> Result<RgbImage> {
        let path = || image.path.clone();
        let bytes = fs::read(&image.path).map_err(|source| Error::ReadImage {
            path: path(),
            source,
        })?;
        let got = Digest::of_bytes(&bytes);
        if got != image.digest {
            let (path, want) = (path(), image.digest);
            return Err(Error::ImageChanged { path, want, got });
        }
        let decoded = self.preprocessor.decode(&bytes, self.limits);
        decoded.map_err(|source| Error::DecodeImage {
            path: path(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, codecs::jpeg::JpegEncoder};
    use stage1_core::preprocess::Decode;

    #[test]
    fn a_jpeg_is_decoded_as_the_spec_says() {
        let picture = RgbImage::from_fn(96, 64, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]));
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, 80)
            .encode_image(&picture)
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let image = Image {
            path: dir.path().join("a.jpg"),
            digest: Digest::of_bytes(&jpeg),
        };
        fs::write(&image.path, &jpeg).unwrap();
        let read = |decode: Decode| {
            let spec = PreprocessSpec {
                decode,
                ..PreprocessSpec::dinov3(14, 14)
            };
            let reader = ImageReader::new(&spec, Limits::default()).unwrap();
            let mut preprocessor = Preprocessor::new(spec).unwrap();
            let decoded = preprocessor.decode(&jpeg, Limits::default()).unwrap();
            let got = reader.read(std::slice::from_ref(&image)).remove(0).unwrap();
            assert_eq!(got, preprocessor.run(&decoded).unwrap(), "{decode:?}");
            got
        };
        assert_ne!(read(Decode::Full), read(Decode::Scaled));
    }
}
