//! From a file to the backbone's input, with a check that it is the file that the splits were made with.

use crate::{Error, Result};
use rayon::prelude::*;
use stage1_core::{
    artifact::Digest,
    preprocess::{self, Limits, PreprocessSpec, Preprocessor},
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

    fn read_one(&self, preprocessor: &mut Preprocessor, image: &Image) -> Result<Vec<f32>> {
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
        let picture =
            preprocess::decode(&bytes, self.limits).map_err(|source| Error::DecodeImage {
                path: path(),
                source,
            })?;
        preprocessor
            .run(&picture)
            .map_err(|source| Error::PreprocessImage {
                path: path(),
                source,
            })
    }
}
