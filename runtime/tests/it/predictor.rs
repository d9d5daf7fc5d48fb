use crate::fixture::{self, Fixture};
use stage1_core::{
    artifact::{
        Digest,
        tensors::{Tensor, save},
    },
    bundle,
    certificate::BatchMode,
};
use stage1_runtime::{
    CancelToken, DecisionKind, Error, Prediction, Predictor, PredictorOptions, Row, Scorer,
    ScorerOptions, Standing,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

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

fn paths(fixture: &Fixture) -> Vec<PathBuf> {
    let pictures = pictures(fixture).into_iter();
    pictures.map(|(path, ..)| path).collect()
}

fn batch(predictor: &Predictor, paths: &[PathBuf]) -> Vec<Prediction> {
    predictor.predict_batch(paths.to_vec()).unwrap()
}

#[test]
fn every_image_becomes_an_answer_a_deferral_or_an_error() {
    let fixture = Fixture::calibrated();
    let predictor = open(&fixture).unwrap();
    for (path, decision, label) in pictures(&fixture) {
        let (record, timings) = predictor.predict_one_timed(path.as_path()).unwrap();
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
        let bytes = predictor.predict_one(fs::read(&path).unwrap()).unwrap();
        assert_eq!(bytes.path, "");
        assert_eq!(
            (bytes.decision, bytes.label, bytes.logits),
            (record.decision, record.label, record.logits)
        );
    }
}

#[test]
fn a_batch_is_what_its_images_are_alone_in_their_order() {
    let fixture = Fixture::calibrated();
    let predictor = open(&fixture).unwrap();
    let few = pictures(&fixture);
    let paths: Vec<_> = few
        .iter()
        .cycle()
        .take(40)
        .map(|(path, ..)| path.clone())
        .collect();
    let alone: Vec<_> = paths
        .iter()
        .map(|path| predictor.predict_one(path.as_path()).unwrap())
        .collect();
    assert_eq!(batch(&predictor, &paths), alone);
}

#[test]
fn pixels_are_judged_as_the_file_that_they_were_in() {
    let fixture = Fixture::calibrated();
    let predictor = open(&fixture).unwrap();
    let path = fixture.picture("red.png", [255, 0, 0]);
    let image = image::open(&path).unwrap().into_rgb8();
    let of_file = predictor.predict_one(path.as_path()).unwrap();
    for of_pixels in [
        predictor.predict_one(&image),
        predictor.predict_one(image.clone()),
    ] {
        assert_eq!(of_pixels.unwrap().logits, of_file.logits);
    }
}

#[test]
fn the_steps_are_what_the_whole_is() {
    let fixture = Fixture::calibrated();
    let predictor = open(&fixture).unwrap();
    let whole = batch(&predictor, &paths(&fixture));
    let rows: Vec<_> = paths(&fixture)
        .iter()
        .map(|path| predictor.preprocess(path.as_path()))
        .collect();
    let good: Vec<_> = rows.iter().flatten().collect();
    assert_eq!(good.len(), 5);
    assert!(!good[0].timings().decode.is_zero());
    let mut scores = predictor.score(&good).unwrap().scores.into_iter();
    for (row, whole) in rows.iter().zip(whole) {
        let record = match row {
            Ok(_) => predictor.decide(whole.path.clone(), scores.next().unwrap()),
            Err(error) => Prediction::failed(whole.path.clone(), error),
        };
        assert_eq!(record, whole);
    }
}

#[test]
fn rows_from_elsewhere_must_have_the_models_form() {
    let fixture = Fixture::calibrated();
    let predictor = open(&fixture).unwrap();
    let len = 3 * fixture::SIDE * fixture::SIDE;
    let scored = predictor.score(&[Row::float32(vec![0.5; len])]).unwrap();
    assert_eq!(
        scored.scores[0].logits,
        predictor.logits(&vec![0.5; len]).unwrap()
    );
    assert_eq!(predictor.score::<Row>(&[]).unwrap().scores.len(), 0);
    for (name, row) in [
        ("too short", Row::float32(vec![0.0; len - 1])),
        ("grey levels", Row::uint8(vec![0; len])),
    ] {
        let sound = Row::float32(vec![0.0; len]);
        let error = predictor.score(&[sound, row]).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{name}: {error}");
        assert!(error.to_string().contains("192 values"), "{name}: {error}");
    }
}

#[test]
fn many_threads_share_a_predictor() {
    let fixture = Fixture::calibrated();
    for sessions in [1, 2] {
        let options = PredictorOptions {
            sessions,
            ..PredictorOptions::default()
        };
        let predictor = Predictor::open(&fixture.bundle(), &options).unwrap();
        assert_eq!(predictor.scorer().sessions(), sessions);
        let paths = paths(&fixture);
        let want = batch(&predictor, &paths);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let alone = paths
                            .iter()
                            .map(|path| predictor.predict_one(path.as_path()));
                        assert_eq!(alone.collect::<Result<Vec<_>, _>>().unwrap(), want);
                        assert_eq!(batch(&predictor, &paths), want);
                    }
                });
            }
        });
    }
}

#[test]
fn a_stream_is_counted() {
    let fixture = Fixture::calibrated();
    let predictor = open(&fixture).unwrap();
    let mut records = predictor.stream(paths(&fixture), &CancelToken::new());
    assert_eq!(records.by_ref().flatten().count(), 6);
    let summary = records.summary();
    let counts = (summary.answered, summary.deferred, summary.errors);
    assert_eq!((summary.images, counts), (6, (3, 1, 2)));
    assert!(summary.timings.total() > summary.timings.decide);
    let nothing = predictor.predict_batch(Vec::<PathBuf>::new()).unwrap();
    assert_eq!(nothing, []);
}

/// Counts how many images were asked for.
fn endless<'a>(
    fixture: &Fixture,
    taken: &'a AtomicUsize,
) -> impl Iterator<Item = PathBuf> + use<'a> {
    let paths = paths(fixture);
    (0..).map(move |i| {
        taken.fetch_add(1, Ordering::Relaxed);
        paths[i % paths.len()].clone()
    })
}

#[test]
fn a_stream_takes_few_images_ahead_and_stops_when_it_is_dropped() {
    let fixture = Fixture::calibrated();
    let predictor = open(&fixture).unwrap();
    let taken = AtomicUsize::new(0);
    let mut records = predictor.stream(endless(&fixture, &taken), &CancelToken::new());
    for _ in 0..500 {
        records.next().unwrap().unwrap();
    }
    let ahead = taken.load(Ordering::Relaxed) - 500;
    // Chunks of max(batch, 2 per thread): one being scored, one waiting, one being decoded, and the one that is handed out.
    let threads = thread::available_parallelism().unwrap().get();
    assert!(
        ahead <= 4 * 8.max(2 * threads).next_multiple_of(8),
        "{ahead}"
    );
    drop(records);
    assert_eq!(batch(&predictor, &paths(&fixture)).len(), 6);
}

#[test]
fn a_stream_ends_once_it_is_cancelled() {
    let fixture = Fixture::calibrated();
    let predictor = open(&fixture).unwrap();
    let (taken, cancel) = (AtomicUsize::new(0), CancelToken::new());
    let mut records = predictor.stream(endless(&fixture, &taken), &cancel);
    assert!(records.next().is_some());
    thread::scope(|scope| scope.spawn(|| cancel.cancel()).join().unwrap());
    assert!(records.next().is_none());
    assert_eq!(records.summary().images, 1);
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
    let predictor = open_uncertified(&fixture).unwrap();
    let Standing::Uncertified { differences } = predictor.standing() else {
        panic!("{:?}", predictor.standing());
    };
    assert_eq!(differences.len(), 2);
    let records = batch(&predictor, &paths(&fixture));
    assert!(
        records.iter().all(|record| !record.certified),
        "{records:?}"
    );
    assert_eq!(records[0].label.as_deref(), Some("red"));
}

#[test]
fn another_kind_of_cpu_is_covered_when_the_goldens_repeat_on_it() {
    let fixture = Fixture::uncalibrated(BatchMode::Any);
    let scorer = Scorer::open(&fixture.bundle(), &ScorerOptions::default()).unwrap();
    let mut fingerprint = scorer.fingerprint();
    fingerprint.cpu_isa = "vax".to_owned();
    fixture.attach(fingerprint);
    let predictor = open(&fixture).unwrap();
    let Standing::Rechecked { difference } = predictor.standing() else {
        panic!("{:?}", predictor.standing());
    };
    assert_eq!(
        (difference.field, &*difference.certified),
        ("cpu_isa", "vax")
    );
    let records = batch(&predictor, &paths(&fixture));
    assert!(records[0].certified && predictor.standing().is_certified());
}

/// Makes the bundle consistent in itself, but with golden logits of another session: one value of each image in `images` is
/// off.
fn falsify_golden(dir: &Path, images: &[usize]) {
    let golden = bundle::Bundle::open(dir).unwrap().golden().unwrap();
    let (shape, inputs) = golden.f32("pixel_values").unwrap();
    let (logits_shape, mut logits) = golden.f32("logits").unwrap();
    for image in images {
        logits[image * logits_shape[1]] += 1e-3;
    }
    let tensors = [
        ("logits".to_owned(), Tensor::f32(logits_shape, logits)),
        ("pixel_values".to_owned(), Tensor::f32(shape, inputs)),
    ];
    let path = dir.join("golden.safetensors");
    let old = Digest::of_file(&path).unwrap();
    let new = save(&path, &tensors.into(), &Default::default()).unwrap();
    let record = fs::read_to_string(dir.join("bundle.json")).unwrap();
    let record = record.replace(&old.to_string(), &new.to_string());
    fs::write(dir.join("bundle.json"), record).unwrap();
}

#[test]
fn golden_outputs_that_do_not_repeat_are_refused() {
    let fixture = Fixture::calibrated();
    falsify_golden(&fixture.bundle(), &[0]);
    let error = open(&fixture).err().unwrap().to_string();
    assert!(
        error.contains("golden outputs") && error.contains("image 0"),
        "{error}"
    );
    let predictor = open_uncertified(&fixture).unwrap();
    assert!(!predictor.standing().is_certified());
}

/// On the CPU that was certified the first golden image speaks for all; on another class of it they all count.
#[test]
fn a_later_golden_image_counts_on_another_kind_of_cpu() {
    let same = Fixture::calibrated();
    falsify_golden(&same.bundle(), &[1]);
    let predictor = open(&same).unwrap();
    assert!(predictor.standing().is_certified());
    let all = predictor.scorer().check_golden().unwrap();
    assert!(!all.passed() && all.worst_image == 1, "{all:?}");

    let other = Fixture::uncalibrated(BatchMode::Any);
    let scorer = Scorer::open(&other.bundle(), &ScorerOptions::default()).unwrap();
    let mut fingerprint = scorer.fingerprint();
    fingerprint.cpu_isa = "vax".to_owned();
    other.attach(fingerprint);
    falsify_golden(&other.bundle(), &[1]);
    let error = open(&other).err().unwrap().to_string();
    assert!(
        error.contains("golden outputs") && error.contains("image 1"),
        "{error}"
    );
}
