//! Each kind of bad input has its status and message, and the server stays up.

use crate::{
    fixture::{Fixture, SIDE},
    running::{Running, red},
};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// A PNG that promises `side` x `side` pixels and has none.
fn huge(side: u32) -> Vec<u8> {
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(&[0; 3], 1, 1, ExtendedColorType::Rgb8)
        .unwrap();
    png[16..20].copy_from_slice(&side.to_be_bytes());
    png[20..24].copy_from_slice(&side.to_be_bytes());
    let crc = crc(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    png
}

/// The checksum of PNG's chunks.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

#[test]
fn images_of_every_kind_get_their_status() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/fixtures/pictures");
    let file = |name: &str| fs::read(pictures.join(name)).unwrap();
    let jpeg = file("grey.jpg");
    let cases: [(&str, Vec<u8>, &str, u16, &str); 9] = [
        (
            "truncated",
            jpeg[..jpeg.len() / 2].to_vec(),
            "image/jpeg",
            422,
            "truncated JPEG image",
        ),
        (
            "huge",
            huge(100_000),
            "image/png",
            422,
            "100000x100000 pixels, the limit is",
        ),
        ("mislabelled", file("rgba.png"), "image/jpeg", 200, ""),
        ("CMYK", file("cmyk.jpg"), "image/jpeg", 200, ""),
        ("animated", file("transparent.gif"), "image/gif", 200, ""),
        (
            "zero bytes",
            Vec::new(),
            "image/png",
            422,
            "empty (0 bytes)",
        ),
        (
            "no image",
            b"hello, world".to_vec(),
            "image/png",
            422,
            "not an image",
        ),
        (
            "flipped bytes",
            file("rgba.png").iter().map(|byte| byte ^ 0x55).collect(),
            "image/png",
            422,
            "not an image",
        ),
        ("no content type", file("palette.bmp"), "", 200, ""),
    ];
    for (name, bytes, content_type, status, part) in cases {
        let headers = [("content-type", content_type)];
        let headers = if content_type.is_empty() {
            &[][..]
        } else {
            &headers
        };
        let reply = running.post("/v1/classify", headers, &bytes);
        assert_eq!(reply.status, status, "{name}: {reply:?}");
        let record = reply.json();
        assert_eq!(record["decision"] == "error", status == 422, "{name}");
        let error = record["error"].as_str().unwrap_or("");
        assert!(error.contains(part), "{name}: {error}");
    }
    assert_eq!(
        running.post("/v1/classify", &[], &red(&fixture)).status,
        200
    );
}

fn infer(running: &Running, request: &Value) -> crate::client::Reply {
    running.post("/v2/models/m/infer", &[], request.to_string().as_bytes())
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| options.batching.queue = 4);
    let pixels = |n: usize| vec![0.5; n * 3 * SIDE * SIDE];
    let input = |name: &str, datatype: &str, shape: Value, data: Value| json!({ "inputs": [{ "name": name, "datatype": datatype, "shape": shape, "data": data }] });
    let good = input(
        "pixel_values",
        "FP32",
        json!([1, 3, SIDE, SIDE]),
        json!(pixels(1)),
    );
    assert_eq!(infer(&running, &good).status, 200);
    let mut wrong_output = good.clone();
    wrong_output["outputs"] = json!([{ "name": "logit" }]);
    let mut classes = good.clone();
    classes["outputs"] = json!([{ "name": "logits", "parameters": { "classification": 3 } }]);
    let two = json!({ "inputs": [good["inputs"][0], good["inputs"][0]] });
    let cases = [
        (
            "an unknown input",
            input("pixels", "FP32", json!([1]), json!([1])),
            400,
            "there is no input `pixels`, expected `image`",
        ),
        (
            "a shape",
            input(
                "pixel_values",
                "FP32",
                json!([1, 3, 9, 9]),
                json!(pixels(1)),
            ),
            400,
            "expected [n, 3, 8, 8]",
        ),
        (
            "a rank",
            input("pixel_values", "FP32", json!([3, 8, 8]), json!(pixels(1))),
            400,
            "expected [n, 3, 8, 8]",
        ),
        (
            "a negative side",
            input(
                "pixel_values",
                "FP32",
                json!([-1, 3, 8, 8]),
                json!(pixels(1)),
            ),
            400,
            "expected [n, 3, 8, 8]",
        ),
        (
            "a huge side",
            input(
                "pixel_values",
                "FP32",
                json!([i64::MAX, 3, 8, 8]),
                json!(pixels(1)),
            ),
            400,
            "its shape",
        ),
        (
            "a number of elements",
            input(
                "pixel_values",
                "FP32",
                json!([2, 3, 8, 8]),
                json!(pixels(1)),
            ),
            400,
            "its shape [2, 3, 8, 8] needs",
        ),
        (
            "a datatype",
            input(
                "pixel_values",
                "FP64",
                json!([1, 3, 8, 8]),
                json!(pixels(1)),
            ),
            400,
            "FP64",
        ),
        (
            "levels",
            input(
                "pixel_values",
                "UINT8",
                json!([1, 8, 8, 3]),
                json!(vec![1; 192]),
            ),
            400,
            "UINT8, expected FP32",
        ),
        (
            "images as numbers",
            input("image", "FP32", json!([1]), json!([1])),
            400,
            "`image` is FP32, expected BYTES",
        ),
        (
            "images that are no base64",
            input("image", "BYTES", json!([1]), json!(["?"])),
            400,
            "base64",
        ),
        (
            "fewer images",
            input("image", "BYTES", json!([2]), json!([""])),
            400,
            "1 elements, its shape says 2",
        ),
        (
            "no images",
            input("image", "BYTES", json!([0]), json!([])),
            400,
            "no images",
        ),
        (
            "a bad image",
            input("image", "BYTES", json!([1]), json!(["aGVsbG8="])),
            422,
            "not an image",
        ),
        (
            "one of two is bad",
            input("image", "BYTES", json!([2]), json!(["aGVsbG8=", ""])),
            422,
            "image 0 of 2",
        ),
        (
            "more than the queue holds",
            input(
                "pixel_values",
                "FP32",
                json!([5, 3, 8, 8]),
                json!(pixels(5)),
            ),
            400,
            "at most 4",
        ),
        ("two inputs", two, 400, "2 inputs"),
        ("no inputs", json!({ "inputs": [] }), 400, "0 inputs"),
        (
            "an unknown output",
            wrong_output,
            400,
            "no output `logit`, there are logits, probabilities",
        ),
        ("classification", classes, 501, "classification"),
    ];
    for (name, request, status, part) in cases {
        let reply = infer(&running, &request);
        assert_eq!(reply.status, status, "{name}: {}", reply.text());
        assert!(reply.error().contains(part), "{name}: {}", reply.text());
    }
    assert_eq!(infer(&running, &good).status, 200);
}

#[test]
fn addresses_and_methods_that_are_not_there() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let cases = [
        ("GET", "/", 404, "there is nothing at"),
        ("GET", "/v1/classify", 405, "takes POST"),
        ("POST", "/v1/classify?modle=m", 400, "no parameter `modle`"),
        (
            "POST",
            "/v2/models/x/infer",
            404,
            "no model `x`; there is `m`",
        ),
        ("GET", "/v2/models/m/versions/abc", 404, "no version `abc`"),
        ("GET", "/v2/models/m/nothing", 404, "nothing at"),
        ("GET", "/v2/models/m/infer", 405, "takes POST"),
        ("DELETE", "/metrics", 405, "takes GET"),
        ("GET", "/v2/systemsharedmemory/status", 501, "shared memory"),
        (
            "POST",
            "/v2/repository/models/m/load",
            403,
            "--model-control",
        ),
        ("GET", "/%zz", 400, "percent"),
    ];
    for (method, path, status, part) in cases {
        let reply = crate::client::Client::connect(running.http).send(method, path, &[], b"");
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        assert!(reply.error().contains(part), "{path}: {}", reply.text());
    }
    let broken = [("content-encoding", "gzip")];
    assert_eq!(
        running.post("/v1/classify", &broken, b"no gzip").status,
        400
    );
    let brotli = running.post("/v1/classify", &[("content-encoding", "br")], b"");
    assert_eq!(brotli.status, 415);
    let deadline = running.post("/v1/classify", &[("x-request-timeout-ms", "soon")], b"");
    assert_eq!(deadline.status, 400);
}
