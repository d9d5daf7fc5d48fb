//! What is told: metrics, traces, decision logs.

use crate::{
    client::Client,
    fixture::Fixture,
    running::{Running, red},
};
use stage1_core::bundle::Prediction;
use std::fs;

#[test]
fn metrics_count_what_happened() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let dark = fs::read(fixture.picture("dark.png", [40, 0, 0])).unwrap();
    running.post("/v1/classify", &[], &red(&fixture));
    running.post("/v1/classify", &[], &dark);
    running.post("/v1/classify", &[], b"no image");
    let of = |name: &str| running.metric(name);
    assert_eq!(
        of("stage1_decisions_total{model=\"m\",decision=\"answer\",certified=\"true\"}"),
        1.0
    );
    assert_eq!(
        of("stage1_decisions_total{model=\"m\",decision=\"defer\",certified=\"true\"}"),
        1.0
    );
    assert_eq!(
        of("stage1_decisions_total{model=\"m\",decision=\"error\""),
        1.0
    );
    assert_eq!(
        of("stage1_requests_total{model=\"m\",protocol=\"http\",status=\"200\"}"),
        2.0
    );
    assert_eq!(
        of("stage1_requests_total{model=\"m\",protocol=\"http\",status=\"422\"}"),
        1.0
    );
    for (stage, count) in [
        ("read", 3.0),
        ("decode", 2.0),
        ("preprocess", 2.0),
        ("queue", 2.0),
        ("inference", 2.0),
        ("total", 3.0),
    ] {
        assert_eq!(
            of(&format!(
                "stage1_stage_seconds_count{{model=\"m\",stage=\"{stage}\"}}"
            )),
            count,
            "{stage}"
        );
    }
    assert_eq!(of("stage1_queue_capacity"), 64.0);
    assert_eq!(of("stage1_ready"), 1.0);
    assert!(of("stage1_resident_memory_bytes") > 1e6);
    let metrics = running.get("/metrics");
    assert!(metrics.headers["content-type"].starts_with("application/openmetrics-text"));
    assert!(metrics.text().ends_with("# EOF\n"));
    assert!(
        metrics
            .text()
            .contains("stage1_bundle_info{model=\"m\",version=\"")
    );
}

#[test]
fn a_trace_is_gone_on_with() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let reply = running.post("/v1/classify", &[("traceparent", parent)], &red(&fixture));
    let trace = &reply.headers["traceparent"];
    assert!(
        trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && trace.ends_with("-01"),
        "{trace}"
    );
    assert_ne!(trace, parent);
    assert_eq!(reply.json()["path"], "0af7651916cd43dd8448eb211c80319c");
}

#[test]
fn a_head_has_no_body() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let mut client = Client::connect(running.http);
    client
        .write(b"HEAD /v2 HTTP/1.1\r\nhost: a\r\n\r\nGET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") || text.windows(4).filter(|w| w == b"HTTP").count() < 2 {
        let mut byte = [0];
        client.read_raw(&mut byte).unwrap();
        text.extend(byte);
    }
    let text = String::from_utf8(text).unwrap();
    assert!(!text.contains("extensions"), "{text}");
}

#[test]
fn decisions_are_written_down_as_predict_prints_them() {
    let fixture = Fixture::calibrated();
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    let running = Running::of(&fixture, |options| {
        options.decision_log = Some(logs.clone())
    });
    let first = running.post(
        "/v1/classify?path=a.png&group=video%201",
        &[],
        &red(&fixture),
    );
    let second = running.post("/v1/classify?path=b.png", &[], b"no image");
    let version = first.headers["stage1-model-version"].clone();
    running.drain();
    let text = fs::read_to_string(logs.join(format!("m-{version}.jsonl"))).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let mut grouped: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(
        grouped.as_object_mut().unwrap().remove("group").unwrap(),
        "video 1"
    );
    assert_eq!(grouped, first.json());
    let error: Prediction = serde_json::from_str(lines[1]).unwrap();
    assert_eq!(error, serde_json::from_slice(&second.body).unwrap());
}
