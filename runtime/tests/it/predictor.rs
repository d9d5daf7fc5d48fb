use crate::fixture::Fixture;
use stage1_core::{artifact::Digest, bundle, certificate::BatchMode};
use stage1_runtime::{
    DecisionKind, Error, Prediction, Predictor, PredictorOptions, Scorer, ScorerOptions, Standing,
};
use std::{fs, ops::ControlFlow, path::PathBuf};

fn open(fixture: &Fixture) -> Result<Predictor, Error> {
    Predictor::open(&fixture.bundle(), &PredictorOptions::default())
}

fn open_uncertified(fixture: &Fixture) -> Result<Predictor, Error> {
    let options = PredictorOptions {
        allow_uncertified: true,
        ..PredictorOptions::default()
    };
    Predictor::open(&fixture.bundle(), &options)
}

/// One picture for each thing that can become of it.
fn pictures(fixture: &Fixture) -> Vec<(PathBuf, DecisionKind, Option<&'static str>)> {
    use DecisionKind::{Answer, Defer, Error};
    vec![
        (fixture.picture("red.png", [255, 0, 0]), Answer, Some("red")),
        (fixture.picture("dark.png", [40, 0, 0]), Defer, None),
        (
            fixture.file("broken.png", b"\x89PNG\r\n\x1a\n"),
            Error,
            None,
        ),
        (
            fixture.picture("green.png", [0, 255, 0]),
            Answer,
            Some("green"),
        ),
        (fixture.picture("overflow.png", [255, 255, 0]), Error, None),
        (
            fixture.picture("blue.png", [0, 0, 255]),
            Answer,
            Some("blue"),
        ),
    ]
}

fn batch(predictor: &mut Predictor, paths: &[PathBuf]) -> Vec<Prediction> {
    let mut records = Vec::new();
    let each = |record| {
        records.push(record);
        ControlFlow::Continue(())
    };
    predictor.predict_batch(paths, each).unwrap();
    records
}

#[test]
fn every_image_becomes_an_answer_a_deferral_or_an_error() {
    let fixture = Fixture::calibrated();
    let mut predictor = open(&fixture).unwrap();
    for (path, decision, label) in pictures(&fixture) {
        let (record, timings) = predictor.predict_path_timed(&path).unwrap();
        assert_eq!(
            (record.decision, record.label.as_deref()),
            (decision, label),
            "{record:?}"
        );
        assert_eq!(record.path, path.display().to_string());
        assert_eq!(record.certified, decision != DecisionKind::Error);
        assert!(!timings.decode.is_zero());
        let of_a_model = decision != DecisionKind::Error;
        assert_eq!(
            (record.probability.is_some(), record.logits.is_some()),
            (of_a_model, of_a_model)
        );
        assert_eq!(record.reason.is_some(), decision == DecisionKind::Defer);
        assert_eq!(record.error.is_some(), decision == DecisionKind::Error);
        let bytes = predictor
            .predict_bytes(&record.path, &fs::read(&path).unwrap())
            .unwrap();
        assert_eq!(
            (bytes.decision, bytes.label, bytes.logits),
            (record.decision, record.label, record.logits)
        );
    }
}

#[test]
fn a_batch_is_what_its_images_are_alone_in_their_order() {
    let fixture = Fixture::calibrated();
    let mut predictor = open(&fixture).unwrap();
    let few = pictures(&fixture);
    let paths: Vec<_> = few
        .iter()
        .cycle()
        .take(40)
        .map(|(path, ..)| path.clone())
        .collect();
    let alone: Vec<_> = paths
        .iter()
        .map(|path| predictor.predict_path(path).unwrap())
        .collect();
    assert_eq!(batch(&mut predictor, &paths), alone);
}

#[test]
fn a_batch_is_counted_and_can_be_stopped() {
    let fixture = Fixture::calibrated();
    let mut predictor = open(&fixture).unwrap();
    let paths: Vec<_> = pictures(&fixture)
        .into_iter()
        .map(|(path, ..)| path)
        .collect();
    let summary = predictor
        .predict_batch(&paths, |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(
        (
            summary.images,
            summary.answered,
            summary.deferred,
            summary.errors
        ),
        (6, 3, 1, 2)
    );
    assert!(summary.timings.total() > summary.timings.decide);
    let mut seen = 0;
    let stop = |_| {
        seen += 1;
        ControlFlow::Break(())
    };
    let summary = predictor.predict_batch(paths.iter().cycle(), stop).unwrap();
    assert_eq!((summary.images, seen), (1, 1));
    assert_eq!(
        predictor
            .predict_batch(Vec::<PathBuf>::new(), |_| ControlFlow::Continue(()))
            .unwrap()
            .images,
        0
    );
}

#[test]
fn without_a_policy_there_is_no_answer_however_it_is_asked_for() {
    let fixture = Fixture::uncalibrated(BatchMode::Any);
    for opened in [open(&fixture), open_uncertified(&fixture)] {
        let error = opened.err().unwrap();
        assert!(matches!(error, Error::NoPolicy { .. }), "{error:?}");
        assert!(error.to_string().contains("stage1 calibrate"), "{error}");
    }
}

#[test]
fn a_session_that_was_not_certified_is_refused_by_the_fields_that_differ() {
    let fixture = Fixture::uncalibrated(BatchMode::Any);
    let scorer = Scorer::open(&fixture.bundle(), &ScorerOptions::default()).unwrap();
    let mut fingerprint = scorer.fingerprint();
    fingerprint.provider_version = "onnxruntime 1.20.0".to_owned();
    fingerprint.cpu_isa = "vax".to_owned();
    fixture.attach(fingerprint);
    let error = open(&fixture).err().unwrap();
    let message = error.to_string();
    for part in [
        "provider_version",
        "onnxruntime 1.20.0",
        "cpu_isa",
        "vax",
        "--allow-uncertified",
    ] {
        assert!(message.contains(part), "{message:?} should name {part}");
    }
    let mut predictor = open_uncertified(&fixture).unwrap();
    let Standing::Uncertified { differences } = predictor.standing() else {
        panic!("{:?}", predictor.standing());
    };
    assert_eq!(differences.len(), 2);
    let paths: Vec<_> = pictures(&fixture)
        .into_iter()
        .map(|(path, ..)| path)
        .collect();
    let records = batch(&mut predictor, &paths);
    assert!(
        records.iter().all(|record| !record.certified),
        "{records:?}"
    );
    assert_eq!(records[0].label.as_deref(), Some("red"));
}

#[test]
fn golden_outputs_that_do_not_repeat_are_refused() {
    let fixture = Fixture::calibrated();
    let dir = fixture.bundle();
    // A bundle that is consistent in itself, but whose golden outputs are another session's.
    let golden = bundle::Bundle::open(&dir).unwrap().golden().unwrap();
    let (shape, inputs) = golden.f32("pixel_values").unwrap();
    let (logits_shape, mut logits) = golden.f32("logits").unwrap();
    logits[4] += 1e-3;
    use stage1_core::artifact::tensors::{Tensor, save};
    let tensors = [
        ("logits".to_owned(), Tensor::f32(logits_shape, logits)),
        ("pixel_values".to_owned(), Tensor::f32(shape, inputs)),
    ];
    let old = Digest::of_file(&dir.join("golden.safetensors")).unwrap();
    let new = save(
        &dir.join("golden.safetensors"),
        &tensors.into(),
        &Default::default(),
    )
    .unwrap();
    let record = fs::read_to_string(dir.join("bundle.json")).unwrap();
    fs::write(
        dir.join("bundle.json"),
        record.replace(&old.to_string(), &new.to_string()),
    )
    .unwrap();
    let error = open(&fixture).err().unwrap().to_string();
    assert!(
        error.contains("golden outputs") && error.contains("image 1"),
        "{error}"
    );
    assert!(
        !open_uncertified(&fixture)
            .unwrap()
            .standing()
            .is_certified()
    );
}

#[test]
fn a_flipped_byte_is_refused() {
    let fixture = Fixture::calibrated();
    let model = fixture.bundle().join("variants/fp32/model.onnx");
    let mut bytes = fs::read(&model).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&model, bytes).unwrap();
    let error = open_uncertified(&fixture).err().unwrap().to_string();
    assert!(
        error.contains("model.onnx") && error.contains("digest mismatch"),
        "{error}"
    );
}
