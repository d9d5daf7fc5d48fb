//! New bundles under a running server.

use crate::{
    client::Client,
    fixture::Fixture,
    running::{Running, eventually, red},
};
use stage1_core::preprocess::PixelFormat;
use stage1_server::Options;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// A link to a bundle, as deployments have it, that is exchanged in one step.
struct Link(TempDir);

impl Link {
    fn to(bundle: &Path) -> Self {
        let link = Self(tempfile::tempdir().unwrap());
        link.set(bundle);
        link
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("current")
    }

    fn set(&self, bundle: &Path) {
        let new = self.0.path().join("new");
        symlink(bundle, &new).unwrap();
        fs::rename(new, self.path()).unwrap();
    }
}

fn two_versions() -> (Fixture, Fixture) {
    (
        Fixture::calibrated(),
        Fixture::calibrated_of_format(PixelFormat::Uint8),
    )
}

#[test]
fn no_request_is_dropped_while_bundles_are_exchanged() {
    let (a, b) = two_versions();
    let link = Link::to(&a.bundle());
    let running = Running::start(Options::new("m", link.path()));
    let red = red(&a);
    let (is_over, address) = (AtomicBool::new(false), running.http);
    let (answers, versions) = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::connect(address);
                    let (mut answers, mut versions) = (0, BTreeSet::new());
                    while !is_over.load(Ordering::Relaxed) {
                        let reply = client.send("POST", "/v1/classify", &[], &red);
                        assert_eq!(
                            (reply.status, reply.json()["label"].as_str().unwrap()),
                            (200, "red")
                        );
                        versions.insert(reply.headers["stage1-model-version"].clone());
                        answers += 1;
                    }
                    (answers, versions)
                })
            })
            .collect();
        for bundle in [&b, &a, &b, &a, &b] {
            thread::sleep(Duration::from_millis(50));
            link.set(&bundle.bundle());
            running.reload();
        }
        is_over.store(true, Ordering::Relaxed);
        let joined = clients.into_iter().map(|client| client.join().unwrap());
        joined.fold((0, BTreeSet::new()), |(n, mut all), (more, versions)| {
            all.extend(versions);
            (n + more, all)
        })
    });
    assert!(answers > 20, "{answers}");
    assert_eq!(versions.len(), 2);
    assert_eq!(
        running.metric("stage1_bundle_loads_total{model=\"m\",result=\"loaded\"}"),
        6.0
    );
    assert_eq!(running.metric("stage1_images_in_flight"), 0.0);
}

#[test]
fn a_damaged_bundle_leaves_the_one_before() {
    let (a, b) = two_versions();
    let link = Link::to(&a.bundle());
    let running = Running::start(Options::new("m", link.path()));
    let version = || running.get("/v2/models/m").json()["versions"][0].clone();
    let before = version();
    let model = b.bundle().join("variants/fp32/model.onnx");
    let good = fs::read(&model).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    let record = fs::read_to_string(b.bundle().join("bundle.json")).unwrap();
    type Damage<'a> = (&'a str, Box<dyn Fn() + 'a>, &'a str);
    let cases: [Damage; 3] = [
        (
            "a flipped byte",
            Box::new(|| fs::write(&model, &bad).unwrap()),
            "digest mismatch",
        ),
        (
            "a missing file",
            Box::new(|| fs::remove_file(&model).unwrap()),
            "model.onnx",
        ),
        (
            "an unknown schema",
            Box::new(|| {
                let newer = record.replacen("\"schema_version\": 1", "\"schema_version\": 999", 1);
                assert_ne!(newer, record);
                fs::write(b.bundle().join("bundle.json"), newer).unwrap();
            }),
            "999",
        ),
    ];
    link.set(&b.bundle());
    for (name, damage, part) in cases {
        damage();
        running.reload();
        let index = running.post("/v2/repository/index", &[], b"").json();
        let reason = index[0]["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(part), "{name}: {reason}");
        assert_eq!(
            (&index[0]["state"], version()),
            (&"READY".into(), before.clone()),
            "{name}"
        );
        assert_eq!(
            running.post("/v1/classify", &[], &red(&a)).status,
            200,
            "{name}"
        );
    }
    fs::write(&model, good).unwrap();
    fs::write(b.bundle().join("bundle.json"), record).unwrap();
    running.reload();
    assert_ne!(version(), before);
    assert_eq!(
        running.post("/v2/repository/index", &[], b"").json()[0]["reason"],
        ""
    );
}

#[test]
fn a_watched_bundle_is_loaded_by_itself() {
    let (a, b) = two_versions();
    let link = Link::to(&a.bundle());
    let mut options = Options::new("m", link.path());
    options.watch = Some(Duration::from_millis(20));
    let running = Running::start(options);
    let version = || running.get("/v2/models/m").json()["versions"][0].clone();
    let before = version();
    link.set(&b.bundle());
    eventually("the new version is served", || version() != before);
}

#[test]
fn clients_may_load_and_unload_if_they_are_allowed_to() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| options.access.model_control = true);
    let red = red(&fixture);
    let control = |action: &str, body: &str| {
        running.post(
            &format!("/v2/repository/models/m/{action}"),
            &[],
            body.as_bytes(),
        )
    };
    assert_eq!(
        control("unload", r#"{"parameters":{"unload_dependents":false}}"#).status,
        200
    );
    assert_eq!(running.get("/v2/models/m/ready").status, 503);
    assert_eq!(running.get("/readyz").status, 503);
    let refused = running.post("/v1/classify", &[], &red);
    assert_eq!(refused.status, 503);
    assert!(refused.error().contains("`m` isn't loaded"), "{refused:?}");
    assert_eq!(
        running.post("/v2/repository/index", &[], b"").json()[0]["state"],
        "UNAVAILABLE"
    );
    let elsewhere = control("load", r#"{"parameters":{"config":"{}"}}"#);
    assert_eq!(elsewhere.status, 501, "{elsewhere:?}");
    assert_eq!(control("load", "").status, 200);
    assert_eq!(running.post("/v1/classify", &[], &red).status, 200);
    assert_eq!(
        running
            .post("/v2/repository/models/x/load", &[], b"")
            .status,
        404
    );
}
