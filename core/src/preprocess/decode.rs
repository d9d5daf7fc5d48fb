use super::{DecodeError, Resize, source::Source};
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// What one image may cost, checked before the memory is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The most pixels (width x height) that a header may promise.
    pub max_pixels: u64,
    /// The most bytes of a file, and, separately, of the memory that its decoder may take.
    pub max_bytes: u64,
}

impl Default for Limits {
    /// 2^26 pixels (8192 x 8192) and 1 GiB: above any usual camera, and a few such images fit into memory.
    fn default() -> Self {
        Self {
            max_pixels: 1 << 26,
            max_bytes: 1 << 30,
        }
    }
}

/// Decodes the bytes of an image file (JPEG, PNG, WebP, TIFF, GIF, BMP, PNM, told by the first bytes) to upright 8-bit RGB.
///
/// The rules are those of Pillow's `ImageOps.exif_transpose(image).convert("RGB")`, with one exception:
/// - the orientation in EXIF (or else XMP) is applied; metadata that can't be read count as upright;
/// - alpha is dropped, not composited: a transparent pixel keeps the colour that is stored under it;
/// - grey is copied into the three channels; palettes and 1-, 2- and 4-bit samples are expanded;
/// - of 16-bit samples the high byte is kept. Pillow does so for RGB, but clips 16-bit *grey* at 255, which turns most
///   pictures white; here grey is treated as RGB is;
/// - CMYK and YCCK JPEGs are taken as inverted (as Adobe writes them), `red = cyan * black / 255` and so on; colour profiles
///   are ignored;
/// - of an animation, the first frame is taken; what it leaves free of its canvas is black (Pillow: the background colour);
/// - a JPEG without its end marker is truncated, and one with invalid codes damaged, even if it can be shown in part.
///
/// # Errors
/// A [`DecodeError`] that says what is wrong; hostile input neither panics nor allocates beyond `limits`.
pub fn decode(bytes: &[u8], limits: Limits) -> Result<RgbImage, DecodeError> {
    decode_for(bytes, limits, None, Vec::new())
}

/// As [`decode`]; of a JPEG, if it is to be resized so, as little as that takes. A JPEG's picture is put into `room`.
pub(super) fn decode_for(
    bytes: &[u8],
    limits: Limits,
    resize: Option<Resize>,
    room: Vec<u8>,
) -> Result<RgbImage, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if bytes.len() as u64 > limits.max_bytes {
        return Err(DecodeError::TooManyBytes {
            limit: limits.max_bytes,
        });
    }
    Source::new(bytes, limits)?.decode(resize, room)
}

/// [`decode`]s a file; every error names it.
///
/// # Errors
/// As [`decode`], in a [`DecodeError::InFile`].
pub fn decode_file(path: &Path, limits: Limits) -> Result<RgbImage, DecodeError> {
    decode_file_for(path, limits, None, Vec::new())
}

/// As [`decode_for`], of a file.
pub(super) fn decode_file_for(
    path: &Path,
    limits: Limits,
    resize: Option<Resize>,
    room: Vec<u8>,
) -> Result<RgbImage, DecodeError> {
    read_at_most(path, limits.max_bytes)
        .and_then(|bytes| decode_for(&bytes, limits, resize, room))
        .map_err(|source| DecodeError::InFile {
            path: path.to_owned(),
            source: Box::new(source),
        })
}

/// The bytes of a file, of which one more than `max_bytes` are read.
fn read_at_most(path: &Path, max_bytes: u64) -> Result<Vec<u8>, DecodeError> {
    let read = || -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let len = file.metadata()?.len().min(max_bytes);
        // Grown as it is read, it would be copied several times.
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
        file.take(max_bytes.saturating_add(1))
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| DecodeError::Io { source })
}
