use crate::artifact::{Digest, Hasher};
use image::RgbImage;
use std::sync::LazyLock;

/// Pixels a side. On 10,000 Fashion-MNIST images (28 × 28), 16 a side put 1,225 of them into clusters at a correlation of
/// .98 (garments of one outline), 28 a side put 252.
const SIDE: usize = 32;
const PIXELS: usize = SIDE * SIDE;

/// Words of 64 signs.
pub(super) const WORDS: usize = 4;

/// Below this standard deviation (grey levels of 255) rounding and compression are most of what a correlation would see.
const FLAT: f64 = 2.0;

/// What is left of an image for comparing it with others.
#[derive(Debug, Clone)]
pub(crate) struct Signature {
    grey: Box<[u8; PIXELS]>,
    sum: i64,
    /// n Σx² − (Σx)² = n² × variance.
    spread: i64,
    /// The signs of 256 random projections: at a correlation of cos φ, each differs with probability φ/π.
    pub(super) signs: [u64; WORDS],
    /// Of an image without contrast: the digest of its colours. Such images are near-duplicates only if they agree.
    pub(super) flat: Option<Digest>,
}

impl Signature {
    pub(crate) fn of(image: &RgbImage) -> Self {
        let cells = cells(image);
        let mut grey = Box::new([0; PIXELS]);
        for (grey, cell) in grey.iter_mut().zip(&cells.grey) {
            *grey = ((cell + cells.unit / 2) / cells.unit) as u8;
        }
        let values = || grey.iter().map(|x| i64::from(*x));
        let sum: i64 = values().sum();
        let squares: i64 = values().map(|x| x * x).sum();
        let spread = PIXELS as i64 * squares - sum * sum;
        let is_flat = (spread as f64) < (FLAT * PIXELS as f64).powi(2);
        Self {
            signs: signs(&grey, sum),
            flat: is_flat.then(|| cells.digest()),
            grey,
            sum,
            spread,
        }
    }

    /// How many of the signs differ.
    pub(super) fn distance(&self, other: &Self) -> u32 {
        let words = self.signs.iter().zip(&other.signs);
        words.map(|(a, b)| (a ^ b).count_ones()).sum()
    }

    /// Pearson's correlation of the grey values; neither image is flat.
    pub(super) fn correlation(&self, other: &Self) -> f64 {
        let products = self.grey.iter().zip(other.grey.iter());
        let dot: u32 = products.map(|(x, y)| u32::from(*x) * u32::from(*y)).sum();
        let covariance = PIXELS as i64 * i64::from(dot) - self.sum * other.sum;
        covariance as f64 / (self.spread as f64 * other.spread as f64).sqrt()
    }
}

/// Sums over a grid of equal cells, in whole numbers: the same on every machine.
struct Cells {
    /// Weighted sums of 299 R + 587 G + 114 B.
    grey: Vec<u64>,
    /// The sum in `grey` of one grey level.
    unit: u64,
    /// Mean red, green and blue, in sixteenths of a level.
    colour: [u64; 3],
}

impl Cells {
    fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        let sixteenths = self
            .grey
            .iter()
            .map(|cell| (16 * cell + self.unit / 2) / self.unit);
        sixteenths.chain(self.colour).for_each(|value| {
            hasher.field(&value.to_be_bytes());
        });
        hasher.finish()
    }
}

/// The image averaged over cells that share pixels on their borders by area.
fn cells(image: &RgbImage) -> Cells {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let columns = overlaps(width);
    let mut grey = vec![0; PIXELS];
    let mut colour = [0u64; 3];
    let mut next_row = overlaps(height).into_iter().peekable();
    for (y, row) in image.as_raw().chunks_exact(3 * width).enumerate() {
        let mut line = [0u64; SIDE];
        for (x, cell, weight) in &columns {
            let pixel = &row[3 * x..3 * x + 3];
            let luma =
                299 * u64::from(pixel[0]) + 587 * u64::from(pixel[1]) + 114 * u64::from(pixel[2]);
            line[*cell] += weight * luma;
        }
        for pixel in row.as_chunks::<3>().0 {
            colour
                .iter_mut()
                .zip(pixel)
                .for_each(|(sum, value)| *sum += u64::from(*value));
        }
        while let Some((_, cell, weight)) = next_row.next_if(|(row, ..)| *row == y) {
            let cells = &mut grey[cell * SIDE..][..SIDE];
            cells
                .iter_mut()
                .zip(line)
                .for_each(|(sum, value)| *sum += weight * value);
        }
    }
    let pixels = (width * height) as u64;
    Cells {
        grey,
        unit: 1000 * pixels,
        colour: colour.map(|sum| (16 * sum + pixels / 2) / pixels),
    }
}

/// Which pixels of a line of `pixels` lie in which of the cells, and how much of them, in pixel order. Pixels are `SIDE`
/// long and cells `pixels` long, so that all borders are whole numbers.
fn overlaps(pixels: usize) -> Vec<(usize, usize, u64)> {
    let mut found = Vec::with_capacity(pixels + SIDE);
    let (mut pixel, mut cell) = (0, 0);
    while pixel < pixels && cell < SIDE {
        let start = (pixel * SIDE).max(cell * pixels);
        let (pixel_end, cell_end) = ((pixel + 1) * SIDE, (cell + 1) * pixels);
        let end = pixel_end.min(cell_end);
        found.push((pixel, cell, (end - start) as u64));
        pixel += usize::from(pixel_end == end);
        cell += usize::from(cell_end == end);
    }
    found
}

/// A direction of random signs, and their sum.
struct Direction {
    signs: [i8; PIXELS],
    sum: i64,
}

static DIRECTIONS: LazyLock<Vec<Direction>> = LazyLock::new(|| {
    let mut state = 0x5374_6167_6531_u64;
    let mut sign = || {
        if split_mix(&mut state) >> 63 == 0 {
            1
        } else {
            -1
        }
    };
    let direction = |_| {
        let signs: [i8; PIXELS] = std::array::from_fn(|_| sign());
        let sum = signs.iter().map(|sign| i64::from(*sign)).sum();
        Direction { signs, sum }
    };
    (0..64 * WORDS).map(direction).collect()
});

/// SplitMix64: a fixed sequence of well-mixed numbers.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The signs of the projections of `grey` less its mean.
fn signs(grey: &[u8; PIXELS], sum: i64) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (i, direction) in DIRECTIONS.iter().enumerate() {
        let pairs = direction.signs.iter().zip(grey);
        let dot: i32 = pairs
            .map(|(sign, x)| i32::from(*sign) * i32::from(*x))
            .sum();
        let positive = PIXELS as i64 * i64::from(dot) > sum * direction.sum;
        words[i / 64] |= u64::from(positive) << (i % 64);
    }
    words
}

#[cfg(test)]
pub(in crate::split) mod tests {
    use super::*;
    use image::Rgb;

    /// An image of random blocks, brightened, stretched and with noise.
    pub(in crate::split) fn picture(seed: u64, side: u32, gain: f64, noise: f64) -> RgbImage {
        let mut state = seed;
        let blocks: Vec<u64> = (0..64).map(|_| 60 + split_mix(&mut state) % 120).collect();
        let mut state = seed ^ u64::from(side) ^ noise.to_bits() ^ gain.to_bits();
        RgbImage::from_fn(side, side, |x, y| {
            let block = blocks[(8 * y / side * 8 + 8 * x / side) as usize] as f64;
            let draw = (split_mix(&mut state) % 1000) as f64 / 500.0 - 1.0;
            let grey = (gain * block + noise * draw).round().clamp(0.0, 255.0) as u8;
            Rgb([grey; 3])
        })
    }

    #[test]
    fn cells_cover_every_size_exactly() {
        for (width, height) in [(1, 1), (28, 28), (31, 33), (32, 32), (100, 7), (640, 480)] {
            let image = RgbImage::from_pixel(width, height, Rgb([10, 20, 30]));
            let signature = Signature::of(&image);
            let luma = (299 * 10 + 587 * 20 + 114 * 30 + 500) / 1000;
            assert!(
                signature.grey.iter().all(|x| i32::from(*x) == luma),
                "{width}x{height}"
            );
            assert!(signature.flat.is_some());
        }
    }

    #[test]
    fn correlation_sees_through_size_gain_and_noise_but_not_through_content() {
        let one = Signature::of(&picture(1, 96, 1.0, 0.0));
        for (name, image) in [
            ("larger", picture(1, 192, 1.0, 0.0)),
            ("brighter", picture(1, 96, 1.2, 0.0)),
            ("noisy", picture(1, 96, 1.0, 12.0)),
        ] {
            let other = Signature::of(&image);
            assert!(
                one.correlation(&other) > 0.98,
                "{name}: {}",
                one.correlation(&other)
            );
            assert!(
                one.distance(&other) <= 28,
                "{name}: {}",
                one.distance(&other)
            );
        }
        let other = Signature::of(&picture(2, 96, 1.0, 0.0));
        assert!(one.correlation(&other) < 0.6);
    }

    #[test]
    fn flat_images_agree_only_in_the_same_colour() {
        let flat = |rgb, side| Signature::of(&RgbImage::from_pixel(side, side, Rgb(rgb))).flat;
        assert_eq!(flat([0; 3], 10), flat([0; 3], 77));
        assert_ne!(flat([0; 3], 10), flat([1; 3], 10));
        // The same grey value, other colours.
        assert_ne!(flat([87, 0, 0], 10), flat([0, 44, 0], 10));
    }
}
