//! Operations on colours, as torchvision and Pillow define them.

use crate::random::SplitMix;
use stage1_core::{config::ColourJitter, preprocess::RgbImage};

/// ITU-R 601, as Pillow's conversion to grey.
fn luma(pixel: [u8; 3]) -> f64 {
    0.299 * f64::from(pixel[0]) + 0.587 * f64::from(pixel[1]) + 0.114 * f64::from(pixel[2])
}

fn level(value: f64) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

fn map(picture: &mut RgbImage, change: impl Fn(u8) -> u8) {
    let table: Vec<u8> = (0..=255).map(change).collect();
    for value in picture.iter_mut() {
        *value = table[usize::from(*value)];
    }
}

/// Multiplies with `factor`.
pub(super) fn brighten(picture: &mut RgbImage, factor: f64) {
    map(picture, |value| level(f64::from(value) * factor));
}

/// Moves all values away from the mean grey (factor > 1) or towards it.
pub(super) fn contrast(picture: &mut RgbImage, factor: f64) {
    let pixels = picture.pixels().map(|pixel| luma(pixel.0));
    let mean = pixels.sum::<f64>() / f64::from(picture.width() * picture.height());
    map(picture, |value| {
        level(mean + factor * (f64::from(value) - mean))
    });
}

/// Moves each pixel away from its grey (factor > 1) or towards it; 0 is a grey picture.
pub(super) fn saturate(picture: &mut RgbImage, factor: f64) {
    for pixel in picture.pixels_mut() {
        let grey = luma(pixel.0);
        pixel.0 = pixel
            .0
            .map(|value| level(grey + factor * (f64::from(value) - grey)));
    }
}

/// Inverts values from `threshold` on.
pub(super) fn solarise(picture: &mut RgbImage, threshold: u8) {
    map(picture, |value| {
        if value >= threshold {
            255 - value
        } else {
            value
        }
    });
}

/// Keeps the highest `bits` of each value.
pub(super) fn posterise(picture: &mut RgbImage, bits: u32) {
    let mask = !(0xFF_u8.checked_shr(bits).unwrap_or(0));
    map(picture, |value| value & mask);
}

/// Stretches each channel to the whole range.
pub(super) fn stretch(picture: &mut RgbImage) {
    for channel in 0..3 {
        let values = || picture.pixels().map(|pixel| pixel.0[channel]);
        let (low, high) = (values().min().unwrap_or(0), values().max().unwrap_or(255));
        if low == high {
            continue;
        }
        let (low, scale) = (f64::from(low), 255.0 / f64::from(high - low));
        for pixel in picture.pixels_mut() {
            pixel.0[channel] = level((f64::from(pixel.0[channel]) - low) * scale);
        }
    }
}

/// Flattens each channel's histogram, as Pillow's `ImageOps.equalize`.
pub(super) fn equalise(picture: &mut RgbImage) {
    for channel in 0..3 {
        let mut histogram = [0_usize; 256];
        picture
            .pixels()
            .for_each(|pixel| histogram[usize::from(pixel.0[channel])] += 1);
        let last = histogram.iter().rposition(|&n| n > 0).unwrap_or(0);
        let step = (histogram.iter().sum::<usize>() - histogram[last]) / 255;
        if step == 0 {
            continue;
        }
        let mut sum = step / 2;
        let table: Vec<u8> = histogram
            .iter()
            .map(|n| {
                let value = (sum / step).min(255) as u8;
                sum += n;
                value
            })
            .collect();
        for pixel in picture.pixels_mut() {
            pixel.0[channel] = table[usize::from(pixel.0[channel])];
        }
    }
}

/// Brightness, contrast, saturation and hue in random order.
pub(super) fn jitter(picture: &mut RgbImage, jitter: &ColourJitter, numbers: &mut SplitMix) {
    let mut order = [0, 1, 2, 3];
    numbers.shuffle(&mut order);
    let mut factor = |most: f64| numbers.between(1.0 - most, 1.0 + most);
    let factors = [jitter.brightness, jitter.contrast, jitter.saturation].map(&mut factor);
    let turn = numbers.between(-jitter.hue, jitter.hue);
    for operation in order {
        match operation {
            0 => brighten(picture, factors[0]),
            1 => contrast(picture, factors[1]),
            2 => saturate(picture, factors[2]),
            _ => turn_hue(picture, turn),
        }
    }
}

/// Turns the hue by a share of the circle.
pub(super) fn turn_hue(picture: &mut RgbImage, turn: f64) {
    for pixel in picture.pixels_mut() {
        let [r, g, b] = pixel.0.map(f64::from);
        let (high, low) = (r.max(g).max(b), r.min(g).min(b));
        let range = high - low;
        if range == 0.0 {
            continue;
        }
        // Of the channels that are largest, the first.
        let sector = if r >= high {
            (g - b) / range
        } else if g >= high {
            (b - r) / range + 2.0
        } else {
            (r - g) / range + 4.0
        };
        let hue = (sector + 6.0 * turn).rem_euclid(6.0);
        // The channel n sixths away from the hue (Smith 1978).
        let channel = |n: f64| {
            let k = (n + hue).rem_euclid(6.0);
            level(high - range * k.min(4.0 - k).clamp(0.0, 1.0))
        };
        pixel.0 = [channel(5.0), channel(3.0), channel(1.0)];
    }
}
