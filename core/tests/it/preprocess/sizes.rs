//! The preprocessor on pictures of every shape.

use image::{Rgb, RgbImage};
use stage1_core::preprocess::{
    Arithmetic, CentreCrop, CropRounding, Error, PixelFormat, PreprocessSpec, Preprocessor, Resize,
};

const SHAPES: [(u32, u32); 8] = [
    (1, 1),
    (1, 9),
    (9, 1),
    (56, 56),
    (57, 131),
    (640, 33),
    (33, 640),
    (700, 500),
];

fn specs() -> [PreprocessSpec; 4] {
    let exact = PreprocessSpec::dinov3(56, 42);
    let bytes = PreprocessSpec {
        arithmetic: Arithmetic::Uint8,
        ..exact.clone()
    };
    let short = PreprocessSpec::dinov2(64, 56, 42);
    let floats = PreprocessSpec {
        arithmetic: Arithmetic::Float32,
        ..short.clone()
    };
    [exact, bytes, short, floats]
}

fn preprocessor(spec: PreprocessSpec) -> Preprocessor {
    Preprocessor::new(spec).expect("a valid spec")
}

/// A picture without symmetries.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let wave = |a: u32, b: u32| ((x * a + y * b) % 256) as u8;
        Rgb([wave(1, 2), wave(3, 1), 255 - wave(1, 1)])
    })
}

#[test]
fn a_plain_picture_stays_plain() {
    let level = [200_u8, 90, 17];
    for spec in specs() {
        let want = [0, 1, 2].map(|c| (f32::from(level[c]) / 255.0 - spec.mean[c]) / spec.std[c]);
        let mut preprocessor = preprocessor(spec.clone());
        for (width, height) in SHAPES {
            let out = preprocessor
                .run(&RgbImage::from_pixel(width, height, Rgb(level)))
                .expect("runs");
            for (plane, want) in out.chunks_exact(56 * 42).zip(want) {
                let near = plane.iter().all(|got| (got - want).abs() < 1e-5);
                assert!(
                    near,
                    "{spec:?} on {width}x{height}: {plane:?}, expected {want}"
                );
            }
        }
    }
}

#[test]
fn without_resizing_every_value_is_normalised_where_it_was() {
    let image = picture(42, 56);
    for spec in &specs()[..2] {
        let out = preprocessor(spec.clone()).run(&image).expect("runs");
        for (x, y, pixel) in image.enumerate_pixels() {
            for c in 0..3 {
                let got = out[(c * 56 + y as usize) * 42 + x as usize];
                let want = (f32::from(pixel.0[c]) / 255.0 - spec.mean[c]) / spec.std[c];
                assert!((got - want).abs() < 1e-6, "{x} {y} {c}: {got} {want}");
            }
        }
    }
}

#[test]
fn whole_levels_and_floats_agree_within_rounding() {
    // Each of the two passes rounds by half a level; bicubic weights amplify the first by less than 1.3, and clip.
    let [exact, exact_bytes, ..] = specs();
    for (width, height) in SHAPES {
        let image = RgbImage::from_fn(width, height, |x, y| {
            Rgb([(255 * x / width) as u8, (255 * y / height) as u8, 128])
        });
        let floats = preprocessor(exact.clone()).run(&image).expect("runs");
        let bytes = preprocessor(exact_bytes.clone()).run(&image).expect("runs");
        for (i, (a, b)) in floats.iter().zip(&bytes).enumerate() {
            let level = 1.0 / (255.0 * exact.std[i / (56 * 42)]);
            assert!((a - b).abs() < 1.1 * level, "{width}x{height}: {a} {b}");
        }
    }
}

#[test]
fn buffers_carry_nothing_from_picture_to_picture() {
    for spec in specs() {
        let mut used = preprocessor(spec.clone());
        for (width, height) in SHAPES.into_iter().rev() {
            let image = picture(width, height);
            let fresh = preprocessor(spec.clone()).run(&image).expect("runs");
            let mut out = vec![f32::NAN; used.output_len()];
            used.run_into(&image, &mut out).expect("runs");
            assert!(out == fresh, "{spec:?} on {width}x{height}");
        }
    }
}

#[test]
fn a_crop_larger_than_the_picture_is_padded_with_black() {
    let spec = PreprocessSpec {
        resize: Resize::ShortSide { size: 4 },
        crop: Some(CentreCrop {
            height: 7,
            width: 10,
            rounding: CropRounding::Floor,
        }),
        ..PreprocessSpec::dinov2(4, 7, 10)
    };
    let white = RgbImage::from_pixel(10, 5, Rgb([255; 3])); // resized to 8 x 4
    let levels = preprocessor(spec.clone()).resized_u8(&white).expect("runs");
    let out = preprocessor(spec.clone()).run(&white).expect("runs");
    for (x, y, pixel) in levels.enumerate_pixels() {
        let inside = (1..9).contains(&x) && (1..5).contains(&y);
        assert_eq!(pixel.0, [if inside { 255 } else { 0 }; 3], "{x} {y}");
        let got = out[(y * 10 + x) as usize];
        let want = (f32::from(u8::from(inside)) - spec.mean[0]) / spec.std[0];
        assert!((got - want).abs() < 1e-5, "{x} {y}: {got} {want}");
    }
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let mut short = preprocessor(PreprocessSpec::dinov2(256, 224, 224));
    let error = short
        .run_into(&picture(9, 9), &mut [0.0; 5])
        .expect_err("a short buffer");
    assert!(
        matches!(
            error,
            Error::OutputLength {
                got: 5,
                want: 150_528
            }
        ),
        "{error}"
    );
    let error = short.run(&RgbImage::new(0, 7)).expect_err("no pixels");
    assert!(
        matches!(
            error,
            Error::EmptyPicture {
                width: 0,
                height: 7
            }
        ),
        "{error}"
    );
    let error = short
        .run(&RgbImage::new(1_100_000, 1))
        .expect_err("a thread");
    assert!(
        matches!(
            error,
            Error::TooElongated {
                width: 1_100_000,
                ..
            }
        ),
        "{error}"
    );
    let mut exact = preprocessor(PreprocessSpec::dinov3(224, 224));
    let error = exact.run(&RgbImage::new(1, 400_000)).expect_err("a thread");
    assert!(matches!(error, Error::TooElongated { .. }), "{error}");
}

/// What a model gets that normalises by itself is what the normalised planes came from, at every shape and with padding.
#[test]
fn grey_levels_are_those_behind_the_normalised_planes() {
    let padded = PreprocessSpec::dinov2(40, 56, 42);
    for spec in [specs()[1].clone(), specs()[2].clone(), padded] {
        for arithmetic in [Arithmetic::Uint8, Arithmetic::Pillow] {
            let spec = PreprocessSpec {
                arithmetic,
                ..spec.clone()
            };
            spec.check_format(PixelFormat::Uint8).expect("whole levels");
            let mut preprocessor = preprocessor(spec.clone());
            for (width, height) in SHAPES {
                let image = picture(width, height);
                let mut levels = vec![7; preprocessor.output_len()];
                preprocessor
                    .run_bytes_into(&image, &mut levels)
                    .expect("runs");
                let planes = preprocessor.run(&image).expect("runs");
                let back = spec.normalisation().levels(&planes, 56 * 42);
                assert_eq!(back.as_ref(), Ok(&levels), "{spec:?} {width}x{height}");
                assert_eq!(
                    preprocessor.resized_u8(&image).expect("runs").as_raw(),
                    &levels
                );
            }
        }
    }
}

#[test]
fn fractions_of_grey_levels_are_no_bytes() {
    let floats = PreprocessSpec::dinov3(56, 42);
    let error = floats.check_format(PixelFormat::Uint8).expect_err("floats");
    assert!(matches!(error, Error::NoLevels), "{error}");
    let error = preprocessor(floats.clone())
        .run_bytes_into(&picture(9, 9), &mut [0; 3 * 56 * 42])
        .expect_err("floats");
    assert!(matches!(error, Error::NoLevels), "{error}");
    let normalisation = floats.normalisation();
    let level = |level: f32| normalisation.apply([level; 3]);
    for (name, values, whole) in [
        ("black", level(0.0), true),
        ("white", level(255.0), true),
        ("a half", level(100.5), false),
        ("below black", level(-1.0), false),
        ("above white", level(256.0), false),
        ("not a number", [f32::NAN; 3], false),
    ] {
        assert_eq!(normalisation.levels(&values, 1).is_ok(), whole, "{name}");
    }
}
