use std::{io, path::PathBuf};

/// Why bytes did not become a picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The file system refused.
    #[error("cannot read the image: {source}")]
    Io {
        /// The system's reason.
        source: io::Error,
    },
    /// There are no bytes.
    #[error("the image file is empty (0 bytes)")]
    Empty,
    /// The first bytes belong to no image format.
    #[error(
        "not an image: no known format starts with `{start}`; expected JPEG, PNG, WebP, TIFF, GIF, BMP or PNM"
    )]
    UnknownFormat {
        /// The first bytes, escaped.
        start: String,
    },
    /// A format, or a part of one, that isn't decoded.
    #[error("{format} image: {reason}; convert it to 8-bit PNG or baseline JPEG")]
    Unsupported {
        /// The format, e.g. `JPEG`.
        format: &'static str,
        /// What isn't supported.
        reason: String,
    },
    /// The header promises more pixels than the limit; nothing was allocated for them.
    #[error(
        "{format} image of {width}x{height} pixels, the limit is {limit} pixels; raise `max_pixels` if the picture is meant"
    )]
    TooManyPixels {
        /// The format.
        format: &'static str,
        /// Width in the header.
        width: u32,
        /// Height in the header.
        height: u32,
        /// The limit.
        limit: u64,
    },
    /// The file, or what decoding it takes, is larger than the limit.
    #[error(
        "the image file needs more than {limit} bytes of memory; that is the limit `max_bytes`"
    )]
    TooManyBytes {
        /// The limit.
        limit: u64,
    },
    /// The bytes end before the picture does.
    #[error("truncated {format} image: its {bytes} bytes end before the picture does")]
    Truncated {
        /// The format.
        format: &'static str,
        /// The length of the file in bytes.
        bytes: usize,
    },
    /// The bytes contradict the format.
    #[error("damaged {format} image: {reason}")]
    Corrupt {
        /// The format.
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// Any of the above, in a file.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<DecodeError>,
    },
}

/// Why a spec, or a picture under a spec, was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A field of the spec has a value that makes no sense.
    #[error("preprocessing: `{field}` is {got}, expected {expected}")]
    Spec {
        /// The field's path, e.g. `crop.width`.
        field: &'static str,
        /// Its value.
        got: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The picture has no pixels.
    #[error("the picture is {width}x{height} pixels: there is nothing to resize")]
    EmptyPicture {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The picture is so elongated that resizing it takes an enormous intermediate picture.
    #[error(
        "the picture of {width}x{height} pixels is too elongated: resizing it takes {intermediate} pixels, the limit is {limit}"
    )]
    TooElongated {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Pixels of the largest intermediate picture.
        intermediate: u64,
        /// The limit.
        limit: u64,
    },
    /// The caller's buffer has the wrong length.
    #[error("the output buffer holds {got} values, the spec writes {want} (3 x height x width)")]
    OutputLength {
        /// Length found.
        got: usize,
        /// Length expected.
        want: usize,
    },
    /// Grey levels were asked for, and the spec's resize yields none.
    #[error(
        "`arithmetic: float32` resizes to fractions of grey levels, which bytes can't hold; take `export.input: float32`, or \
         train with `preprocess.arithmetic: uint8` or `pillow`"
    )]
    NoLevels,
}
