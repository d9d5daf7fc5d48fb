use super::{DecodeError, jpeg, rgb};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage};
use image::{metadata::Orientation, metadata::Orientation::NoTransforms};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    error::Error as _,
    fs::File,
    io::{self, Cursor, Read},
    panic::{AssertUnwindSafe, catch_unwind},
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
/// - the EXIF orientation is applied; EXIF that can't be read counts as upright;
/// - alpha is dropped, not composited: a transparent pixel keeps the colour that is stored under it;
/// - grey is copied into the three channels; palettes and 1-, 2- and 4-bit samples are expanded;
/// - of 16-bit samples the high byte is kept. Pillow does so for RGB, but clips 16-bit *grey* at 255, which turns most
///   pictures white; here grey is treated as RGB is;
/// - CMYK and YCCK JPEGs are taken as inverted (as Adobe writes them), `red = cyan * black / 255` and so on; colour profiles
///   are ignored;
/// - of an animation, the first frame is taken;
/// - a JPEG without its end marker is truncated, even if it can be shown in part.
///
/// # Errors
/// A [`DecodeError`] that says what is wrong; hostile input neither panics nor allocates beyond `limits`.
pub fn decode(bytes: &[u8], limits: Limits) -> Result<RgbImage, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if bytes.len() as u64 > limits.max_bytes {
        return Err(DecodeError::TooManyBytes {
            limit: limits.max_bytes,
        });
    }
    let source = Source::new(bytes, limits)?;
    source.guarded(|| source.decode())
}

/// [`decode`]s a file; every error names it.
///
/// # Errors
/// As [`decode`], in a [`DecodeError::InFile`].
pub fn decode_file(path: &Path, limits: Limits) -> Result<RgbImage, DecodeError> {
    read_at_most(path, limits.max_bytes)
        .and_then(|bytes| decode(&bytes, limits))
        .map_err(|source| DecodeError::InFile {
            path: path.to_owned(),
            source: Box::new(source),
        })
}

/// The bytes of a file, of which one more than `max_bytes` are read.
fn read_at_most(path: &Path, max_bytes: u64) -> Result<Vec<u8>, DecodeError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        file.take(max_bytes.saturating_add(1))
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| DecodeError::Io { source })
}

/// Bytes of a known format.
struct Source<'a> {
    bytes: &'a [u8],
    format: ImageFormat,
    name: &'static str,
    limits: Limits,
}

impl<'a> Source<'a> {
    fn new(bytes: &'a [u8], limits: Limits) -> Result<Self, DecodeError> {
        let format = image::guess_format(bytes).map_err(|_| DecodeError::UnknownFormat {
            start: bytes[..bytes.len().min(8)].escape_ascii().to_string(),
        })?;
        Ok(Self {
            bytes,
            format,
            name: format_name(format),
            limits,
        })
    }

    fn decode(&self) -> Result<RgbImage, DecodeError> {
        if self.format == ImageFormat::Jpeg && !jpeg::is_complete(self.bytes) {
            return Err(self.truncated());
        }
        let mut decoder = self.decoder()?;
        self.check_size(&decoder)?;
        let orientation = orientation(&mut decoder);
        let mut image = DynamicImage::from_decoder(decoder).map_err(|e| self.error(e))?;
        image.apply_orientation(orientation);
        rgb::to_rgb8(image).map_err(|reason| DecodeError::Unsupported {
            format: self.name,
            reason,
        })
    }

    /// Reads the header.
    fn decoder(&self) -> Result<impl ImageDecoder + use<'a>, DecodeError> {
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(self.limits.max_bytes);
        let mut reader = ImageReader::with_format(Cursor::new(self.bytes), self.format);
        reader.limits(limits);
        reader.into_decoder().map_err(|e| self.error(e))
    }

    fn check_size(&self, decoder: &impl ImageDecoder) -> Result<(), DecodeError> {
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.limits.max_pixels {
            return Err(DecodeError::TooManyPixels {
                format: self.name,
                width,
                height,
                limit: self.limits.max_pixels,
            });
        }
        if pixels == 0 {
            return Err(self.corrupt(format!("it has {width}x{height} pixels")));
        }
        if decoder.total_bytes() > self.limits.max_bytes {
            return Err(self.too_many_bytes());
        }
        Ok(())
    }

    /// A panic of a decoder is a bug of its library, but must not end a run over a million files.
    fn guarded<T>(
        &self,
        decode: impl FnOnce() -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        catch_unwind(AssertUnwindSafe(decode))
            .unwrap_or_else(|_| Err(self.corrupt("the decoder panicked".to_owned())))
    }

    fn error(&self, error: ImageError) -> DecodeError {
        match error {
            ImageError::Limits(_) => self.too_many_bytes(),
            ImageError::Unsupported(error) => DecodeError::Unsupported {
                format: self.name,
                reason: error.to_string(),
            },
            error if is_end_of_file(&error) => self.truncated(),
            error => self.corrupt(error.to_string()),
        }
    }

    fn truncated(&self) -> DecodeError {
        DecodeError::Truncated {
            format: self.name,
            bytes: self.bytes.len(),
        }
    }

    fn corrupt(&self, reason: String) -> DecodeError {
        DecodeError::Corrupt {
            format: self.name,
            reason,
        }
    }

    fn too_many_bytes(&self) -> DecodeError {
        DecodeError::TooManyBytes {
            limit: self.limits.max_bytes,
        }
    }
}

/// The orientation in the EXIF data, which WebP writers may prefix as JPEG does.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    match decoder.orientation() {
        Ok(found) if found != NoTransforms => found,
        _ => prefixed_orientation(decoder).unwrap_or(NoTransforms),
    }
}

fn prefixed_orientation(decoder: &mut impl ImageDecoder) -> Option<Orientation> {
    let exif = decoder.exif_metadata().ok()??;
    Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0")?)
}

/// Did the decoder run out of bytes? Some decoders wrap the system's error, so the chain of causes is searched.
fn is_end_of_file(error: &ImageError) -> bool {
    let is_end = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
    if let ImageError::IoError(error) = error {
        return is_end(error);
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref().is_some_and(is_end) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Pnm => "PNM",
        other => other.extensions_str().first().copied().unwrap_or("unknown"),
    }
}
