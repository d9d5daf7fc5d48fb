use crate::{
    fixture::Fixture,
    running::{Running, red},
};
use serde_json::{Value, json};
use stage1_core::bundle::Prediction;
use stage1_runtime::{Predictor, PredictorOptions, Scorer, ScorerOptions};
use stage1_server::Server;
use std::{fs, path::PathBuf};

fn pictures(fixture: &Fixture) -> [(PathBuf, u16, &'static str); 5] {
    [
        (fixture.picture("red.png", [255, 0, 0]), 200, "answer"),
        (fixture.picture("dark.png", [40, 0, 0]), 200, "defer"),
        (
            fixture.file("broken.png", b"\x89PNG\r\n\x1a\n"),
            422,
            "error",
        ),
        (fixture.picture("overflow.png", [255, 255, 0]), 422, "error"),
        (fixture.picture("blue.png", [0, 0, 255]), 200, "answer"),
    ]
}

#[test]
fn an_image_gets_the_record_of_predict() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    #[expect(
        unused_mut,
        reason = "predicting alone needs no exclusive access once sessions are pooled"
    )]
    let mut predictor = Predictor::open(&fixture.bundle(), &PredictorOptions::default()).unwrap();
    for (path, status, decision) in pictures(&fixture) {
        let bytes = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let reply = running.post(&format!("/v1/classify?path={name}"), &[], &bytes);
        let mut want = predictor.predict_one(&bytes[..]).unwrap();
        want.path = name.to_owned();
        let got: Prediction = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!((reply.status, &got), (status, &want), "{name}");
        assert_eq!(reply.json()["decision"], decision);
        assert!(
            reply.headers["server-timing"].contains("decode;dur="),
            "{reply:?}"
        );
    }
    let named = running.post("/v1/models/m/classify", &[], &red(&fixture));
    assert_eq!(named.json()["label"], "red");
    let index = running.post("/v2/repository/index", &[], b"").json();
    assert_eq!(
        named.headers["stage1-model-version"],
        index[0]["version"].as_str().unwrap()
    );
}

#[test]
fn the_files_of_a_form_are_images() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let form = |files: &[(&str, &[u8])]| {
        let mut body = Vec::new();
        for (name, bytes) in files {
            body.extend(
                format!(
                    "--b\r\ncontent-disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\n"
                )
                .into_bytes(),
            );
            body.extend(*bytes);
            body.extend(b"\r\n");
        }
        body.extend(b"--b--\r\n");
        running.post(
            "/v1/classify",
            &[("content-type", "multipart/form-data; boundary=b")],
            &body,
        )
    };
    let red = red(&fixture);
    let one = form(&[("a.png", &red)]);
    assert_eq!(
        (one.status, &one.json()["path"], &one.json()["label"]),
        (200, &json!("a.png"), &json!("red"))
    );
    let broken = form(&[("a.png", b"x")]);
    assert_eq!(
        (broken.status, &broken.json()["decision"]),
        (422, &json!("error"))
    );
    let several = form(&[("a.png", &red), ("b.png", b""), ("c.png", &red)]);
    let records = several.json();
    let field = |name: &str| {
        records
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one[name].clone())
            .collect::<Vec<Value>>()
    };
    assert_eq!(several.status, 200);
    assert_eq!(field("path"), ["a.png", "b.png", "c.png"]);
    assert_eq!(field("decision"), ["answer", "error", "answer"]);
    let empty = form(&[]);
    assert_eq!(
        (empty.status, empty.error().as_str()),
        (400, "the form has no file")
    );
}

#[test]
fn several_bundles_are_told_apart() {
    let (a, b) = (Fixture::calibrated(), Fixture::calibrated());
    let running = Running::of(&a, |options| {
        options.bundles.push(stage1_server::BundleSource {
            name: "n".to_owned(),
            dir: b.bundle(),
        });
    });
    let red = red(&a);
    let unnamed = running.post("/v1/classify", &[], &red);
    assert_eq!(unnamed.status, 400);
    assert!(unnamed.error().contains("`m`, `n`"), "{unnamed:?}");
    for name in ["m", "n"] {
        let reply = running.post(&format!("/v1/classify?model={name}"), &[], &red);
        assert_eq!((reply.status, &reply.json()["label"]), (200, &json!("red")));
    }
    let unknown = running.post("/v1/classify?model=o", &[], &red);
    assert_eq!(unknown.status, 404);
    assert!(
        unknown.error().contains("no model `o`; there is `m`, `n`"),
        "{unknown:?}"
    );
    assert_eq!(running.metric("stage1_decisions_total{model=\"n\""), 1.0);
}

#[test]
fn what_is_not_certified_is_refused_unless_asked_for_and_then_says_so() {
    let fixture = Fixture::uncalibrated(stage1_core::certificate::BatchMode::Any);
    let scorer = Scorer::open(&fixture.bundle(), &ScorerOptions::default()).unwrap();
    let mut fingerprint = scorer.fingerprint();
    fingerprint.provider_version = "onnxruntime 1.20.0".to_owned();
    fixture.attach(fingerprint);
    let mut options = stage1_server::Options::new("m", fixture.bundle());
    let runtime = crate::running::runtime();
    let error = runtime
        .block_on(Server::start(options.clone()))
        .err()
        .unwrap()
        .to_string();
    for part in [
        "provider_version",
        "onnxruntime 1.20.0",
        "--allow-uncertified",
    ] {
        assert!(error.contains(part), "{error}");
    }
    options.allow_uncertified = true;
    let running = Running::start(options);
    let red = red(&fixture);
    let record = running.post("/v1/classify", &[], &red).json();
    assert_eq!(
        (&record["label"], &record["certified"]),
        (&json!("red"), &json!(false))
    );
    let metadata = running.get("/v2/models/m").json();
    assert_eq!(metadata["parameters"]["certified"], "false");
    assert!(
        metadata["parameters"]["not_covered"]
            .as_str()
            .unwrap()
            .contains("onnxruntime 1.20.0")
    );
    assert_eq!(
        running
            .metric("stage1_decisions_total{model=\"m\",decision=\"answer\",certified=\"false\"}"),
        1.0
    );
}

#[test]
fn a_bundle_without_a_policy_never_answers() {
    let fixture = Fixture::uncalibrated(stage1_core::certificate::BatchMode::Any);
    let mut options = stage1_server::Options::new("m", fixture.bundle());
    options.allow_uncertified = true;
    let error = crate::running::runtime()
        .block_on(Server::start(options))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("stage1 calibrate"), "{error}");
}
