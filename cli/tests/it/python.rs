//! What we write, read by other software.

use crate::{
    cli::Cli,
    embed::{BACKBONES, SIDE, goldens, pictures},
    fixture::Fixture,
    pipeline::Project,
};
use stage1_core::artifact::tensors::{self, Tensor};
use std::{collections::BTreeMap, env, fs, path::Path, process::Command};

#[test]
#[ignore = "calls Arrow and transformers in Python: cargo xtask test --python"]
fn arrow_reads_our_features_and_transformers_computes_them() {
    let python = env::var("STAGE1_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let cli = Cli::new();
    let pixels = pictures(&cli)
        .into_iter()
        .map(|(id, values)| (id, Tensor::f32([3, SIDE, SIDE], values)))
        .collect();
    tensors::save(&cli.path("pixels.safetensors"), &pixels, &BTreeMap::new()).unwrap();
    let side = SIDE.to_string();
    for name in BACKBONES {
        let backbone = goldens().join("backbones").join(name);
        let path = backbone.display().to_string();
        for out in ["a.parquet", "a.safetensors"] {
            let outcome = cli.run([
                "embed",
                "pictures",
                "--backbone",
                &path,
                "--image-size",
                &side,
                "--out",
                out,
                "--overwrite",
            ]);
            assert_eq!(outcome.code, 0, "{outcome}");
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/check_features.py");
        let output = Command::new(&python)
            .args([&script, &backbone])
            .args(["pixels.safetensors", "a.parquet", "a.safetensors"].map(|name| cli.path(name)))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {errors}");
    }
}

#[test]
#[ignore = "calls Arrow in Python: cargo xtask test --python"]
fn arrow_reads_our_records() {
    let python = env::var("STAGE1_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let cli = Cli::new();
    let fixture = Fixture::calibrated();
    for (name, colour) in [("a", [255, 0, 0]), ("b", [0, 255, 0]), ("c", [90, 99, 90])] {
        let picture = fixture.picture("x.png", colour);
        cli.write(&format!("photos/{name}.png"), fs::read(picture).unwrap());
    }
    cli.write("photos/d.png", "no picture");
    let bundle = fixture.bundle().display().to_string();
    for out in ["a.parquet", "a.jsonl"] {
        let outcome = cli.run(["predict", "--bundle", &bundle, "photos", "-o", out]);
        assert_eq!(outcome.code, 1, "{outcome}");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/check_predictions.py");
    let output = Command::new(&python)
        .arg(&script)
        .args(["a.parquet", "a.jsonl"].map(|name| cli.path(name)))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

#[test]
#[ignore = "reads Triton's configuration with NVIDIA's protobuf types in Python: cargo xtask test --python"]
fn nvidias_own_types_read_a_model_repository() {
    let python = env::var("STAGE1_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let project = Project::new();
    let exported = project.stage1("export", "flowers", &["--triton", "repository"]);
    assert_eq!(exported.code, 0, "{exported}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/check_triton.py");
    let config = project.cli.path("repository/flowers_fp32/config.pbtxt");
    let output = Command::new(python)
        .arg(script)
        .arg(config)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}
