//! Weights outside of the ONNX file: the same answers, through ONNX Runtime and through a bundle.

use crate::support::{golden_backbone, numbers};
use stage1_core::{
    artifact::{Digest, Document as _, tensors::TensorFile},
    bundle::{self, Bundle, Existing, FP32, InputSpec, NewBundle, Parity, Provenance},
    certificate::BatchMode,
    config::Phase,
    preprocess::PreprocessSpec,
};
use stage1_exporter::{Exported, Form, export_embedding, export_embedding_as, inspect};
use stage1_runtime::{OrtSession, Scorer, ScorerOptions, SessionOptions};
use std::{collections::BTreeMap, fs, path::Path};

const SHAPE: [usize; 4] = [2, 3, 32, 32];

fn outside(name: &str, file_name: &str) -> Exported {
    let form = Form {
        file_name: file_name.to_owned(),
        external_above: 0,
    };
    export_embedding_as(&golden_backbone(name), SHAPE[2], SHAPE[3], &form).expect("exported")
}

fn features(path: &Path) -> Vec<f32> {
    let pixels = numbers(SHAPE.iter().product(), 5);
    let mut session = OrtSession::open(path, &SessionOptions::default()).expect("a model");
    let mut outputs = session
        .run_named(&pixels, SHAPE, &["features"])
        .expect("the model runs");
    outputs.remove(0).values
}

#[test]
fn weights_beside_a_model_change_no_bit() {
    for name in [
        "dinov2",
        "dinov2-registers-swiglu",
        "dinov3-vit-mlp",
        "dinov3-vit-swiglu",
        "dinov3-convnext",
    ] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (inside, beside) = (dir.path().join("inside.onnx"), dir.path().join("x.onnx"));
        let whole = export_embedding(&golden_backbone(name), SHAPE[2], SHAPE[3]).expect("exported");
        assert_eq!(whole.data, None, "{name}: small enough for one file");
        fs::write(&inside, &whole.model).expect("written");
        let parts = outside(name, "x.onnx");
        let data = parts.data.as_ref().expect("weights of their own");
        assert_eq!(data.name, "x.onnx.data");
        assert_eq!(data.digest, Digest::of_bytes(&data.bytes));
        assert!(data.bytes.len() > parts.model.len(), "{name}");
        fs::write(&beside, &parts.model).expect("written");
        let missing = OrtSession::open(&beside, &SessionOptions::default());
        assert!(missing.is_err(), "{name}: no weights, no model");
        fs::write(dir.path().join(&data.name), &data.bytes).expect("written");
        assert_eq!(features(&beside), features(&inside), "{name}");
        let (whole, parts) = (inspect(&whole.model), inspect(&parts.model));
        let (whole, parts) = (whole.expect("a model"), parts.expect("a model"));
        assert_eq!(
            (whole.parameters, whole.flops_per_image, whole.nodes),
            (parts.parameters, parts.flops_per_image, parts.nodes),
            "{name}"
        );
        assert!(parts.bytes >= whole.bytes, "{name}");
    }
}

/// A bundle of an embedding model: its features are the logits.
fn create(dir: &Path, exported: &Exported) -> Bundle {
    let pixels = numbers(SHAPE.iter().product(), 5);
    let data = exported.data.as_ref().expect("weights of their own");
    let alone = tempfile::tempdir().expect("a temporary folder");
    let model = alone.path().join(bundle::MODEL);
    fs::write(&model, &exported.model).expect("written");
    fs::write(alone.path().join(&data.name), &data.bytes).expect("written");
    let golden_logits = features(&model);
    let digest = Digest::of_bytes(b"of the test");
    let new = NewBundle {
        labels: (0..golden_logits.len() / SHAPE[0])
            .map(|i| format!("feature {i}"))
            .collect(),
        input: InputSpec {
            name: "pixel_values".to_owned(),
            height: SHAPE[2],
            width: SHAPE[3],
        },
        output: "features".to_owned(),
        preprocess: PreprocessSpec::dinov3(SHAPE[2] as u32, SHAPE[3] as u32),
        variant: FP32.to_owned(),
        precision: FP32.to_owned(),
        batch_mode: BatchMode::Any,
        model: &exported.model,
        data: Some(&data.bytes),
        parity: &Parity {
            schema_version: Parity::SCHEMA_VERSION,
            images: 1,
            scale: 1.0,
            max_abs_error: 0.0,
            mean_abs_error: 0.0,
            tolerance: 1e-4,
            batch_max_abs_error: 0.0,
            batch_tolerance: 1e-5,
            same_labels: true,
            passed: true,
        },
        golden_inputs: &pixels,
        golden_logits: &golden_logits,
        licences: BTreeMap::new(),
        metrics: BTreeMap::new(),
        provenance: Provenance {
            splits_digest: digest,
            checkpoint_digest: digest,
            backbone_digest: digest,
            config_digest: digest,
            phase: Phase::Baseline,
        },
    };
    bundle::create(dir, new, Existing::Refuse).expect("a bundle")
}

#[test]
fn a_bundles_weights_are_verified_and_are_those_that_its_model_names() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let exported = outside("dinov2", bundle::MODEL);
    let bundle = create(dir.path(), &exported);
    let mut scorer = Scorer::open(dir.path(), &ScorerOptions::default()).expect("it opens");
    assert!(scorer.check_golden().expect("it runs").passed());
    let path = dir.path().join("variants/fp32/model.onnx.data");
    let whole = fs::read(&path).expect("weights");
    let mut changed = whole.clone();
    changed[4] ^= 1;
    fs::write(&path, &changed).expect("written");
    let error = Scorer::open(dir.path(), &ScorerOptions::default()).err();
    let error = error.expect("another digest").to_string();
    assert!(error.contains("model.onnx.data"), "{error}");
    // Somebody who writes the digest anew still has the model, which names the weights, and which the certificate names.
    let record = dir.path().join(bundle::MANIFEST);
    let text = fs::read_to_string(&record).expect("a record");
    let [old, new] = [&whole, &changed].map(|bytes| Digest::of_bytes(bytes).to_string());
    assert!(text.contains(&old), "{:?}", bundle.manifest());
    fs::write(&record, text.replace(&old, &new)).expect("written");
    let error = Scorer::open(dir.path(), &ScorerOptions::default()).err();
    let error = error.expect("other weights").to_string();
    assert!(error.contains("stage1.data_digest"), "{error}");
}

#[test]
fn the_golden_weights_are_what_the_data_holds() {
    let exported = outside("dinov2", "x.onnx");
    let data = &exported.data.as_ref().expect("weights of their own").bytes;
    let file = crate::support::goldens().join("dinov2/model.safetensors");
    let file = TensorFile::open(&file).expect("golden weights");
    // The first tensor is the patch embedding's, as it is in the file: at offset 0, the next one a page later.
    let name = "embeddings.patch_embeddings.projection.weight";
    let (_, values) = file.f32(name).expect("a golden tensor");
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(data[..bytes.len()], bytes);
}
