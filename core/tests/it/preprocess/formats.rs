//! What decoding does besides colours: orientation, animations, names of files.

use std::io::Cursor;

use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::{Delay, Frame, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use stage1_core::preprocess::{Limits, PreprocessSpec, Preprocessor, decode, decode_file};

/// The corners of the stored picture, row by row.
const CORNERS: [char; 4] = ['R', 'G', 'B', 'W'];

#[test]
fn exif_orientations_turn_the_picture_upright() {
    // (EXIF value, corners of the upright picture row by row, width, height)
    let cases = [
        (1, "RGBW", 64, 32),
        (2, "GRWB", 64, 32),
        (3, "WBGR", 64, 32),
        (4, "BWRG", 64, 32),
        (5, "RBGW", 32, 64),
        (6, "BRWG", 32, 64),
        (7, "WGBR", 32, 64),
        (8, "GWRB", 32, 64),
    ];
    for (orientation, want, width, height) in cases {
        for big_endian in [false, true] {
            let jpeg = with_exif(&corner_jpeg(), &exif(orientation, big_endian));
            let upright = decode(&jpeg, Limits::default()).expect("a sound JPEG");
            assert_eq!(upright.dimensions(), (width, height), "{orientation}");
            assert_eq!(corners(&upright), want, "{orientation}");
        }
    }
}

#[test]
fn unreadable_exif_counts_as_upright() {
    let sound = exif(6, false);
    let cases: [(&str, &[u8]); 4] = [
        ("empty", b""),
        ("no EXIF", b"not EXIF at all"),
        ("cut off", &sound[..sound.len() - 9]),
        ("orientation 9", &exif(9, false)),
    ];
    for (name, exif) in cases {
        let image = decode(&with_exif(&corner_jpeg(), exif), Limits::default()).expect(name);
        assert_eq!(corners(&image), "RGBW", "{name}");
    }
}

#[test]
fn bytes_between_the_segments_of_a_jpeg_are_ignored() {
    let jpeg = with_exif(&corner_jpeg(), &exif(3, false));
    let first = 4 + usize::from(u16::from_be_bytes([jpeg[4], jpeg[5]]));
    let padded = [&jpeg[..first], &[0; 9], &jpeg[first..]].concat();
    let got = decode(&padded, Limits::default()).expect("a sound JPEG");
    assert_eq!(got, decode(&jpeg, Limits::default()).expect("a sound JPEG"));
}

#[test]
fn an_animation_is_its_first_frame() {
    let mut gif = Vec::new();
    let mut encoder = GifEncoder::new(&mut gif);
    for colour in [[255, 0, 0, 255], [0, 0, 255, 255]] {
        let picture = RgbaImage::from_pixel(5, 4, Rgba(colour));
        let frame = Frame::from_parts(picture, 0, 0, Delay::from_numer_denom_ms(100, 1));
        encoder.encode_frame(frame).expect("encodes");
    }
    drop(encoder);
    let first = decode(&gif, Limits::default()).expect("a sound GIF");
    assert_eq!(first, RgbImage::from_pixel(5, 4, Rgb([255, 0, 0])));
}

#[test]
fn the_content_decides_not_the_name() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("picture.png");
    std::fs::write(&path, corner_jpeg()).expect("writes");
    let image = decode_file(&path, Limits::default()).expect("a JPEG in spite of its name");
    assert_eq!(corners(&image), "RGBW");
}

#[test]
fn lossless_formats_round_trip() {
    let picture = RgbImage::from_fn(9, 7, |x, y| Rgb([x as u8 * 20, y as u8 * 30, 128]));
    let formats = [
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
        ImageFormat::WebP,
        ImageFormat::Pnm,
    ];
    for format in formats {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).expect("encodes");
        let got = decode(bytes.get_ref(), Limits::default()).expect("decodes");
        assert_eq!(got, picture, "{format:?}");
    }
}

#[test]
fn memory_that_was_given_back_leaves_no_trace() {
    let spec = PreprocessSpec::dinov3(16, 16);
    let mut preprocessor = Preprocessor::new(spec).expect("a sound spec");
    let jpeg = corner_jpeg();
    let want = decode(&jpeg, Limits::default()).expect("decodes");
    for (width, height) in [(300, 200), (3, 2)] {
        preprocessor.give_back(RgbImage::from_pixel(width, height, Rgb([7, 8, 9])));
        let got = preprocessor.decode_again(&jpeg, Limits::default());
        assert!(got.expect("decodes") == want, "after {width} x {height}");
    }
}

/// A picture of four colours, in blocks that JPEG keeps apart.
fn corner_jpeg() -> Vec<u8> {
    let picture = RgbImage::from_fn(64, 32, |x, y| {
        Rgb(colour(
            CORNERS[usize::from(x >= 32) + 2 * usize::from(y >= 16)],
        ))
    });
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 95)
        .encode_image(&picture)
        .expect("encodes");
    bytes
}

fn colour(corner: char) -> [u8; 3] {
    match corner {
        'R' => [230, 20, 20],
        'G' => [20, 230, 20],
        'B' => [20, 20, 230],
        _ => [230, 230, 230],
    }
}

/// The colours in the corners, by name, row by row.
fn corners(image: &RgbImage) -> String {
    let (width, height) = image.dimensions();
    let at = [
        (4, 4),
        (width - 4, 4),
        (4, height - 4),
        (width - 4, height - 4),
    ];
    at.map(|(x, y)| nearest(image.get_pixel(x, y).0))
        .iter()
        .collect()
}

fn nearest(pixel: [u8; 3]) -> char {
    let is_near = |name: &char| {
        let want = colour(*name);
        pixel.iter().zip(want).all(|(a, b)| a.abs_diff(b) < 40)
    };
    CORNERS.into_iter().find(is_near).unwrap_or('?')
}

/// An EXIF segment's payload that holds nothing but an orientation.
fn exif(orientation: u16, big_endian: bool) -> Vec<u8> {
    let short = |n: u16| {
        if big_endian {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        }
    };
    let long = |n: u32| {
        if big_endian {
            n.to_be_bytes()
        } else {
            n.to_le_bytes()
        }
    };
    let mut out = b"Exif\0\0".to_vec();
    out.extend(if big_endian { b"MM" } else { b"II" });
    out.extend(short(42));
    out.extend(long(8)); // offset of the only directory
    out.extend(short(1)); // its number of entries
    out.extend([short(0x0112), short(3)].concat()); // orientation, of type SHORT
    out.extend(long(1)); // one value
    out.extend([short(orientation), short(0)].concat());
    out.extend(long(0)); // no further directory
    out
}

/// `jpeg` with an APP1 segment behind its start marker.
fn with_exif(jpeg: &[u8], exif: &[u8]) -> Vec<u8> {
    let length = (exif.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, exif, &jpeg[2..]].concat()
}
