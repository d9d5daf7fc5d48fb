//! Other forms of a model: weights outside of the ONNX file, a fixed number of images. The same answers, through ONNX Runtime
//! and through a bundle.

use crate::support::{golden_backbone, numbers, relative_error};
use stage1_core::{
    artifact::{Digest, Document as _, tensors::TensorFile},
    bundle::{self, Bundle, Existing, FP32, InputSpec, NewBundle, Parity, Provenance},
    certificate::BatchMode,
    config::Phase,
    preprocess::{PixelFormat, PreprocessSpec},
};
use stage1_exporter::{Exported, Form, export_embedding, export_embedding_as, inspect};
use stage1_runtime::{OrtSession, Scorer, ScorerOptions, SessionOptions};
use std::{collections::BTreeMap, fs, num::NonZero, path::Path};

const SHAPE: [usize; 4] = [2, 3, 32, 32];

fn outside(name: &str, file_name: &str) -> Exported {
    let form = Form {
        file_name: file_name.to_owned(),
        external_above: 0,
        ..Form::default()
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

/// A bundle for `batch` images at once (0: any number), of an embedding model: its features are the logits.
fn create(dir: &Path, exported: &Exported, batch: usize, batch_mode: BatchMode) -> Bundle {
    let pixels = numbers(SHAPE.iter().product(), 5);
    let alone = tempfile::tempdir().expect("a temporary folder");
    let model = alone.path().join(bundle::MODEL);
    fs::write(&model, &exported.model).expect("written");
    let data = exported.data.as_ref();
    if let Some(data) = data {
        fs::write(alone.path().join(&data.name), &data.bytes).expect("written");
    }
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
            batch: NonZero::new(batch),
            pixels: PixelFormat::Float32,
        },
        output: "features".to_owned(),
        gate: None,
        preprocess: PreprocessSpec::dinov3(SHAPE[2] as u32, SHAPE[3] as u32),
        variant: FP32.to_owned(),
        precision: FP32.to_owned(),
        batch_mode,
        model: &exported.model,
        data: data.map(|data| data.bytes.as_slice()),
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
            flips: None,
            passed: true,
        },
        golden_inputs: &pixels,
        golden_logits: &golden_logits,
        golden_gates: None,
        licences: BTreeMap::new(),
        metrics: BTreeMap::new(),
        provenance: Provenance {
            splits_digest: digest,
            checkpoint_digest: digest,
            init_digest: None,
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
    let bundle = create(dir.path(), &exported, 0, BatchMode::Any);
    let scorer = Scorer::open(dir.path(), &ScorerOptions::default()).expect("it opens");
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

fn fixed(name: &str, batch: usize) -> Exported {
    let form = Form {
        batch: NonZero::new(batch),
        ..Form::default()
    };
    export_embedding_as(&golden_backbone(name), SHAPE[2], SHAPE[3], &form).expect("exported")
}

#[test]
fn a_fixed_number_of_images_answers_as_any_number() {
    let options = SessionOptions::default();
    let image = SHAPE[1..].iter().product::<usize>();
    let pixels = numbers(7 * image, 3);
    for name in [
        "dinov2",
        "dinov2-registers-swiglu",
        "dinov3-vit-mlp",
        "dinov3-vit-swiglu",
        "dinov3-convnext",
    ] {
        let [mut any, mut three] = [0, 3].map(|batch| {
            let model = fixed(name, batch).model;
            OrtSession::from_bytes(&model, name, &options).expect("a model")
        });
        assert_eq!((any.batch(), three.batch()), (None, Some(3)), "{name}");
        let shapes = three.outputs().iter().map(|output| output.shape[0]);
        assert!(shapes.eq([Some(3); 2]), "{name}: {:?}", three.outputs());
        for images in [1, 2, 3, 4, 6, 7] {
            let shape = [images, SHAPE[1], SHAPE[2], SHAPE[3]];
            let run = |session: &mut OrtSession| {
                let names = ["tokens", "features"];
                session
                    .run_named(&pixels[..images * image], shape, &names)
                    .expect("it runs")
            };
            for (got, want) in run(&mut three).iter().zip(run(&mut any)) {
                assert_eq!(got.shape, want.shape, "{name}, {images} images");
                let error = relative_error(&got.values, &want.values);
                assert!(error <= 1e-6, "{name}, {images} images: {error:e}");
            }
        }
    }
}

#[test]
fn a_bundles_fixed_number_of_images_is_that_of_its_model() {
    let cases = [
        ("any", 0, 0, BatchMode::Any, 8, ""),
        ("three", 3, 3, BatchMode::Any, 3, ""),
        ("one", 1, 1, BatchMode::Single, 1, ""),
        (
            "not recorded",
            3,
            0,
            BatchMode::Any,
            0,
            "expected any number, as bundle.json says",
        ),
        (
            "another",
            3,
            2,
            BatchMode::Any,
            0,
            "expected 2, as bundle.json says",
        ),
        (
            "only recorded",
            0,
            3,
            BatchMode::Any,
            0,
            "expected 3, as bundle.json says",
        ),
        (
            "neighbours",
            3,
            3,
            BatchMode::Single,
            0,
            "batch mode is `single`",
        ),
    ];
    for (name, model, recorded, mode, batch, reason) in cases {
        let dir = tempfile::tempdir().expect("a temporary folder");
        create(dir.path(), &fixed("dinov2", model), recorded, mode);
        match Scorer::open(dir.path(), &ScorerOptions::default()) {
            Ok(scorer) => {
                assert_eq!((scorer.batch(), reason), (batch, ""), "{name}");
                assert!(scorer.check_golden().expect("it runs").passed(), "{name}");
                let card = fs::read_to_string(dir.path().join(bundle::CARD)).expect("a card");
                let images = match model {
                    0 => "[N, 3, 32, 32]".to_owned(),
                    n => format!("[{n}, 3, 32, 32]"),
                };
                assert!(card.contains(&images), "{name}: {card}");
            }
            Err(error) => {
                let error = error.to_string();
                assert!(
                    !reason.is_empty() && error.contains(reason),
                    "{name}: {error}"
                );
            }
        }
    }
}
