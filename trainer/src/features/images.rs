//! From a file to the backbone's input, with a check that it is the file that the splits were made with.

use crate::{Error, Result, augment::Augmenter, random::Draw};
use rayon::prelude::*;
use stage1_core::{
    artifact::Digest,
    preprocess::{self, Limits, PreprocessSpec, Preprocessor, RgbImage},
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
        preprocess::decode(&bytes, self.limits).map_err(|source| Error::DecodeImage {
            path: path(),
            source,
        })
    }
}
