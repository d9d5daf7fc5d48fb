//! The IDX format of MNIST and its successors: a magic number, the lengths of the dimensions, then bytes.

use anyhow::{Context, Result, bail, ensure};

/// The element type that is read: unsigned bytes.
const UNSIGNED_BYTE: u8 = 0x08;

/// Grey images of one size, row by row.
#[derive(Debug, PartialEq)]
pub(crate) struct Images {
    /// Pixels.
    pub(crate) width: u32,
    /// Pixels.
    pub(crate) height: u32,
    pixels: Vec<u8>,
}

impl Images {
    /// Reads `[n, height, width]` bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let ([_, height, width], pixels) = parse(bytes)?;
        ensure!(
            height > 0 && width > 0,
            "expected images with pixels, got {height} x {width}"
        );
        Ok(Self {
            width,
            height,
            pixels: pixels.to_vec(),
        })
    }

    /// The images one after the other, each `height * width` bytes.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.pixels
            .chunks_exact(self.width as usize * self.height as usize)
    }
}

/// Reads `[n]` bytes.
pub(crate) fn parse_labels(bytes: &[u8]) -> Result<Vec<u8>> {
    let ([_], labels) = parse(bytes)?;
    Ok(labels.to_vec())
}

/// The lengths of `D` dimensions, and the elements.
fn parse<const D: usize>(bytes: &[u8]) -> Result<([u32; D], &[u8])> {
    let (magic, mut rest) = bytes
        .split_first_chunk::<4>()
        .context("truncated in its first 4 bytes")?;
    let dimensions = u8::try_from(D).context("more than 255 dimensions")?;
    if *magic != [0, 0, UNSIGNED_BYTE, dimensions] {
        bail!(
            "not IDX with {D} dimensions of bytes: starts with {magic:02x?}, expected [00, 00, 08, {dimensions:02x}]"
        );
    }
    let mut shape = [0; D];
    for length in &mut shape {
        let (four, after) = rest
            .split_first_chunk()
            .context("truncated in its header")?;
        *length = u32::from_be_bytes(*four);
        rest = after;
    }
    let expected = shape
        .iter()
        .try_fold(1_u64, |product, &length| product.checked_mul(length.into()));
    let expected = expected.with_context(|| format!("shape {shape:?} is too large"))?;
    let got = rest.len() as u64;
    ensure!(
        got == expected,
        "shape {shape:?} takes {expected} bytes, found {got}"
    );
    Ok((shape, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idx(shape: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, u8::try_from(shape.len()).unwrap()];
        bytes.extend(shape.iter().flat_map(|length| length.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    #[test]
    fn images_and_labels_are_read() {
        let images = Images::parse(&idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6])).unwrap();
        assert_eq!((images.height, images.width), (1, 3));
        assert_eq!(images.iter().collect::<Vec<_>>(), [[1, 2, 3], [4, 5, 6]]);
        assert_eq!(parse_labels(&idx(&[3], &[7, 8, 9])).unwrap(), [7, 8, 9]);
    }

    #[test]
    fn a_bad_file_is_refused_with_expected_and_got() {
        let whole = idx(&[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
        let cases: [(&str, Vec<u8>, &str); 8] = [
            ("empty", Vec::new(), "truncated in its first 4 bytes"),
            (
                "cut in the header",
                whole[..9].to_vec(),
                "truncated in its header",
            ),
            (
                "cut in the data",
                whole[..whole.len() - 1].to_vec(),
                "takes 6 bytes, found 5",
            ),
            (
                "a byte too many",
                [whole.clone(), vec![0]].concat(),
                "takes 6 bytes, found 7",
            ),
            ("labels", idx(&[6], &[0; 6]), "not IDX with 3 dimensions"),
            (
                "floats",
                [vec![0, 0, 0x0d, 3], whole[4..].to_vec()].concat(),
                "[00, 00, 0d, 03]",
            ),
            (
                "a huge shape",
                idx(&[u32::MAX, u32::MAX, u32::MAX], &[]),
                "too large",
            ),
            ("no pixels", idx(&[2, 0, 3], &[]), "0 x 3"),
        ];
        for (name, bytes, want) in cases {
            let error = format!("{:#}", Images::parse(&bytes).unwrap_err());
            assert!(error.contains(want), "{name}: {error}");
        }
    }
}
