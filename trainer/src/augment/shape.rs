//! Operations on neighbourhoods and places.

use stage1_core::preprocess::RgbImage;

/// ImageNet's mean colour: what lies outside a picture.
const OUTSIDE: [f64; 3] = [124.0, 116.0, 104.0];

/// The part of `image` from (x, y) of (width, height).
pub(super) fn cut(image: &RgbImage, (x, y): (u32, u32), (width, height): (u32, u32)) -> RgbImage {
    let row_bytes = 3 * image.width() as usize;
    let (first, bytes) = (3 * x as usize, 3 * width as usize);
    let rows = image.as_raw().chunks_exact(row_bytes).skip(y as usize);
    let pixels = rows
        .take(height as usize)
        .flat_map(|row| row[first..first + bytes].iter().copied());
    RgbImage::from_raw(width, height, pixels.collect()).expect("three bytes per pixel of the part")
}

/// A Gaussian blur; the border is continued.
pub(super) fn blur(picture: &mut RgbImage, sigma: f64) {
    let radius = (3.0 * sigma).ceil() as i64;
    let weight = |d: i64| (-0.5 * (d as f64 / sigma).powi(2)).exp();
    let sum: f64 = (-radius..=radius).map(weight).sum();
    let kernel: Vec<f64> = (-radius..=radius).map(|d| weight(d) / sum).collect();
    convolve(picture, &kernel, (1, 0));
    convolve(picture, &kernel, (0, 1));
}

fn convolve(picture: &mut RgbImage, kernel: &[f64], (dx, dy): (i64, i64)) {
    let source = picture.clone();
    let radius = (kernel.len() / 2) as i64;
    let (right, bottom) = (
        i64::from(source.width()) - 1,
        i64::from(source.height()) - 1,
    );
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let mut sum = [0.0; 3];
        for (weight, d) in kernel.iter().zip(-radius..) {
            let x = (i64::from(x) + d * dx).clamp(0, right) as u32;
            let y = (i64::from(y) + d * dy).clamp(0, bottom) as u32;
            let neighbour = source.get_pixel(x, y).0;
            for (sum, value) in sum.iter_mut().zip(neighbour) {
                *sum += weight * f64::from(value);
            }
        }
        pixel.0 = sum.map(|value| value.round().clamp(0.0, 255.0) as u8);
    }
}

/// Moves away from a smoothed picture (factor > 1) or towards it, as Pillow's `ImageEnhance.Sharpness`.
pub(super) fn sharpen(picture: &mut RgbImage, factor: f64) {
    let source = picture.clone();
    let (width, height) = source.dimensions();
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        if x == 0 || y == 0 || x + 1 >= width || y + 1 >= height {
            continue;
        }
        for channel in 0..3 {
            let at =
                |dx: u32, dy: u32| f64::from(source.get_pixel(x + dx - 1, y + dy - 1).0[channel]);
            let around: f64 = (0..9).map(|i| at(i % 3, i / 3)).sum();
            let (centre, smooth) = (at(1, 1), (around + 4.0 * at(1, 1)) / 13.0);
            let value = smooth + factor * (centre - smooth);
            pixel.0[channel] = value.round().clamp(0.0, 255.0) as u8;
        }
    }
}

/// The picture at which the place (x, y), counted from its centre, shows what was at (a x + b y + c, d x + e y + f);
/// bilinear.
pub(super) fn warp(picture: &mut RgbImage, [a, b, c, d, e, f]: [f64; 6]) {
    let source = picture.clone();
    let (width, height) = (f64::from(source.width()), f64::from(source.height()));
    let (cx, cy) = ((width - 1.0) / 2.0, (height - 1.0) / 2.0);
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let (x, y) = (f64::from(x) - cx, f64::from(y) - cy);
        let (sx, sy) = (a * x + b * y + c + cx, d * x + e * y + f + cy);
        pixel.0 = sample(&source, sx, sy).map(|value| value.round().clamp(0.0, 255.0) as u8);
    }
}

fn sample(source: &RgbImage, x: f64, y: f64) -> [f64; 3] {
    let (left, top) = (x.floor(), y.floor());
    let (u, v) = (x - left, y - top);
    let at = |dx: f64, dy: f64| {
        let (x, y) = (left + dx, top + dy);
        let inside = x >= 0.0 && y >= 0.0;
        let found = inside.then(|| source.get_pixel_checked(x as u32, y as u32));
        found
            .flatten()
            .map_or(OUTSIDE, |pixel| pixel.0.map(f64::from))
    };
    let (p, q, r, s) = (at(0.0, 0.0), at(1.0, 0.0), at(0.0, 1.0), at(1.0, 1.0));
    [0, 1, 2].map(|c| (1.0 - v) * ((1.0 - u) * p[c] + u * q[c]) + v * ((1.0 - u) * r[c] + u * s[c]))
}
