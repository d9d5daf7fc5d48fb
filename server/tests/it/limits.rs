//! Full queues, deadlines, bodies that are too large or too slow, and clients that go away.

use crate::{
    client::{Client, request},
    fixture::Fixture,
    running::{Running, eventually, red},
};
use std::{
    io::Read,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

/// Long enough to be waited in, whatever else the machine does.
const LONG: Duration = Duration::from_secs(20);

/// A server whose batches are never full, so that images stay in the queue until the delay is over.
fn waiting(fixture: &Fixture, queue: usize, delay: Duration) -> Running {
    Running::of(fixture, |options| {
        options.batching.queue = queue;
        options.batching.max_batch = 8;
        options.batching.max_delay = delay;
    })
}

/// Sends an image and doesn't wait.
fn ask(running: &Running, image: &[u8]) -> Client {
    let mut client = Client::connect(running.http);
    client
        .write(&request("POST", "/v1/classify", &[], image))
        .unwrap();
    client
}

#[test]
fn a_full_queue_says_so_at_once_and_when_to_come_again() {
    let fixture = Fixture::calibrated();
    let running = waiting(&fixture, 2, Duration::from_secs(2));
    let red = red(&fixture);
    let mut first: Vec<_> = (0..2).map(|_| ask(&running, &red)).collect();
    eventually("both wait", || running.metric("stage1_queue_depth") == 2.0);
    let start = Instant::now();
    let refused = running.post("/v1/classify", &[], &red);
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.headers["retry-after"].parse::<u64>().unwrap() >= 1);
    assert!(
        refused
            .error()
            .contains("the queue of `m` is full (2 images of at most 2)"),
        "{refused:?}"
    );
    for client in &mut first {
        assert_eq!(client.read().unwrap().json()["label"], "red");
    }
    assert_eq!(running.post("/v1/classify", &[], &red).status, 200);
    assert_eq!(
        running.metric("stage1_refused_total{model=\"m\",reason=\"queue_full\"}"),
        1.0
    );
}

#[test]
fn images_that_wait_become_one_batch() {
    let fixture = Fixture::calibrated();
    let running = waiting(&fixture, 64, LONG);
    let red = red(&fixture);
    let mut clients: Vec<_> = (0..8).map(|_| ask(&running, &red)).collect();
    for client in &mut clients {
        let reply = client.read().unwrap();
        assert!(
            reply.headers["server-timing"].contains("batch;desc=8"),
            "{reply:?}"
        );
    }
    assert_eq!(running.metric("stage1_batch_size_bucket{le=\"6.0\""), 0.0);
    assert_eq!(running.metric("stage1_batch_size_count"), 1.0);
}

#[test]
fn a_request_whose_deadline_is_over_leaves_the_queue() {
    let fixture = Fixture::calibrated();
    let running = waiting(&fixture, 2, LONG);
    let red = red(&fixture);
    let late = running.post("/v1/classify", &[("x-request-timeout-ms", "50")], &red);
    assert_eq!(late.status, 504, "{late:?}");
    assert_eq!(late.error(), "the deadline of 50 ms is over");
    assert_eq!(running.metric("stage1_images_in_flight"), 0.0);
    let body = format!(
        r#"{{"parameters":{{"timeout":50000}},"inputs":[{{"name":"pixel_values","datatype":"FP32","shape":[1,3,8,8],"data":{:?}}}]}}"#,
        [0.5; 192]
    );
    let late = running.post("/v2/models/m/infer", &[], body.as_bytes());
    assert_eq!(late.status, 504, "{late:?}");
    assert_eq!(running.metric("stage1_queue_depth"), 0.0);
}

#[test]
fn a_client_that_vanishes_leaves_the_queue() {
    let fixture = Fixture::calibrated();
    let running = waiting(&fixture, 2, LONG);
    let red = red(&fixture);
    let clients: Vec<_> = (0..2).map(|_| ask(&running, &red)).collect();
    eventually("both wait", || running.metric("stage1_queue_depth") == 2.0);
    drop(clients);
    eventually("both have left", || {
        running.metric("stage1_images_in_flight") == 0.0
    });
    assert_eq!(
        running.metric("stage1_requests_total{model=\"m\",protocol=\"http\",status=\"499\"}"),
        2.0
    );
}

#[test]
fn bodies_have_limits() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| {
        options.limits.max_body = 100_000;
        options.limits.max_bodies = 150_000;
        options.limits.body = Duration::from_millis(500);
    });
    let red = red(&fixture);
    // Promised, and sent in chunks that promise nothing.
    let large = running.post("/v1/classify", &[], &vec![0; 3_000_000]);
    assert_eq!(large.status, 413, "{large:?}");
    assert!(
        large.error().contains("larger than 100000 bytes"),
        "{large:?}"
    );
    let mut chunked = Client::connect(running.http);
    let head = "POST /v1/classify HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    chunked.write(head.as_bytes()).unwrap();
    for _ in 0..3 {
        chunked
            .write(format!("{:x}\r\n{}\r\n", 50_000, "x".repeat(50_000)).as_bytes())
            .unwrap();
    }
    chunked.write(b"0\r\n\r\n").unwrap();
    assert_eq!(chunked.read().unwrap().status, 413);
    // Compressed, it counts as what it will be.
    let bomb = {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![0; 10_000_000]).unwrap();
        gzip.finish().unwrap()
    };
    assert_eq!(
        running
            .post("/v1/classify", &[("content-encoding", "gzip")], &bomb)
            .status,
        413
    );
    // Two that fit alone, and not together: what has arrived of the first counts.
    let mut half = Client::connect(running.http);
    half.write(&request("POST", "/v1/classify", &[], &vec![0; 100_000])[..90_000])
        .unwrap();
    eventually("half a body is there", || {
        running.metric("stage1_body_bytes") > 80_000.0
    });
    let other = running.post("/v1/classify", &[], &vec![0; 99_000]);
    assert_eq!(
        (other.status, other.headers["retry-after"].as_str()),
        (503, "1"),
        "{other:?}"
    );
    // And the first never ends.
    let slow = half.read().unwrap();
    assert_eq!(slow.status, 408, "{slow:?}");
    eventually("nothing is left", || {
        running.metric("stage1_body_bytes") == 0.0
    });
    assert_eq!(running.post("/v1/classify", &[], &red).status, 200);
}

#[test]
fn whoever_says_nothing_is_hung_up_on() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| {
        options.limits.header = Duration::from_millis(300);
        options.limits.request = Duration::ZERO;
    });
    // Half a head: the time for it is over soon.
    let mut half = TcpStream::connect(running.http).unwrap();
    std::io::Write::write_all(&mut half, b"GET /livez HTTP/1.1\r\nhost:").unwrap();
    // Nothing at all: a connection may be silent for as long as a request may take, and five seconds.
    let mut silent = TcpStream::connect(running.http).unwrap();
    for stream in [&mut half, &mut silent] {
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut rest = Vec::new();
        _ = stream.read_to_end(&mut rest);
        assert!(
            !rest.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&rest)
        );
    }
}

#[test]
fn more_connections_than_allowed_wait() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| options.limits.connections = 1);
    let mut first = Client::connect(running.http);
    assert_eq!(first.send("GET", "/livez", &[], b"").status, 200);
    let address = running.http;
    let second = thread::spawn(move || {
        Client::connect(address)
            .send("GET", "/livez", &[], b"")
            .status
    });
    thread::sleep(Duration::from_millis(200));
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(second.join().unwrap(), 200);
}

#[test]
fn compressed_bodies_are_read() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let red = red(&fixture);
    for (encoding, bytes) in [
        ("gzip", {
            let mut reader = flate2::read::GzEncoder::new(&red[..], flate2::Compression::fast());
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes
        }),
        ("deflate", {
            let mut reader = flate2::read::ZlibEncoder::new(&red[..], flate2::Compression::fast());
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes
        }),
    ] {
        let reply = running.post("/v1/classify", &[("content-encoding", encoding)], &bytes);
        assert_eq!(reply.json()["label"], "red", "{encoding}");
    }
}

#[test]
fn a_deadline_is_one_for_the_body_too() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let mut client = Client::connect(running.http);
    client
        .write(b"POST /v1/classify HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\nx-request-timeout-ms: 60\r\n\r\n")
        .unwrap();
    let late = client.read().unwrap();
    assert_eq!(late.status, 504, "{late:?}");
    assert_eq!(late.error(), "the deadline of 60 ms is over");
}
