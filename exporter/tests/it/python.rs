//! Every form of every family's exports, judged by ONNX's own checker, and computed again by Python's ONNX Runtime.

use crate::{
    classifier::Trained,
    input::{levels, normalised},
    support::{Opener, golden_backbones, goldens, normalisation},
};
use stage1_core::{
    artifact::tensors::{self, Tensor},
    model::{Adapter, Blocks, Features, HeadKind, Weights},
    preprocess::Arithmetic,
};
use stage1_exporter::{
    Attention, Exported, Form, Input, Int8Options, Sample, export_embedding_as, fp16, int8,
};
use stage1_runtime::{OrtSession, SessionOptions};
use std::{
    collections::BTreeMap,
    env, fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::Command,
};

/// Images of a run; a model for a fixed number takes these.
const IMAGES: usize = 2;
/// A multiple of every golden backbone's patch.
const SIDE: usize = 32;

/// Models in files, each with what it computes here.
struct Collection {
    dir: tempfile::TempDir,
    cases: Vec<String>,
}

impl Collection {
    /// Adds the model that `export` makes for a file, in each precision.
    fn add_precisions(&mut self, name: &str, export: impl Fn(&Form) -> Exported) {
        let shape = [4, 3, SIDE, SIDE];
        let pixels = normalised(&levels(shape.iter().product(), 7), shape);
        let sample = Sample::new(&pixels, [3, SIDE, SIDE]).expect("a sample");
        let bytes = Input::Uint8(normalisation());
        for (batch, images, input) in [
            ("dynamic", 0, Input::Float32),
            ("fixed", IMAGES, Input::Float32),
            ("bytes", 0, bytes),
            ("fixed-bytes", IMAGES, bytes),
        ] {
            let form = |precision: &str| Form {
                file_name: format!("{name}.{precision}.{batch}.onnx"),
                batch: NonZero::new(images),
                input,
                ..Form::default()
            };
            let model = export(&form("fp32"));
            for (precision, attention) in [
                ("fp16", Attention::Half),
                ("fp16-single", Attention::Single),
            ] {
                let half = fp16(&model, sample, &mut Opener::default(), attention).expect(name);
                assert!(half.half > 0, "{name}");
                self.add(&form(precision), &half.model);
            }
            for (precision, weight_bits) in [("int8", 8), ("int8-7bit", 7)] {
                let options = Int8Options {
                    weight_bits,
                    max_error: 0.9,
                };
                let int8 = int8(&model, sample, &mut Opener::default(), options).expect(name);
                assert!(!int8.quantised.is_empty(), "{name}");
                self.add(&form(precision), &int8.model);
            }
            self.add(&form("fp32"), &model);
            let outside = Form {
                external_above: 0,
                ..form("fp32-external")
            };
            let model = export(&outside);
            assert!(model.data.is_some(), "{name}");
            self.add(&outside, &model);
        }
    }

    /// Writes a model, and what it computes.
    fn add(&mut self, form: &Form, model: &Exported) {
        let path = self.dir.path().join(&form.file_name);
        fs::write(&path, &model.model).expect("written");
        if let Some(data) = &model.data {
            fs::write(self.dir.path().join(&data.name), &data.bytes).expect("written");
        }
        let shape = [IMAGES, 3, SIDE, SIDE];
        let levels = levels(shape.iter().product(), 5);
        let pixels = normalised(&levels, shape);
        let mut session = OrtSession::open(&path, &SessionOptions::default()).expect("a model");
        let names: Vec<String> = session.outputs().iter().map(|o| o.name.clone()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let outputs = session
            .run_normalised(&pixels, shape, normalisation(), &names)
            .expect("it runs");
        let input = match form.input {
            Input::Float32 => Tensor::f32(shape, pixels),
            Input::Uint8(_) => Tensor::u8([IMAGES, SIDE, SIDE, 3], levels),
        };
        let mut stored: BTreeMap<String, Tensor> = outputs
            .into_iter()
            .map(|output| {
                let tensor = Tensor::f32(output.shape, output.values);
                (format!("output.{}", output.name), tensor)
            })
            .collect();
        stored.insert("pixel_values".to_owned(), input);
        let results = path.with_extension("safetensors");
        tensors::save(&results, &stored, &BTreeMap::new()).expect("saved");
        self.cases
            .push(form.file_name.trim_end_matches(".onnx").to_owned());
    }
}

/// The whole backbone and, of a vision transformer, its first block alone.
fn depths(name: &str) -> Vec<(String, Weights)> {
    let open = |blocks| Weights::open_blocks(&goldens().join(name), blocks);
    let mut depths = vec![(
        name.to_owned(),
        open(Blocks::All).expect("a golden backbone"),
    )];
    if !name.contains("convnext") {
        let first = open(Blocks::First(1)).expect("one block");
        depths.push((format!("{name}.block1"), first));
    }
    depths
}

/// The golden adapters' folders.
fn adapters() -> Vec<PathBuf> {
    let entries = fs::read_dir(goldens().join("adapters")).expect("golden adapters");
    let mut dirs: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("adapter_config.json").is_file())
        .collect();
    dirs.sort();
    assert!(!dirs.is_empty());
    dirs
}

fn python() -> PathBuf {
    env::var_os("STAGE1_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}

#[test]
#[ignore = "calls ONNX and ONNX Runtime in Python: cargo xtask test --python"]
fn onnx_accepts_every_export_and_python_computes_the_same() {
    let mut collection = Collection {
        dir: tempfile::tempdir().expect("a temporary folder"),
        cases: Vec::new(),
    };
    for (name, weights) in golden_backbones().iter().flat_map(|name| depths(name)) {
        collection.add_precisions(&format!("{name}.embedding"), |form| {
            export_embedding_as(&weights, SIDE, SIDE, form).expect("exported")
        });
        let gated = HeadKind::Mlp { hidden: 7 };
        let mut gated = Trained::on(weights.clone(), gated, Features::Cls).with_gate();
        // Grey levels are asked for, too.
        gated.checkpoint.preprocess.arithmetic = Arithmetic::Uint8;
        collection.add_precisions(&format!("{name}.classifier-gate"), |form| {
            gated.export_as(form).expect("exported")
        });
        for (head, kind, features) in [
            ("cls", HeadKind::Linear, Features::Cls),
            ("mean", HeadKind::Mlp { hidden: 7 }, Features::ClsMeanPatch),
        ] {
            let mut trained = Trained::on(weights.clone(), kind, features);
            trained.checkpoint.preprocess.arithmetic = Arithmetic::Uint8;
            collection.add_precisions(&format!("{name}.classifier-{head}"), |form| {
                trained.export_as(form).expect("exported")
            });
        }
    }
    for dir in adapters() {
        let base = Weights::open(&dir.join("base")).expect("a golden backbone");
        let merged = base
            .merged(&Adapter::open(&dir).expect("an adapter"))
            .expect("it fits");
        let name = dir.file_name().unwrap_or_default().display().to_string();
        collection.add_precisions(&format!("{name}.adapter"), |form| {
            export_embedding_as(&merged, SIDE, SIDE, form).expect("exported")
        });
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/check_exports.py");
    let output = Command::new(python())
        .arg(script)
        .arg(collection.dir.path())
        .output()
        .expect("Python starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut checked: Vec<&str> = lines
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    checked.sort_unstable();
    collection.cases.sort_unstable();
    assert_eq!(checked, collection.cases);
}
