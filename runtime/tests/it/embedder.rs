use crate::{
    fixture::{Fixture, SIDE},
    onnx::{Input, channel_means},
};
use image::{Rgb, RgbImage, codecs::jpeg::JpegEncoder};
use stage1_core::{
    certificate::BatchMode,
    preprocess::{Decode, Limits, PreprocessSpec, Preprocessor},
};
use stage1_runtime::{Embedder, EmbedderOptions, Error, OrtSession, SessionOptions};
use std::{ops::ControlFlow, path::Path};

/// The mean of each channel.
fn session() -> OrtSession {
    let model = channel_means(&Input::default(), SIDE as i64, &[[0.0; 3]; 3], [0.0; 3]);
    OrtSession::from_bytes(&model, "means.onnx", &SessionOptions::default()).unwrap()
}

fn spec(side: usize) -> PreprocessSpec {
    PreprocessSpec {
        mean: [0.0; 3],
        std: [1.0; 3],
        ..PreprocessSpec::dinov3(side as u32, side as u32)
    }
}

fn embedder(batch: usize, threads: usize) -> Embedder {
    let options = EmbedderOptions {
        batch,
        threads,
        ..EmbedderOptions::default()
    };
    Embedder::new(session(), spec(SIDE), &options).unwrap()
}

#[test]
fn features_come_in_the_order_of_the_paths_and_bad_images_keep_their_place() {
    let fixture = Fixture::uncalibrated(BatchMode::Any);
    let mut paths: Vec<_> = (0..23u8)
        .map(|i| fixture.picture(&format!("{i}.png"), [i * 5, 90 - i * 3, i]))
        .collect();
    paths[7] = fixture.file("bad.png", b"no picture");
    for (batch, threads) in [(1, 1), (8, 2), (5, 4), (64, 2)] {
        let embedder = embedder(batch, threads);
        assert_eq!(embedder.width(), 3);
        let mut seen = Vec::new();
        let scanned = embedder.scan(&paths, |path, features| {
            let (i, case) = (seen.len(), format!("batch {batch}, {threads} threads"));
            match features {
                Ok(features) => {
                    let want = [i * 5, 90 - i * 3, i].map(|level| level as f32 / 255.0);
                    let near = features.iter().zip(want).all(|(f, w)| (f - w).abs() < 1e-5);
                    assert!(near, "{case}, {i}: {features:?} for {want:?}");
                }
                Err(error) => assert_eq!(i, 7, "{case}: {error}"),
            }
            seen.push(path.to_owned());
            ControlFlow::Continue(())
        });
        scanned.unwrap();
        assert_eq!(seen, paths);
    }
}

/// Of black and white pixels: decoded whole, their colours are clipped.
#[test]
fn a_jpeg_is_decoded_as_the_spec_says() {
    let noise = RgbImage::from_fn(128, 128, |x, y| {
        let bit = (x * 2_654_435_761 % 97 + y * 40_503 % 89) % 2;
        Rgb([255 * bit as u8; 3])
    });
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 60)
        .encode_image(&noise)
        .unwrap();
    let fixture = Fixture::uncalibrated(BatchMode::Any);
    let path = fixture.file("noise.jpg", &jpeg);
    let features = |decode: Decode| {
        let spec = PreprocessSpec {
            decode,
            ..spec(SIDE)
        };
        let mut preprocessor = Preprocessor::new(spec.clone()).unwrap();
        let image = preprocessor.decode(&jpeg, Limits::default()).unwrap();
        let pixels = preprocessor.run(&image).unwrap();
        let planes = pixels.chunks_exact(SIDE * SIDE);
        let want: Vec<f32> = planes
            .map(|plane| plane.iter().sum::<f32>() / plane.len() as f32)
            .collect();
        let embedder = Embedder::new(session(), spec, &EmbedderOptions::default()).unwrap();
        let mut got = Vec::new();
        let take = |_: &Path, features: Result<&[f32], _>| {
            got = features.unwrap().to_vec();
            ControlFlow::Continue(())
        };
        embedder.scan([&path], take).unwrap();
        let near = got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-5);
        assert!(near, "{decode:?}: {got:?} for {want:?}");
        got
    };
    let (full, scaled) = (features(Decode::Full), features(Decode::Scaled));
    assert!((full[0] - scaled[0]).abs() > 1e-4, "{full:?} {scaled:?}");
}

#[test]
fn the_work_can_be_stopped() {
    let fixture = Fixture::uncalibrated(BatchMode::Any);
    let paths = vec![fixture.picture("a.png", [1, 2, 3]); 50];
    let mut seen = 0;
    let scanned = embedder(2, 2).scan(&paths, |_, _| {
        seen += 1;
        match seen {
            3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    scanned.unwrap();
    assert_eq!(seen, 3);
}

#[test]
fn another_size_than_the_models_is_refused() {
    let refused = Embedder::new(session(), spec(2 * SIDE), &EmbedderOptions::default());
    let error = refused.err().unwrap();
    assert!(matches!(error, Error::Model { .. }), "{error}");
    for part in ["means.onnx", "input", "[N, 3, 16, 16]"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}
