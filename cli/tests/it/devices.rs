//! Devices as they are asked for on the command line. What a GPU computes is checked by `scripts/gpu-check`.

use crate::{cli::Cli, fixture::Fixture};
use serde_json::Value;

#[test]
fn a_ladder_says_what_became_of_each_device() {
    let (cli, fixture) = (Cli::new(), Fixture::calibrated());
    let bundle = fixture.bundle().display().to_string();
    let image = fixture
        .picture("red.png", [255, 0, 0])
        .display()
        .to_string();
    let predict = [
        "predict",
        &image,
        "--bundle",
        &bundle,
        "--device",
        "tensorrt,cuda,cpu",
    ];

    let told = cli.run(predict);
    assert_eq!(told.code, 0, "{told}");
    for part in [
        "tensorrt can't be used",
        "cuda can't be used",
        "device cpu, the first of tensorrt,cuda,cpu that works",
    ] {
        assert!(told.stderr.contains(part), "{part}: {told}");
    }
    let json = cli.run([&predict[..], &["--json"]].concat());
    assert_eq!(json.code, 0, "{json}");
    let documents = json
        .stderr
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let climb = documents
        .into_iter()
        .find_map(|document| document.get("device").cloned());
    let climb = climb.unwrap_or_else(|| panic!("{json}"));
    assert_eq!(climb["device"], "cpu", "{json}");
    assert_eq!(climb["failed"][0]["device"], "tensorrt", "{json}");
    assert!(
        climb["failed"][1]["reason"]
            .as_str()
            .unwrap()
            .contains("cuda can't be used"),
        "{json}"
    );
    assert_eq!(json.json()["certified"], true, "{json}");
}

#[test]
fn a_device_that_is_not_there_is_a_failure_that_names_what_is_missing() {
    let (cli, fixture) = (Cli::new(), Fixture::calibrated());
    let bundle = fixture.bundle().display().to_string();
    let image = fixture
        .picture("red.png", [255, 0, 0])
        .display()
        .to_string();
    let refused = cli.run(["predict", &image, "--bundle", &bundle, "--device", "cuda"]);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(
        refused.stderr.contains("cuda can't be used") && refused.stderr.contains("package"),
        "{refused}"
    );
    assert!(!refused.stdout.contains("answer"), "{refused}");
}
