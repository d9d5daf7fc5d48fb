//! What the runtime adds to ONNX Runtime: a run of the session alone, the scorer around it, and the queue of a stream.
//!
//! The model is small (a DINOv3 of two blocks at 32 pixels, a golden), so that it doesn't hide what is around it.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stage1_benches::bundle;
use stage1_core::{
    model::Weights,
    preprocess::{PreprocessSpec, RgbImage},
};
use stage1_exporter::export_embedding;
use stage1_runtime::{CancelToken, OrtSession, Predictor, PredictorOptions, SessionOptions};
use std::{hint::black_box, path::Path};

const SIDE: usize = 32;
const WIDTH: usize = 32;
const OUTPUT: &str = "features";
const IMAGES: usize = 256;

fn model() -> Vec<u8> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones/dinov3-vit-mlp");
    let weights = Weights::open(&golden).expect("a golden");
    let exported = export_embedding(&weights, SIDE, SIDE).expect("exported");
    exported.model
}

/// A predictor of the model, with sessions of one thread: more would only wait for each other.
fn predictor(dir: &Path) -> Predictor {
    let labels = (0..WIDTH).map(|class| format!("class {class}")).collect();
    let preprocess = PreprocessSpec::dinov3(SIDE as u32, SIDE as u32);
    let dir = dir.join("bundle");
    bundle::create(&dir, &model(), OUTPUT, labels, preprocess).expect("made");
    let options = PredictorOptions {
        threads: 1,
        batch: 1,
        ..PredictorOptions::default()
    };
    Predictor::open(&dir, &options).expect("opened")
}

fn picture() -> RgbImage {
    RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
        image::Rgb([x as u8, y as u8, 128])
    })
}

fn sessions(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let predictor = predictor(dir.path());
    let options = SessionOptions {
        intra_threads: 1,
        ..SessionOptions::default()
    };
    let mut session = OrtSession::from_bytes(&model(), "model", &options).expect("opened");
    let row = predictor.preprocess(picture()).expect("a picture");
    let pixels = vec![0.5; 3 * SIDE * SIDE];
    let mut group = c.benchmark_group("one image of 32x32");
    group.bench_function("session", |b| {
        b.iter(|| session.run_named(black_box(&pixels), [1, 3, SIDE, SIDE], &[OUTPUT]));
    });
    group.bench_function("score", |b| {
        b.iter(|| predictor.score(black_box(std::slice::from_ref(&row))));
    });
    group.bench_function("preprocess", |b| {
        b.iter(|| predictor.preprocess(black_box(&picture())));
    });
    group.bench_function("predict", |b| {
        b.iter(|| predictor.predict_one(black_box(&picture())));
    });
    group.finish();
}

fn queue(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let predictor = predictor(dir.path());
    let pictures = vec![picture(); IMAGES];
    let mut group = c.benchmark_group("many images of 32x32");
    group.throughput(Throughput::Elements(IMAGES as u64));
    group.bench_function("one by one", |b| {
        b.iter(|| {
            for picture in &pictures {
                black_box(predictor.predict_one(picture)).expect("judged");
            }
        });
    });
    group.bench_function("queue", |b| {
        b.iter(|| {
            let records = predictor.stream(pictures.clone(), &CancelToken::new());
            assert_eq!(records.filter(Result::is_ok).count(), IMAGES);
        });
    });
    group.finish();
}

criterion_group!(benches, sessions, queue);
criterion_main!(benches);
