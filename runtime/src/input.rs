use stage1_core::preprocess::RgbImage;
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

/// An image, in any of the forms in which programs hold them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ImageInput<'a> {
    /// A file, read when its turn comes.
    Path(Cow<'a, Path>),
    /// The bytes of a file.
    Bytes(Cow<'a, [u8]>),
    /// Decoded already, whatever the bundle says about decoding: upright, 8-bit RGB.
    Pixels(Cow<'a, RgbImage>),
}

impl ImageInput<'_> {
    /// The file's path; empty for what is in memory.
    pub(crate) fn into_path(self) -> PathBuf {
        match self {
            Self::Path(path) => path.into_owned(),
            Self::Bytes(_) | Self::Pixels(_) => PathBuf::new(),
        }
    }
}

impl<'a> From<&'a Path> for ImageInput<'a> {
    fn from(path: &'a Path) -> Self {
        Self::Path(Cow::Borrowed(path))
    }
}

impl From<PathBuf> for ImageInput<'_> {
    fn from(path: PathBuf) -> Self {
        Self::Path(Cow::Owned(path))
    }
}

impl<'a> From<&'a [u8]> for ImageInput<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for ImageInput<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(Cow::Owned(bytes))
    }
}

impl<'a> From<&'a RgbImage> for ImageInput<'a> {
    fn from(image: &'a RgbImage) -> Self {
        Self::Pixels(Cow::Borrowed(image))
    }
}

impl From<RgbImage> for ImageInput<'_> {
    fn from(image: RgbImage) -> Self {
        Self::Pixels(Cow::Owned(image))
    }
}
