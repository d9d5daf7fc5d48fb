use crate::fixture::{Fixture, SIDE};
use serde_json::{Value, json};
use stage1_core::{bundle, certificate::BatchMode, preprocess::PixelFormat, progress::Progress};
use stage1_runtime::{
    Error, OrtSession, Predictor, PredictorOptions, Scorer, ScorerOptions, SessionOptions,
};
use std::sync::atomic::{AtomicU64, Ordering};

fn options(batch: usize, threads: usize) -> ScorerOptions {
    ScorerOptions {
        batch,
        threads,
        ..ScorerOptions::default()
    }
}

#[derive(Default)]
struct Counter {
    announced: AtomicU64,
    done: AtomicU64,
}

impl Progress for Counter {
    fn start(&self, _: &str, total: u64) {
        self.announced.store(total, Ordering::Relaxed);
    }

    fn advance(&self, n: u64) {
        self.done.fetch_add(n, Ordering::Relaxed);
    }

    fn finish(&self) {}
}

#[test]
fn batches_and_threads_change_no_logit() {
    let fixture = Fixture::uncalibrated(BatchMode::Any);
    let paths: Vec<_> = (0..23u8)
        .map(|i| fixture.picture(&format!("{i}.png"), [i * 5, 90 - i * 3, i]))
        .collect();
    let score = |batch, threads| {
        let scorer = Scorer::open(&fixture.bundle(), &options(batch, threads)).unwrap();
        let counter = Counter::default();
        let scores = scorer.score_paths(&paths, &counter).unwrap();
        assert_eq!(counter.announced.load(Ordering::Relaxed), 23);
        assert_eq!(counter.done.load(Ordering::Relaxed), 23);
        scores.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    let alone = score(1, 1);
    assert_ne!(alone[0], alone[22]);
    for (batch, threads) in [(8, 1), (8, 2), (5, 4), (64, 2)] {
        assert_eq!(
            score(batch, threads),
            alone,
            "batch {batch}, {threads} threads"
        );
    }
}

#[test]
fn bad_images_keep_their_place() {
    let fixture = Fixture::uncalibrated(BatchMode::Single);
    let good = fixture.picture("good.png", [200, 0, 0]);
    let whole = std::fs::read(&good).unwrap();
    let paths = [
        fixture.file("empty.png", b""),
        good.clone(),
        fixture.file("truncated.png", &whole[..whole.len() / 2]),
        fixture.file("text.png", b"hello"),
        good,
        fixture.bundle().join("absent.png"),
    ];
    let scorer = Scorer::open(&fixture.bundle(), &options(8, 2)).unwrap();
    let scores = scorer.score_paths(&paths, &Counter::default()).unwrap();
    assert_eq!(
        scores.iter().map(Result::is_ok).collect::<Vec<_>>(),
        [false, true, false, false, true, false]
    );
    assert_eq!(scores[1].as_ref().unwrap(), scores[4].as_ref().unwrap());
    for i in [0, 2, 3, 5] {
        let message = scores[i].as_ref().unwrap_err().to_string();
        let name = paths[i].file_name().unwrap().to_str().unwrap();
        assert!(message.contains(name), "{message:?} should name {name}");
    }
}

#[test]
fn the_golden_outputs_repeat() {
    let fixture = Fixture::uncalibrated(BatchMode::Any);
    let scorer = Scorer::open(&fixture.bundle(), &options(3, 1)).unwrap();
    let check = scorer.check_golden().unwrap();
    assert!(
        check.passed() && check.images == 4 && check.scale > 1.0,
        "{check:?}"
    );
}

#[test]
fn the_model_is_the_one_that_the_bundle_names() {
    let fixture = Fixture::uncalibrated(BatchMode::Any);
    let scorer = Scorer::open(&fixture.bundle(), &ScorerOptions::default()).unwrap();
    let model = fixture.bundle().join("variants/fp32/model.onnx");
    let session = OrtSession::open(&model, &SessionOptions::default()).unwrap();
    let fingerprint = scorer.fingerprint();
    assert_eq!(fingerprint.model_digest, session.model_digest());
    assert_eq!(
        fingerprint.model_digest,
        scorer.bundle().variant("fp32").unwrap().model.digest
    );
    assert_eq!(scorer.source().model_digest, fingerprint.model_digest);
    let missing = ScorerOptions {
        variant: Some("int8".to_owned()),
        ..ScorerOptions::default()
    };
    let error = Scorer::open(&fixture.bundle(), &missing).err().unwrap();
    assert!(
        matches!(error, Error::Bundle(bundle::Error::UnknownVariant { .. })),
        "{error:?}"
    );
}

#[test]
fn half_an_image_is_refused() {
    let fixture = Fixture::uncalibrated(BatchMode::Any);
    let scorer = Scorer::open(&fixture.bundle(), &ScorerOptions::default()).unwrap();
    let error = scorer.logits(&vec![0.0; 3 * SIDE * SIDE + 1]).unwrap_err();
    assert!(error.to_string().contains("193 values"), "{error}");
    assert!(scorer.logits(&[]).unwrap().is_empty());
}

/// A model that takes grey levels gives pictures the logits of its twin that takes them normalised, and is certified as it.
#[test]
fn pictures_in_bytes_get_the_same_logits() {
    let formats = [PixelFormat::Float32, PixelFormat::Uint8];
    let fixtures = formats.map(Fixture::calibrated_of_format);
    let paths: Vec<_> = (0..11u8)
        .map(|i| fixtures[0].picture(&format!("{i}.png"), [i * 5, 90 - i * 3, i]))
        .chain([fixtures[0].file("text.png", b"hello")])
        .collect();
    let scores = fixtures.each_ref().map(|fixture| {
        let scorer = Scorer::open(&fixture.bundle(), &options(4, 2)).unwrap();
        assert!(scorer.check_golden().unwrap().passed());
        let scores = scorer.score_paths(&paths, &Counter::default()).unwrap();
        let logits = scores.into_iter().map(|scores| Some(scores.ok()?.logits));
        logits.collect::<Vec<_>>()
    });
    for (got, want) in scores[1].iter().zip(&scores[0]) {
        let pairs = got.iter().flatten().zip(want.iter().flatten());
        let near = |(got, want): (&f32, &f32)| (got - want).abs() <= 1e-5 * want.abs().max(1.0);
        assert_eq!(got.is_some(), want.is_some());
        assert!(pairs.into_iter().all(near), "{got:?}, expected {want:?}");
    }
    let predictor = Predictor::open(&fixtures[1].bundle(), &PredictorOptions::default()).unwrap();
    assert!(predictor.standing().is_certified());
    let red = std::fs::read(fixtures[1].picture("red.png", [255, 0, 0])).unwrap();
    let answer = predictor.predict_one(&red[..]).unwrap();
    assert_eq!(answer.label.as_deref(), Some("red"));
}

#[test]
fn a_model_of_bytes_takes_no_fractions_of_grey_levels() {
    let fixture = Fixture::of_format(PixelFormat::Uint8, BatchMode::Any);
    let scorer = Scorer::open(&fixture.bundle(), &ScorerOptions::default()).unwrap();
    let error = scorer
        .logits(&[100.5 / 255.0; 3 * SIDE * SIDE])
        .unwrap_err();
    assert!(matches!(error, Error::Levels { .. }), "{error:?}");
    assert!(error.to_string().contains("grey level 100."), "{error}");
}

#[test]
fn the_record_says_how_pictures_are_given() {
    for (pixels, other) in [
        (PixelFormat::Float32, json!("uint8")),
        (PixelFormat::Uint8, json!("float32")),
    ] {
        let fixture = Fixture::of_format(pixels, BatchMode::Any);
        let path = fixture.bundle().join("bundle.json");
        let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["input"]["pixels"] = other;
        std::fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
        let error = Scorer::open(&fixture.bundle(), &ScorerOptions::default());
        let error = error.err().unwrap().to_string();
        assert!(error.contains("as bundle.json says"), "{error}");
    }
}
