//! The Open Inference Protocol over HTTP.

use crate::{
    fixture::{Fixture, SIDE},
    running::{Running, red},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use stage1_core::preprocess::PixelFormat;

#[test]
fn the_server_and_its_models_describe_themselves() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let server = running.get("/v2").json();
    assert_eq!(server["name"], "stage1");
    assert!(
        server["extensions"]
            .as_array()
            .unwrap()
            .contains(&json!("binary_tensor_data"))
    );
    let model = running.get("/v2/models/m").json();
    let version = model["versions"][0].as_str().unwrap().to_owned();
    assert_eq!(
        model["inputs"],
        json!([
            { "name": "image", "datatype": "BYTES", "shape": [-1, 1] },
            { "name": "pixel_values", "datatype": "FP32", "shape": [-1, 3, SIDE, SIDE] },
        ])
    );
    assert_eq!(
        model["outputs"][0],
        json!({ "name": "logits", "datatype": "FP32", "shape": [-1, 3] })
    );
    assert_eq!(model["parameters"]["labels"], r#"["red","green","blue"]"#);
    assert_eq!(
        running
            .get(&format!("/v2/models/m/versions/{version}"))
            .json(),
        model
    );
    assert_eq!(
        running
            .get(&format!("/v2/models/m/versions/{version}/ready"))
            .status,
        200
    );
    assert_eq!(running.get("/v2/models/m/ready").status, 200);
    assert_eq!(running.get("/v2/models/x/ready").status, 404);
    let config = running.get("/v2/models/m/config").json();
    assert_eq!(config["input"][0]["data_type"], "TYPE_STRING");
    assert_eq!(
        config["dynamic_batching"]["preferred_batch_size"],
        json!([8])
    );
    for path in [
        "/v2/health/live",
        "/v2/health/ready",
        "/livez",
        "/readyz",
        "/healthz",
    ] {
        assert_eq!(running.get(path).status, 200, "{path}");
    }
    let index = running.post("/v2/repository/index", &[], b"{}").json();
    assert_eq!(
        index,
        json!([{ "name": "m", "version": version, "state": "READY", "reason": "" }])
    );
}

fn output<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let outputs = answer["outputs"].as_array().unwrap();
    &outputs
        .iter()
        .find(|output| output["name"] == name)
        .unwrap()["data"]
}

#[test]
fn images_and_pixels_give_the_same_tensors() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let dark = std::fs::read(fixture.picture("dark.png", [40, 0, 0])).unwrap();
    let images = [
        BASE64_STANDARD.encode(red(&fixture)),
        BASE64_STANDARD.encode(dark),
    ];
    let request = json!({ "id": "7", "inputs": [{ "name": "image", "datatype": "BYTES", "shape": [2, 1], "data": images }] });
    let by_image = running
        .post("/v2/models/m/infer", &[], request.to_string().as_bytes())
        .json();
    assert_eq!(
        (&by_image["id"], &by_image["model_name"]),
        (&json!("7"), &json!("m"))
    );
    assert_eq!(output(&by_image, "label"), &json!(["red", ""]));
    assert_eq!(output(&by_image, "decision"), &json!(["answer", "defer"]));
    assert_eq!(output(&by_image, "certified"), &json!([true, true]));
    assert!(
        output(&by_image, "reason")[1]
            .as_str()
            .unwrap()
            .contains("is below 0.9")
    );
    assert_eq!(output(&by_image, "logits").as_array().unwrap().len(), 6);
    // Planes of the same colours.
    let plane = |value: f32| vec![vec![value; SIDE]; SIDE];
    let picture = |red: f32| json!([plane(red), plane(0.0), plane(0.0)]);
    let request = json!({
        "inputs": [{ "name": "pixel_values", "datatype": "FP32", "shape": [2, 3, SIDE, SIDE], "data": [picture(1.0), picture(40.0 / 255.0)] }],
        "outputs": [{ "name": "probabilities" }, { "name": "logits" }],
    });
    let by_pixels = running
        .post("/v2/models/m/infer", &[], request.to_string().as_bytes())
        .json();
    let names: Vec<_> = by_pixels["outputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|output| &output["name"])
        .collect();
    assert_eq!(names, ["probabilities", "logits"]);
    assert_eq!(output(&by_pixels, "logits"), output(&by_image, "logits"));
    let sum: f64 = output(&by_pixels, "probabilities").as_array().unwrap()[..3]
        .iter()
        .map(|p| p.as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-12);
    let statistics = running.get("/v2/models/m/stats").json();
    assert_eq!(statistics["model_stats"][0]["inference_count"], 4);
    assert_eq!(
        statistics["model_stats"][0]["inference_stats"]["success"]["count"],
        2
    );
}

#[test]
fn tensors_may_be_binary() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let image = red(&fixture);
    let mut tensor = (image.len() as u32).to_le_bytes().to_vec();
    tensor.extend(&image);
    let request = json!({
        "inputs": [{ "name": "image", "datatype": "BYTES", "shape": [1], "parameters": { "binary_data_size": tensor.len() } }],
        "outputs": [{ "name": "logits", "parameters": { "binary_data": true } }, { "name": "label" }],
    });
    let mut body = request.to_string().into_bytes();
    let length = body.len().to_string();
    body.extend(&tensor);
    let reply = running.post(
        "/v2/models/m/infer",
        &[("inference-header-content-length", &length)],
        &body,
    );
    assert_eq!(reply.status, 200, "{}", reply.text());
    let split: usize = reply.headers["inference-header-content-length"]
        .parse()
        .unwrap();
    let answer: Value = serde_json::from_slice(&reply.body[..split]).unwrap();
    assert_eq!(answer["outputs"][0]["parameters"]["binary_data_size"], 12);
    assert_eq!(answer["outputs"][1]["data"], json!(["red"]));
    let logits: Vec<f32> = reply.body[split..]
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    assert_eq!(logits.len(), 3);
    assert!((logits[0] - 3.0_f32.exp()).abs() < 1e-4, "{logits:?}");
}

#[test]
fn a_bundle_of_grey_levels_takes_bytes() {
    let fixture = Fixture::calibrated_of_format(PixelFormat::Uint8);
    let running = Running::of(&fixture, |_| {});
    let model = running.get("/v2/models/m").json();
    assert_eq!(
        model["inputs"][1],
        json!({ "name": "pixel_values", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 3] })
    );
    let levels: Vec<u8> = [255, 0, 0].repeat(SIDE * SIDE);
    let input = json!({ "name": "pixel_values", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3], "data": levels });
    let answer = running.post(
        "/v2/models/m/infer",
        &[],
        json!({ "inputs": [input] }).to_string().as_bytes(),
    );
    assert_eq!(
        output(&answer.json(), "label"),
        &json!(["red"]),
        "{}",
        answer.text()
    );
    assert_eq!(
        running.post("/v1/classify", &[], &red(&fixture)).json()["label"],
        "red"
    );
}
