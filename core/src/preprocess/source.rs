use super::{DecodeError, Limits, Resize, jpeg, orientation, rgb};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage};
use std::{
    error::Error as _,
    io::{self, Cursor},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// The bytes of a file of a known format, and the errors that name it.
pub(super) struct Source<'a> {
    pub(super) bytes: &'a [u8],
    format: ImageFormat,
    pub(super) limits: Limits,
}

/// A picture as it is stored, and how to turn it upright.
pub(super) type Stored = (DynamicImage, Orientation);

impl<'a> Source<'a> {
    pub(super) fn new(bytes: &'a [u8], limits: Limits) -> Result<Self, DecodeError> {
        let format = image::guess_format(bytes).map_err(|_| DecodeError::UnknownFormat {
            start: bytes[..bytes.len().min(8)].escape_ascii().to_string(),
        })?;
        Ok(Self {
            bytes,
            format,
            limits,
        })
    }

    /// A panic of a decoder is a bug of its library (tiff 0.11 has one for tiled planar files), but must not end a run over
    /// a million files.
    pub(super) fn decode(
        &self,
        resize: Option<Resize>,
        room: Vec<u8>,
    ) -> Result<RgbImage, DecodeError> {
        catch_unwind(AssertUnwindSafe(|| self.decode_unguarded(resize, room)))
            .unwrap_or_else(|_| Err(self.corrupt("the decoder panicked")))
    }

    fn decode_unguarded(
        &self,
        resize: Option<Resize>,
        room: Vec<u8>,
    ) -> Result<RgbImage, DecodeError> {
        let (mut image, orientation) = match self.format {
            ImageFormat::Jpeg => jpeg::decode(self, resize, room)?,
            _ => self.decode_other()?,
        };
        image.apply_orientation(orientation);
        rgb::to_rgb8(image).map_err(|reason| self.unsupported(reason))
    }

    fn decode_other(&self) -> Result<Stored, DecodeError> {
        let mut decoder = self.decoder()?;
        let (width, height) = decoder.dimensions();
        self.check_size(width, height, decoder.total_bytes())?;
        let orientation = stated_orientation(&mut decoder);
        let image = DynamicImage::from_decoder(decoder).map_err(|e| self.error(e))?;
        Ok((image, orientation))
    }

    /// Reads the header.
    fn decoder(&self) -> Result<impl ImageDecoder + use<'a>, DecodeError> {
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(self.limits.max_bytes);
        let mut reader = ImageReader::with_format(Cursor::new(self.bytes), self.format);
        reader.limits(limits);
        reader.into_decoder().map_err(|e| self.error(e))
    }

    /// Checks what a header promises, before memory is taken for it.
    pub(super) fn check_size(
        &self,
        width: u32,
        height: u32,
        bytes: u64,
    ) -> Result<(), DecodeError> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.limits.max_pixels {
            return Err(DecodeError::TooManyPixels {
                format: self.name(),
                width,
                height,
                limit: self.limits.max_pixels,
            });
        }
        if pixels == 0 {
            return Err(self.corrupt(format!("it has {width}x{height} pixels")));
        }
        if bytes > self.limits.max_bytes {
            return Err(self.too_many_bytes());
        }
        Ok(())
    }

    fn error(&self, error: ImageError) -> DecodeError {
        match error {
            ImageError::Limits(_) => self.too_many_bytes(),
            ImageError::Unsupported(error) => self.unsupported(error),
            error if is_end_of_file(&error) => self.truncated(),
            error => self.corrupt(error),
        }
    }

    pub(super) fn truncated(&self) -> DecodeError {
        DecodeError::Truncated {
            format: self.name(),
            bytes: self.bytes.len(),
        }
    }

    pub(super) fn corrupt(&self, reason: impl ToString) -> DecodeError {
        DecodeError::Corrupt {
            format: self.name(),
            reason: reason.to_string(),
        }
    }

    pub(super) fn unsupported(&self, reason: impl ToString) -> DecodeError {
        DecodeError::Unsupported {
            format: self.name(),
            reason: reason.to_string(),
        }
    }

    fn too_many_bytes(&self) -> DecodeError {
        DecodeError::TooManyBytes {
            limit: self.limits.max_bytes,
        }
    }

    fn name(&self) -> &'static str {
        match self.format {
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
}

/// TIFF has its orientation among its own fields, which only the decoder's own method reads.
fn stated_orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    match decoder.orientation() {
        Ok(found) if found != Orientation::NoTransforms => found,
        _ => {
            let exif = decoder.exif_metadata().ok().flatten();
            let xmp = decoder.xmp_metadata().ok().flatten();
            orientation::stated(exif.as_deref(), xmp.as_deref())
        }
    }
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
