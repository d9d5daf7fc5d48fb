//! What we write, read by other software.

use crate::{
    cli::Cli,
    embed::{BACKBONES, SIDE, goldens, pictures},
};
use stage1_core::artifact::tensors::{self, Tensor};
use std::{collections::BTreeMap, env, path::Path, process::Command};

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
