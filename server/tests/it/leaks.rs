//! After whatever clients did, nothing of it is left.

use crate::{
    client::{Client, request},
    fixture::Fixture,
    running::{Running, eventually, red},
};
use std::{fs, time::Duration};

fn threads() -> usize {
    fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("stage1-model"))
        .count()
}

/// One of every way to go wrong.
fn misbehave(running: &Running, image: &[u8]) {
    let whole = request("POST", "/v1/classify", &[], image);
    // Goes away within the head, within the body, before the answer.
    for part in [20, whole.len() - 10, whole.len()] {
        Client::connect(running.http).write(&whole[..part]).unwrap();
    }
    drop(Client::connect(running.http));
    running.post("/v1/classify", &[("x-request-timeout-ms", "1")], image);
    running.post("/v1/classify", &[], &vec![0; 200_000]);
    running.post("/v1/classify", &[], b"no image");
    running.post(
        "/v2/models/m/infer",
        &[("inference-header-content-length", "99")],
        b"{}",
    );
    _ = Client::connect(running.http).write(b"\x16\x03\x01 no HTTP at all\r\n\r\n");
    _ = Client::connect(running.grpc).write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense");
}

#[test]
fn bad_clients_leave_nothing_behind() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| {
        options.limits.max_body = 100_000;
        options.limits.header = Duration::from_millis(500);
        options.batching.queue = 4;
    });
    let red = red(&fixture);
    for _ in 0..30 {
        misbehave(&running, &red);
    }
    // The one connection is that which asks.
    eventually("connections are closed", || {
        running.metric("stage1_connections ") == 1.0
    });
    for gauge in [
        "stage1_images_in_flight",
        "stage1_queue_depth",
        "stage1_body_bytes",
    ] {
        assert_eq!(running.metric(gauge), 0.0, "{gauge}");
    }
    assert_eq!(running.metric("stage1_requests_active"), 1.0);
    assert_eq!(running.post("/v1/classify", &[], &red).status, 200);
    assert!(threads() >= 1);
}
