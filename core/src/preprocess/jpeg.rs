//! JPEG, by the decoder behind the `image` crate, but in its strict mode: otherwise what is missing or damaged comes out as
//! grey without an error, and a model would be trained on, or asked about, a picture that nobody took.

mod markers;
mod scaled;

use super::{
    DecodeError, Resize, orientation,
    source::{Source, Stored},
};
use image::{DynamicImage, GrayImage, RgbImage, metadata::Orientation};
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::{JpegDecoder, errors::DecodeErrors};

/// The most bytes per pixel that decoding takes: the picture, and the coefficients of a progressive file's components.
const BYTES_PER_PIXEL: u64 = 3 + 4 * 2;

/// The picture, in `samples` unless a part of the resolution is enough.
pub(super) fn decode(
    source: &Source<'_>,
    resize: Option<Resize>,
    mut samples: Vec<u8>,
) -> Result<Stored, DecodeError> {
    if !markers::reach_the_end(source.bytes) {
        return Err(source.truncated());
    }
    let bytes = markers::with_stop(&markers::without_junk(source.bytes));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&*bytes), options());
    decoder.decode_headers().map_err(|e| error(source, e))?;
    let (width, height) = size(source, &decoder)?;
    source.check_size(
        width,
        height,
        u64::from(width) * u64::from(height) * BYTES_PER_PIXEL,
    )?;
    if let Some(resize) = resize {
        let turn = stated(&decoder);
        let image = scaled::decode(source, &bytes, (width, height), turn, resize)?;
        if let Some(image) = image {
            return Ok((image, turn));
        }
    }
    let is_grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let colours = if is_grey {
        ColorSpace::Luma
    } else {
        ColorSpace::RGB
    };
    decoder.set_options(options().jpeg_set_out_colorspace(colours));
    let size = decoder.output_buffer_size();
    let size = size.ok_or_else(|| source.corrupt("its frame has no size"))?;
    // What the decoder doesn't write mustn't be a part of another picture.
    samples.clear();
    samples.resize(size, 0);
    decoder
        .decode_into(&mut samples)
        .map_err(|e| error(source, e))?;
    let image = if is_grey {
        GrayImage::from_raw(width, height, samples).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(width, height, samples).map(DynamicImage::from)
    };
    let image = image.ok_or_else(|| source.corrupt("its samples don't fill its frame"))?;
    Ok((image, stated(&decoder)))
}

fn stated(decoder: &JpegDecoder<ZCursor<&[u8]>>) -> Orientation {
    let exif = decoder.exif().map(Vec::as_slice);
    let xmp = decoder.xmp().map(Vec::as_slice);
    orientation::stated(exif, xmp)
}

fn options() -> DecoderOptions {
    // The size is checked against the caller's limits; 65535 is the format's own.
    DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
}

fn size(
    source: &Source<'_>,
    decoder: &JpegDecoder<ZCursor<&[u8]>>,
) -> Result<(u32, u32), DecodeError> {
    let (width, height) = decoder.dimensions().unwrap_or_default();
    match (u32::try_from(width), u32::try_from(height)) {
        (Ok(width), Ok(height)) => Ok((width, height)),
        _ => Err(source.corrupt(format!("its frame is {width}x{height}"))),
    }
}

fn error(source: &Source<'_>, error: DecodeErrors) -> DecodeError {
    match error {
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => source.truncated(),
        DecodeErrors::Unsupported(scheme) => source.unsupported(format!("{scheme:?}")),
        error => source.corrupt(error),
    }
}
