//! Files that are broken, lie, or are no pictures: an error of the right kind, no panic, no memory taken.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ImageFormat, Rgb, RgbImage};
use stage1_core::preprocess::{DecodeError, Limits, decode, decode_file};

use super::pillow;

#[test]
fn what_is_no_picture_is_told_apart() {
    let png = encoded(ImageFormat::Png, 9, 7);
    let jpeg = encoded(ImageFormat::Jpeg, 9, 7);
    let mut damaged = png.clone();
    damaged[20] ^= 1; // The header's checksum no longer fits.
    let scan = damaged_scan(&encoded(ImageFormat::Jpeg, 64, 64));
    let cases: [(&str, &[u8], &str); 9] = [
        ("nothing", b"", "the image file is empty (0 bytes)"),
        (
            "text",
            b"path,label\na.png,0\n",
            "not an image: no known format starts with `path,lab`",
        ),
        ("binary", &[0, 255, 7], "starts with `\\x00\\xff\\x07`"),
        (
            "PNG signature only",
            &png[..8],
            "truncated PNG image: its 8 bytes",
        ),
        ("half a PNG", &png[..png.len() / 2], "truncated PNG image"),
        (
            "half a JPEG",
            &jpeg[..jpeg.len() / 2],
            "truncated JPEG image",
        ),
        (
            "JPEG without its end",
            &jpeg[..jpeg.len() - 2],
            "truncated JPEG image",
        ),
        ("damaged PNG", &damaged, "damaged PNG image"),
        ("damaged JPEG", &scan, "damaged JPEG image"),
    ];
    for (name, bytes, want) in cases {
        let message = decode(bytes, Limits::default())
            .expect_err(name)
            .to_string();
        assert!(message.contains(want), "{name}: {message}");
    }
}

#[test]
fn headers_that_promise_too_much_are_refused_before_memory_is_taken() {
    let big = 60_000_u16;
    let cases = [
        ("PNG", png_header(100_000, 100_000), 100_000),
        ("JPEG", jpeg_of(big), big.into()),
        (
            "GIF",
            [
                &b"GIF89a"[..],
                &big.to_le_bytes(),
                &big.to_le_bytes(),
                &[0; 9],
            ]
            .concat(),
            big.into(),
        ),
        ("PNM", b"P6 100000 100000 255\n".to_vec(), 100_000),
        ("BMP", bmp_of(big.into()), big.into()),
    ];
    for (format, bytes, side) in cases {
        match decode(&bytes, Limits::default()).expect_err(format) {
            DecodeError::TooManyPixels {
                format: got,
                width,
                height,
                limit,
            } => {
                assert_eq!((got, width, height), (format, side, side));
                assert_eq!(limit, 1 << 26);
            }
            other => panic!("{format}: {other}"),
        }
    }
}

#[test]
fn the_limits_are_the_callers() {
    let png = encoded(ImageFormat::Png, 100, 100);
    let at_most = |max_pixels, max_bytes| {
        decode(
            &png,
            Limits {
                max_pixels,
                max_bytes,
            },
        )
    };
    assert!(at_most(10_000, 1 << 20).is_ok());
    assert!(matches!(
        at_most(9_999, 1 << 20),
        Err(DecodeError::TooManyPixels { limit: 9_999, .. })
    ));
    let encoded_len = png.len() as u64;
    assert!(encoded_len < 29_999, "the file is smaller than the picture");
    assert!(matches!(
        at_most(10_000, 29_999),
        Err(DecodeError::TooManyBytes { limit: 29_999 })
    ));
    assert!(matches!(
        at_most(10_000, encoded_len - 1),
        Err(DecodeError::TooManyBytes { .. })
    ));
}

#[test]
fn files_are_named() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("writes");
        path
    };
    let png = encoded(ImageFormat::Png, 9, 7);
    let cases: [(PathBuf, &str); 4] = [
        (dir.path().join("missing.png"), "cannot read the image"),
        (dir.path().to_owned(), "cannot read the image"),
        (write("empty.png", b""), "empty (0 bytes)"),
        (write("cut.png", &png[..40]), "truncated PNG"),
    ];
    for (path, want) in cases {
        let message = decode_file(&path, Limits::default())
            .expect_err(want)
            .to_string();
        assert!(
            message.starts_with(&path.display().to_string()),
            "{message}"
        );
        assert!(message.contains(want), "{message}");
    }
    let limits = Limits {
        max_bytes: 10,
        ..Limits::default()
    };
    let large = decode_file(&write("large.png", &png), limits).expect_err("above the limit");
    assert!(large.to_string().contains("more than 10 bytes"), "{large}");
}

#[test]
fn a_truncated_file_is_an_error_or_the_whole_picture() {
    let formats = [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::WebP,
        ImageFormat::Tiff,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Pnm,
    ];
    for format in formats {
        let bytes = encoded(format, 9, 7);
        let whole = decode(&bytes, Limits::default()).expect("a sound file");
        let mut errors = 0;
        for length in 0..bytes.len() {
            match decode(&bytes[..length], Limits::default()) {
                Ok(picture) => assert_eq!(picture, whole, "{format:?} cut to {length} bytes"),
                Err(_) => errors += 1,
            }
        }
        assert!(
            errors > bytes.len() / 2,
            "{format:?}: only {errors} of {} cuts fail",
            bytes.len()
        );
    }
}

/// Its end may have been put back by whatever repaired it: the rest of the picture would be grey. Of a progressive file, whose first
/// scan is complete, what has come is a whole picture, if a coarse one.
#[test]
fn a_jpeg_whose_data_end_too_early_is_an_error() {
    let is_jpeg = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "jpg");
    let mut tried = 0;
    for path in files(&pillow::folder()).into_iter().filter(is_jpeg) {
        let sound = fs::read(&path).expect("fixture");
        let is_sound = decode(&sound, Limits::default()).is_ok();
        assert!(is_sound, "{}", path.display());
        let is_progressive = sound.windows(2).any(|pair| pair == [0xff, 0xc2]);
        let tenths: &[usize] = if is_progressive { &[0] } else { &[0, 1, 5, 9] };
        let scan = sound.windows(2).position(|pair| pair == [0xff, 0xda]);
        let scan = scan.expect("a scan");
        for tenths in tenths {
            let cut = scan + 16 + (sound.len() - scan - 18) * tenths / 10;
            let ended = [&sound[..cut], &[0xff, 0xd9]].concat();
            let decoded = decode(&ended, Limits::default());
            assert!(decoded.is_err(), "{} cut at {tenths}", path.display());
            tried += 1;
        }
    }
    assert!(tried > 0);
}

#[test]
fn damaged_files_stay_within_the_limits() {
    let limits = Limits {
        max_pixels: 4096,
        max_bytes: 1 << 20,
    };
    let mut random = 1_u64;
    let mut next = |bound: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % bound
    };
    for path in files(&pillow::folder()) {
        let sound = fs::read(&path).expect("fixture");
        for _ in 0..300 {
            let mut bytes = sound.clone();
            for _ in 0..=next(4) {
                let at = next(bytes.len());
                bytes[at] = next(256) as u8;
            }
            if let Ok(image) = decode(&bytes, limits) {
                assert!(image.width() * image.height() <= 4096, "{}", path.display());
            }
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("fixtures");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    paths
}

fn encoded(format: ImageFormat, width: u32, height: u32) -> Vec<u8> {
    let picture = RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 20) as u8, (y * 30) as u8, 128])
    });
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("encodes");
    bytes.into_inner()
}

/// A PNG whose header is sound and whose data are missing.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
    header.extend([8, 2, 0, 0, 0]);
    let mut out = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    out.extend(&header);
    out.extend(crc32(&header).to_be_bytes());
    out.extend(b"\0\0\0\x01IDAT\0"); // The decoder reads headers up to the first data.
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes
        .iter()
        .fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

/// A sound small JPEG with another size in its frame header.
fn jpeg_of(side: u16) -> Vec<u8> {
    let mut jpeg = encoded(ImageFormat::Jpeg, 9, 7);
    let frame = jpeg
        .windows(2)
        .position(|pair| pair == [0xff, 0xc0])
        .expect("a baseline JPEG");
    jpeg[frame + 5..frame + 7].copy_from_slice(&side.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&side.to_be_bytes());
    jpeg
}

/// A JPEG whose scan has a run of ones in the middle, which no Huffman code is made of.
fn damaged_scan(jpeg: &[u8]) -> Vec<u8> {
    let scan = jpeg
        .windows(2)
        .position(|pair| pair == [0xff, 0xda])
        .expect("a scan");
    let middle = (scan + jpeg.len()) / 2;
    [&jpeg[..middle], &[0xff, 0].repeat(4), &jpeg[middle + 8..]].concat()
}

fn bmp_of(side: u32) -> Vec<u8> {
    let mut bmp = encoded(ImageFormat::Bmp, 9, 7);
    bmp[18..22].copy_from_slice(&side.to_le_bytes());
    bmp[22..26].copy_from_slice(&side.to_le_bytes());
    bmp
}
