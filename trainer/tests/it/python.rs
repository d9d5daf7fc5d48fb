//! What we save, read by the libraries that define the format.

use crate::fixture::Fixture;
use stage1_core::{
    artifact::tensors::{self, Tensor as StoredTensor, TensorFile},
    checkpoint::Checkpoint,
    config::{BackboneConfig, BlockChoice, DepthConfig},
    data::Content,
    model::{RopePeriods, Weights},
};
use stage1_trainer::{
    backbone::{Backbone, Places},
    head::values,
};
use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::Command,
};
use tch::{Device, Tensor, no_grad};

fn python() -> String {
    env::var("STAGE1_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn goldens() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .join("../goldens/backbones")
        .canonicalize()
        .unwrap()
}

#[test]
#[ignore = "calls transformers in Python: cargo xtask test --python"]
fn what_transformers_saves_in_its_own_form_is_the_same_backbone() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/resave.py");
    for name in [
        "dinov2",
        "dinov2-registers-swiglu",
        "dinov3-vit-swiglu",
        "dinov3-convnext",
    ] {
        let (folder, out) = (goldens().join(name), tempfile::tempdir().unwrap());
        let status = Command::new(python())
            .arg(&script)
            .args([folder.as_path(), out.path()])
            .status()
            .unwrap();
        assert!(status.success(), "{name}");
        let digest = |dir: &Path| Weights::open(dir).unwrap().digest();
        assert_eq!(digest(out.path()), digest(&folder), "{name}");
    }
}

#[test]
#[ignore = "calls PEFT in Python: cargo xtask test --python"]
fn peft_loads_what_we_save() {
    let python = python();
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let goldens = goldens();
    let cases: [(&str, &[&str]); 6] = [
        (
            "dinov3-vit-mlp",
            &[
                "peft.target_modules=[q_proj, v_proj]",
                "peft.use_rslora=true",
            ],
        ),
        (
            "dinov3-vit-swiglu",
            &["peft.target_modules=all-linear", "peft.use_dora=true"],
        ),
        (
            "dinov3-vit-mlp",
            &[
                "peft.target_modules=[q_proj, up_proj]",
                "peft.layers_to_transform=[1]",
            ],
        ),
        (
            "dinov3-vit-mlp",
            &[
                "peft.target_modules=[q_proj, up_proj]",
                "peft.rank_pattern={up_proj: 3}",
                "peft.alpha_pattern={'1.attention.q_proj': 2.5}",
            ],
        ),
        ("dinov2", &["peft.target_modules=[q_proj, fc1]"]),
        (
            "dinov2-registers-swiglu",
            &[
                "peft.target_modules=[gate_proj, down_proj]",
                "peft.use_dora=true",
            ],
        ),
    ];
    for (model, keys) in cases {
        let base = goldens.join(model);
        let fixture = Fixture::new(Content::Digest);
        let path = format!("backbone.path={}", base.display());
        let mut arguments = vec![
            "--set",
            "phase=peft",
            "--set",
            &path,
            "--set",
            "train.epochs=1",
            "--set",
            "peft.learning_rate=0.02",
        ];
        arguments.extend([
            "--set",
            "preprocess.resize={exact: {height: 32, width: 32}}",
        ]);
        arguments.extend(keys.iter().flat_map(|key| ["--set", key]));
        fixture.train(&arguments);
        let dir = fixture.path("run/checkpoints/best");
        let pixels: Vec<f32> = (0..2 * 3 * 32 * 32)
            .map(|i| (i % 89) as f32 / 40.0 - 1.0)
            .collect();
        let (inputs, outputs) = (
            fixture.path("in.safetensors"),
            fixture.path("out.safetensors"),
        );
        let input = BTreeMap::from([(
            "pixel_values".to_owned(),
            StoredTensor::f32([2, 3, 32, 32], pixels.clone()),
        )]);
        tensors::save(&inputs, &input, &BTreeMap::new()).unwrap();
        let output = Command::new(&python)
            .arg(manifest.join("tests/python/peft_loads.py"))
            .args([&base, &dir.join("adapter"), &inputs, &outputs])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{model} {keys:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );

        let checkpoint = Checkpoint::load(&dir).unwrap();
        let config = BackboneConfig {
            path: base,
            adapter: None,
            blocks: BlockChoice::All,
            depth: DepthConfig::default(),
            rope_periods: RopePeriods::Fp32,
        };
        let weights = checkpoint.weights(&dir, &config).unwrap();
        let places = Places::new(&weights, (32, 32), Device::Cpu).unwrap();
        let pixels = Tensor::from_slice(&pixels).reshape([2, 3, 32, 32]);
        let ours = no_grad(|| {
            Backbone::new(&weights, Device::Cpu)
                .features(&pixels, &places)
                .class
        });
        let theirs = TensorFile::open(&outputs).unwrap();
        let scale = ours.abs().max().double_value(&[]) as f32;
        for name in ["adapted", "merged"] {
            for (ours, theirs) in values(&ours).iter().zip(theirs.f32(name).unwrap().1) {
                assert!(
                    (ours - theirs).abs() <= 1e-4 * scale,
                    "{model} {keys:?} {name}: {ours} for {theirs}"
                );
            }
        }
    }
}
