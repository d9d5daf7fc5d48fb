//! What a picture costs before the model sees it: decoding, resizing, and all of it, at 224 x 224 for both pipelines.

use std::{hint::black_box, io::Cursor};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use image::{ImageFormat, Rgb, RgbImage};
use stage1_core::preprocess::{Decode, Limits, PixelFormat, PreprocessSpec, Preprocessor, decode};

/// A camera-sized picture with smooth and busy parts, so that it compresses about as a photograph does.
fn picture() -> RgbImage {
    RgbImage::from_fn(640, 480, |x, y| {
        let noise = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)) >> 28;
        let texture = if (x / 80 + y / 80) % 2 == 0 { noise } else { 0 };
        let level = |base: u32| (base * 230 / 640 + texture) as u8;
        Rgb([level(x), level(y), level(x.abs_diff(y))])
    })
}

fn encoded(format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture()
        .write_to(&mut bytes, format)
        .expect("the picture can be encoded");
    bytes.into_inner()
}

fn specs() -> [(&'static str, PreprocessSpec); 2] {
    [
        ("dinov2", PreprocessSpec::dinov2(256, 224, 224)),
        ("dinov3", PreprocessSpec::dinov3(224, 224)),
    ]
}

fn decoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode 640x480");
    for format in [ImageFormat::Jpeg, ImageFormat::Png] {
        let bytes = encoded(format);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("{format:?}"), |b| {
            b.iter(|| decode(black_box(&bytes), Limits::default()));
        });
    }
    group.finish();
}

/// A camera's JPEG for a model at 224 pixels: all of it, and what `decode: scaled` needs.
fn decoding_parts(c: &mut Criterion) {
    let picture = image::imageops::resize(&picture(), 1920, 1080, image::imageops::Triangle);
    let mut jpeg = Cursor::new(Vec::new());
    picture
        .write_to(&mut jpeg, ImageFormat::Jpeg)
        .expect("the picture can be encoded");
    let mut group = c.benchmark_group("decode 1920x1080 for 224");
    for (name, decode) in [("full", Decode::Full), ("scaled", Decode::Scaled)] {
        let spec = PreprocessSpec {
            decode,
            ..PreprocessSpec::dinov3(224, 224)
        };
        let mut preprocessor = Preprocessor::new(spec).expect("the presets are valid");
        group.bench_function(name, |b| {
            b.iter(|| preprocessor.decode(black_box(jpeg.get_ref()), Limits::default()));
        });
        let decoded = preprocessor.decode(jpeg.get_ref(), Limits::default());
        let decoded = decoded.expect("a sound JPEG");
        group.bench_function(format!("{name}, then resize"), |b| {
            b.iter(|| preprocessor.run(black_box(&decoded)));
        });
    }
    group.finish();
}

fn resizing(c: &mut Criterion) {
    let picture = picture();
    let mut group = c.benchmark_group("resize, crop, normalise 640x480");
    for (name, spec) in specs() {
        let mut preprocessor = Preprocessor::new(spec).expect("the presets are valid");
        let mut out = vec![0.0; preprocessor.output_len()];
        group.bench_function(name, |b| {
            b.iter(|| preprocessor.run_into(black_box(&picture), &mut out));
        });
        if let Ok(()) = preprocessor.spec().check_format(PixelFormat::Uint8) {
            let mut out = vec![0; preprocessor.output_len()];
            group.bench_function(format!("{name}, bytes"), |b| {
                b.iter(|| preprocessor.run_bytes_into(black_box(&picture), &mut out));
            });
        }
    }
    group.finish();
}

fn everything(c: &mut Criterion) {
    let bytes = encoded(ImageFormat::Jpeg);
    let mut group = c.benchmark_group("JPEG 640x480 to model input");
    for (name, spec) in specs() {
        let mut preprocessor = Preprocessor::new(spec).expect("the presets are valid");
        let mut out = vec![0.0; preprocessor.output_len()];
        group.bench_function(name, |b| {
            b.iter(|| {
                let picture =
                    decode(black_box(&bytes), Limits::default()).expect("a sound picture");
                preprocessor.run_into(&picture, &mut out)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decoding, decoding_parts, resizing, everything);
criterion_main!(benches);
