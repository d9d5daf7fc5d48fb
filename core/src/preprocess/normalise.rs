use super::{CentreCrop, PixelFormat, PreprocessSpec, pixels::NotLevels, spec::Size};
use fast_image_resize::pixels::U8x3;

/// `grey level * scale + offset` per channel (red, green, blue), which is `(level / 255 - mean) / std`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// Per channel, for grey levels 0 to 255.
    pub scale: [f32; 3],
    /// Per channel: what black becomes.
    pub offset: [f32; 3],
}

impl Normalisation {
    /// From mean and standard deviation per channel, for values in 0..1.
    pub fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        let channel = |c: usize| (f64::from(mean[c]), f64::from(std[c]));
        Self {
            scale: [0, 1, 2].map(|c| (1.0 / (255.0 * channel(c).1)) as f32),
            offset: [0, 1, 2].map(|c| (-channel(c).0 / channel(c).1) as f32),
        }
    }

    /// Three grey levels, normalised.
    pub fn apply(&self, levels: [f32; 3]) -> [f32; 3] {
        [0, 1, 2].map(|c| levels[c] * self.scale[c] + self.offset[c])
    }

    /// The grey levels that normalised images came from: `[n, 3, height, width]` to `[n, height, width, 3]`, where an image
    /// has `pixels` pixels.
    ///
    /// # Errors
    /// [`NotLevels`] unless every value is a whole level from 0 to 255, but for rounding.
    pub fn levels(&self, normalised: &[f32], pixels: usize) -> Result<Vec<u8>, NotLevels> {
        /// In levels. A float32 of a normalised pixel is within 1e-4 of its level.
        const ROUNDING: f32 = 1e-3;
        let mut levels = vec![0; normalised.len()];
        let images = levels.chunks_exact_mut(3 * pixels);
        for (image, planes) in images.zip(normalised.chunks_exact(3 * pixels)) {
            for (i, value) in planes.iter().enumerate() {
                let (channel, pixel) = (i / pixels, i % pixels);
                let level = (value - self.offset[channel]) / self.scale[channel];
                let whole = level.round();
                // NaN is no level either.
                if !((level - whole).abs() <= ROUNDING && (0.0..=255.0).contains(&whole)) {
                    return Err(NotLevels {
                        value: *value,
                        level,
                    });
                }
                image[3 * pixel + channel] = whole as u8;
            }
        }
        Ok(levels)
    }
}

impl PreprocessSpec {
    /// What is done with the grey levels after the resize.
    pub fn normalisation(&self) -> Normalisation {
        Normalisation::new(self.mean, self.std)
    }

    /// Whether pictures can be handed out in this format, and what a model must then do itself.
    ///
    /// # Errors
    /// [`super::Error::NoLevels`] for [`PixelFormat::Uint8`] of a spec that resizes in floats.
    pub fn check_format(&self, format: PixelFormat) -> Result<(), super::Error> {
        match (format, self.arithmetic) {
            (PixelFormat::Uint8, super::Arithmetic::Float32) => Err(super::Error::NoLevels),
            _ => Ok(()),
        }
    }
}

/// Where the output lies in the resized picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Size of the resized picture.
    pub(super) source: (usize, usize),
    /// Size of the output, as (width, height).
    pub(super) size: (usize, usize),
    /// The output's first column and row in the resized picture; negative where it is padded.
    pub(super) start: (i64, i64),
}

impl Window {
    /// `crop` (or all) of a resized picture of `width` x `height`.
    pub(super) fn new((width, height): Size, crop: Option<CentreCrop>) -> Self {
        let source = (width as usize, height as usize);
        match crop {
            None => Self {
                source,
                size: source,
                start: (0, 0),
            },
            Some(crop) => Self {
                source,
                size: (crop.width as usize, crop.height as usize),
                start: (
                    crop.rounding.start(width, crop.width),
                    crop.rounding.start(height, crop.height),
                ),
            },
        }
    }

    /// Number of pixels of the output.
    pub(super) fn pixels(&self) -> usize {
        self.size.0 * self.size.1
    }

    /// The source pixels of each row of the output with the column where they go; empty for rows of padding.
    pub(super) fn rows<'a, P>(&self, pixels: &'a [P]) -> impl Iterator<Item = (usize, &'a [P])> {
        let (width, height) = self.source;
        let (skipped, padding) = split_start(self.start.0);
        let count = (width - skipped).min(self.size.0 - padding);
        let first = self.start.1;
        (0..self.size.1).map(move |row| match usize::try_from(first + row as i64) {
            Ok(row) if row < height => {
                let at = row * width + skipped;
                (padding, &pixels[at..at + count])
            }
            _ => (0, &pixels[..0]),
        })
    }
}

/// A start as (pixels skipped in the source, pixels of padding in the output).
fn split_start(start: i64) -> (usize, usize) {
    let length = start.unsigned_abs() as usize;
    if start < 0 { (0, length) } else { (length, 0) }
}

/// A pixel as three grey levels.
pub(super) trait Levels: Copy {
    fn levels(self) -> [f32; 3];
}

impl Levels for U8x3 {
    fn levels(self) -> [f32; 3] {
        self.0.map(f32::from)
    }
}

impl Levels for [f32; 3] {
    fn levels(self) -> [f32; 3] {
        self
    }
}

/// Writes the window of a resized picture as float32 planes `[3, height, width]`.
pub(super) fn write_planes(
    pixels: &[impl Levels],
    window: Window,
    affine: Normalisation,
    out: &mut [f32],
) {
    let [red, green, blue] = split_planes(out, window.pixels());
    let width = window.size.0;
    for (row, (column, pixels)) in window.rows(pixels).enumerate() {
        let whole = row * width..(row + 1) * width;
        let [red, green, blue] =
            [&mut *red, &mut *green, &mut *blue].map(|plane| &mut plane[whole.clone()]);
        if pixels.len() < width {
            // Padding is black, that is level 0.
            red.fill(affine.offset[0]);
            green.fill(affine.offset[1]);
            blue.fill(affine.offset[2]);
        }
        let columns = red[column..]
            .iter_mut()
            .zip(&mut green[column..])
            .zip(&mut blue[column..]);
        for (((red, green), blue), &pixel) in columns.zip(pixels) {
            [*red, *green, *blue] = affine.apply(pixel.levels());
        }
    }
}

fn split_planes(out: &mut [f32], pixels: usize) -> [&mut [f32]; 3] {
    let (red, rest) = out.split_at_mut(pixels);
    let (green, blue) = rest.split_at_mut(pixels);
    [red, green, blue]
}

#[cfg(test)]
mod tests {
    use super::super::CropRounding;
    use super::*;

    type Rows<'a> = &'a [(usize, &'a [u8])];

    #[test]
    fn windows_cut_and_pad() {
        // A 3 x 2 picture of the numbers 0..6, cropped to height x width.
        let picture: Vec<u8> = (0..6).collect();
        let cases: [(&str, Size, Rows); 4] = [
            ("whole", (2, 3), &[(0, &[0, 1, 2]), (0, &[3, 4, 5])]),
            ("inside", (1, 1), &[(0, &[1])]),
            ("wider", (1, 6), &[(1, &[0, 1, 2])]),
            (
                "higher",
                (5, 1),
                &[(0, &[]), (0, &[1]), (0, &[4]), (0, &[]), (0, &[])],
            ),
        ];
        for (name, (height, width), want) in cases {
            let crop = CentreCrop {
                height,
                width,
                rounding: CropRounding::Floor,
            };
            let window = Window::new((3, 2), Some(crop));
            let got: Vec<_> = window.rows(&picture).collect();
            assert_eq!(got, want, "{name}");
        }
    }
}
