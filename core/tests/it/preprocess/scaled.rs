//! Decoding a JPEG at a part of its size: what it saves must not show after the resize.

use super::pillow;
use image::{ImageFormat, Rgb, RgbImage, codecs::jpeg::JpegEncoder};
use stage1_core::preprocess::{Decode, Limits, PreprocessSpec, Preprocessor, decode, decode_file};
use std::{fs, io::Cursor, path::Path};

fn preprocessor(decode: Decode, spec: PreprocessSpec) -> Preprocessor {
    Preprocessor::new(PreprocessSpec { decode, ..spec }).expect("a valid spec")
}

fn scaled(side: u32) -> Preprocessor {
    preprocessor(Decode::Scaled, PreprocessSpec::dinov3(side, side))
}

fn photograph() -> Vec<u8> {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/preprocess");
    fs::read(goldens.join("rocket.jpg")).expect("a golden")
}

/// The mean and the largest difference in grey levels.
fn difference(a: &RgbImage, b: &RgbImage) -> (f64, u8) {
    assert_eq!(a.dimensions(), b.dimensions());
    let pairs = a.as_raw().iter().zip(b.as_raw());
    let differences: Vec<_> = pairs.map(|(a, b)| a.abs_diff(*b)).collect();
    let sum: u64 = differences.iter().map(|d| u64::from(*d)).sum();
    let largest = differences.iter().max().expect("pixels");
    (sum as f64 / differences.len() as f64, *largest)
}

#[test]
fn a_photograph_is_nearly_the_same_after_the_resize() {
    let jpeg = photograph();
    let whole = decode(&jpeg, Limits::default()).expect("a sound JPEG");
    let mut cases = 0;
    for side in [40, 56, 93] {
        for spec in [
            PreprocessSpec::dinov3(side, side),
            PreprocessSpec::dinov2(side + side / 7, side, side),
        ] {
            let mut full = preprocessor(Decode::Full, spec.clone());
            let mut part = preprocessor(Decode::Scaled, spec);
            let few = part.decode(&jpeg, Limits::default()).expect("a sound JPEG");
            let ratio = f64::from(whole.width()) / f64::from(few.width());
            assert!(
                ratio > 1.9,
                "{side}: {:?} of {:?}",
                few.dimensions(),
                whole.dimensions()
            );
            assert!(few.width() >= 2 * side && few.height() >= 2 * side);
            let want = full.resized_u8(&whole).expect("resized");
            let got = part.resized_u8(&few).expect("resized");
            let (mean, largest) = difference(&got, &want);
            // Bilinear and bicubic are 0.85 apart at 40 pixels.
            assert!(mean < 1.0, "{side}: mean {mean}, largest {largest}");
            cases += 1;
        }
    }
    assert_eq!(cases, 6);
}

#[test]
fn what_is_not_much_larger_or_no_jpeg_is_decoded_whole() {
    let jpeg = photograph();
    let whole = decode(&jpeg, Limits::default()).expect("a sound JPEG");
    let side = whole.width().min(whole.height());
    let got = scaled(side.div_ceil(4) + 1).decode(&jpeg, Limits::default());
    assert!(got.expect("a sound JPEG") == whole);
    let mut png = Cursor::new(Vec::new());
    whole.write_to(&mut png, ImageFormat::Png).expect("encodes");
    let got = scaled(16).decode(png.get_ref(), Limits::default());
    assert!(got.expect("a sound PNG") == whole);
}

#[test]
fn every_kind_of_jpeg_is_upright_and_has_its_colours() {
    let folder = pillow::folder();
    let mut seen = 0;
    for entry in fs::read_dir(&folder).expect("fixtures") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|extension| extension != "jpg") {
            continue;
        }
        let mut part = scaled(4);
        let few = part
            .decode_file(&path, Limits::default())
            .expect("a sound JPEG");
        let whole = decode_file(&path, Limits::default()).expect("a sound JPEG");
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let is_whole = name == "cmyk.jpg" || name == "ycck.jpg";
        assert_eq!(few.dimensions() == whole.dimensions(), is_whole, "{name}");
        let got = part.resized_u8(&few).expect("resized");
        let want = part.resized_u8(&whole).expect("resized");
        let (mean, largest) = difference(&got, &want);
        // Of 24 x 16 pixels of a gradient 12 x 8 are left, and the colours have half of that.
        assert!(mean < 6.0, "{name}: mean {mean}, largest {largest}");
        seen += 1;
    }
    assert!(seen >= 6, "{seen} fixtures");
}

#[test]
fn broken_files_are_told_apart_as_when_they_are_decoded_whole() {
    let picture = RgbImage::from_fn(256, 256, |x, y| Rgb([x as u8, y as u8, (x ^ y) as u8]));
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 90)
        .encode_image(&picture)
        .expect("encodes");
    let scan = jpeg
        .windows(2)
        .position(|pair| pair == [0xff, 0xda])
        .expect("a scan");
    let middle = (scan + jpeg.len()) / 2;
    let damaged = [&jpeg[..middle], &[0xff, 0].repeat(4), &jpeg[middle + 8..]].concat();
    let limits = |max_pixels| Limits {
        max_pixels,
        ..Limits::default()
    };
    let cases: [(&str, &[u8], u64, &str); 4] = [
        (
            "half of it",
            &jpeg[..middle],
            1 << 20,
            "truncated JPEG image",
        ),
        (
            "without its end",
            &jpeg[..jpeg.len() - 2],
            1 << 20,
            "truncated JPEG image",
        ),
        ("damaged", &damaged, 1 << 20, "damaged JPEG image"),
        (
            "of too many pixels",
            &jpeg,
            256 * 256 - 1,
            "JPEG image of 256x256 pixels, the limit is",
        ),
    ];
    for (name, bytes, max_pixels, want) in cases {
        let error = scaled(32)
            .decode(bytes, limits(max_pixels))
            .expect_err(name);
        assert!(error.to_string().contains(want), "{name}: {error}");
    }
    let got = scaled(32)
        .decode(&jpeg, limits(256 * 256))
        .expect("a sound JPEG");
    assert_eq!(got.dimensions(), (64, 64));
}

/// Nothing but errors and pictures comes of bytes that were changed anywhere.
#[test]
fn damaged_bytes_do_no_harm() {
    let sound = photograph();
    let mut random = 7_u64;
    let mut next = |bound: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % bound
    };
    let part = scaled(40);
    for _ in 0..200 {
        let mut bytes = sound.clone();
        for _ in 0..=next(4) {
            let at = next(bytes.len());
            bytes[at] = next(256) as u8;
        }
        if let Ok(image) = part.decode(&bytes, Limits::default()) {
            assert!(image.width() > 0 && image.height() > 0);
        }
    }
}
