//! Ending well.

use crate::{
    client::{Client, request},
    fixture::Fixture,
    running::{Running, eventually, red},
};
use stage1_server::Ended;
use std::{net::TcpStream, time::Duration};

#[test]
fn what_has_begun_is_answered_and_nothing_new_is_let_in() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| {
        options.batching.max_delay = Duration::from_secs(3);
        options.drain.grace = Duration::from_secs(1);
    });
    let red = red(&fixture);
    let address = running.http;
    let mut begun = Client::connect(address);
    begun
        .write(&request("POST", "/v1/classify", &[], &red))
        .unwrap();
    let mut idle = Client::connect(address);
    assert_eq!(idle.send("GET", "/readyz", &[], b"").status, 200);
    eventually("it waits", || running.metric("stage1_queue_depth") == 1.0);
    let end = running.begin_to_drain();
    // Within the grace it still answers, but says that others should be asked.
    eventually("it isn't ready", || {
        Client::connect(address)
            .send("GET", "/readyz", &[], b"")
            .status
            == 503
    });
    let mut late = Client::connect(address);
    let live = late.send("GET", "/livez", &[], b"");
    assert_eq!(
        (live.status, live.headers["connection"].as_str()),
        (200, "close")
    );
    let reply = begun.read().unwrap();
    assert_eq!(
        (reply.status, reply.json()["label"].as_str().unwrap()),
        (200, "red")
    );
    assert_eq!(end(), Ended::Drained);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn what_takes_too_long_is_cut_off() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| {
        options.batching.max_delay = Duration::from_secs(30);
        options.drain.timeout = Duration::from_millis(100);
    });
    let mut begun = Client::connect(running.http);
    begun
        .write(&request("POST", "/v1/classify", &[], &red(&fixture)))
        .unwrap();
    eventually("it waits", || running.metric("stage1_queue_depth") == 1.0);
    assert_eq!(running.drain(), Ended::CutOff);
    assert!(begun.read().is_err());
}

#[test]
fn a_server_without_requests_ends_at_once() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let _idle = Client::connect(running.http);
    assert_eq!(running.drain(), Ended::Drained);
}

/// Connections on which nobody has asked yet keep no server from ending.
#[test]
fn what_has_not_begun_is_not_waited_for() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| {
        options.drain.timeout = Duration::from_secs(20);
    });
    let mut half = Client::connect(running.http);
    half.write(b"GET /livez HTTP/1.1\r\nhost: t").unwrap();
    let mut preface = Client::connect(running.http);
    preface
        .write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    assert_eq!(running.drain(), Ended::Drained);
}
