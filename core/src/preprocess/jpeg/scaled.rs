//! A part of a JPEG's resolution: of each block of 8 x 8 coefficients only the first 4 x 4, 2 x 2 or 1 are transformed.

use super::super::{DecodeError, Resize, source::Source, spec::Size};
use image::{DynamicImage, GrayImage, RgbImage, metadata::Orientation};
use jpeg_decoder::{Decoder, Error, PixelFormat};

/// By how much a side may be divided.
const DIVISORS: [u16; 3] = [8, 4, 2];

/// How much larger than after the resize a picture must be at least. Scaling averages over squares: without room between
/// these and the resize's own filter, edges get softer by several grey levels; with it, by less than another filter's.
const ROOM: u32 = 2;

/// The smallest picture that is at least twice as large, on each side, as what it is resized to once it is upright; none if
/// that is the whole picture, or one whose colours this decoder leaves to others (CMYK).
///
/// `bytes` are those of `source` from which junk was cut out, and `size` what its header says, which was checked.
pub(super) fn decode(
    source: &Source<'_>,
    bytes: &[u8],
    size: Size,
    turn: Orientation,
    resize: Resize,
) -> Result<Option<DynamicImage>, DecodeError> {
    let Some(want) = smallest(size, turn, resize) else {
        return Ok(None);
    };
    let mut decoder = Decoder::new(bytes);
    let memory = usize::try_from(source.limits.max_bytes).unwrap_or(usize::MAX);
    decoder.set_max_decoding_buffer_size(memory);
    let got = decoder
        .scale(want.0, want.1)
        .map_err(|e| error(source, e))?;
    let format = decoder.info().map(|info| info.pixel_format);
    if got != want || !matches!(format, Some(PixelFormat::L8 | PixelFormat::RGB24)) {
        return Ok(None);
    }
    let samples = decoder.decode().map_err(|e| error(source, e))?;
    let (width, height) = (got.0.into(), got.1.into());
    let image = match format {
        Some(PixelFormat::L8) => {
            GrayImage::from_raw(width, height, samples).map(DynamicImage::from)
        }
        _ => RgbImage::from_raw(width, height, samples).map(DynamicImage::from),
    };
    let image = image.ok_or_else(|| source.corrupt("its samples don't fill its frame"))?;
    Ok(Some(image))
}

/// The size (width, height) of that picture, as it is stored.
fn smallest((width, height): Size, turn: Orientation, resize: Resize) -> Option<(u16, u16)> {
    let is_turned = matches!(
        turn,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    let (wide, high) = if is_turned {
        let (high, wide) = resize.target(height, width)?;
        (wide, high)
    } else {
        resize.target(width, height)?
    };
    let (width, height) = (u16::try_from(width).ok()?, u16::try_from(height).ok()?);
    let sizes = DIVISORS.map(|n| (width.div_ceil(n), height.div_ceil(n)));
    sizes
        .into_iter()
        .find(|&(w, h)| u32::from(w) >= ROOM * wide && u32::from(h) >= ROOM * high)
}

fn error(source: &Source<'_>, error: Error) -> DecodeError {
    match error {
        Error::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => source.truncated(),
        Error::Unsupported(feature) => source.unsupported(format!("{feature:?}")),
        error => source.corrupt(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_side_gets_smaller_than_twice_what_it_is_resized_to() {
        let square = |side| Resize::Exact {
            height: side,
            width: side,
        };
        let short = |size| Resize::ShortSide { size };
        let wide = Resize::Exact {
            height: 100,
            width: 200,
        };
        let (upright, turned) = (Orientation::NoTransforms, Orientation::Rotate90);
        let cases = [
            ((1920, 1080), upright, square(224), Some((960, 540))),
            ((1920, 1080), upright, square(270), Some((960, 540))),
            ((1920, 1080), upright, square(271), None),
            ((1921, 1081), upright, square(270), Some((961, 541))),
            ((1920, 1080), upright, short(256), Some((960, 540))),
            ((1920, 1080), upright, short(135), Some((480, 270))),
            ((1920, 1080), upright, short(136), Some((960, 540))),
            ((4000, 3000), upright, square(224), Some((1000, 750))),
            ((8000, 6000), upright, square(224), Some((1000, 750))),
            ((800, 600), upright, square(224), None),
            ((800, 400), upright, wide, Some((400, 200))),
            ((400, 800), turned, wide, Some((200, 400))),
            ((800, 400), turned, wide, None),
            ((1080, 1920), turned, short(256), Some((540, 960))),
        ];
        for (size, turn, resize, want) in cases {
            assert_eq!(
                smallest(size, turn, resize),
                want,
                "{size:?} {turn:?} {resize:?}"
            );
        }
    }
}
