//! Every golden backbone, exported and run: tokens and features are transformers' own.

use crate::{
    goldens::Suite,
    support::{Ort, golden_backbone, relative_error},
};
use stage1_core::{artifact::tensors::TensorFile, model::Weights};
use stage1_exporter::export_embedding;
use std::{collections::BTreeSet, path::Path};

/// What float32 in another order of summation is allowed, as a share of the outputs' scale.
const TOLERANCE: f64 = 1e-4;

const EXCEPTIONS: &[(&str, &str)] = &[
    (
        "backbones/*convnext*",
        "ConvNeXt backbones are not supported yet",
    ),
    ("backbones/adapters/*", "adapters are not supported yet"),
];

/// The outputs of one forward pass of the reference.
struct Case<'a> {
    file: &'a TensorFile,
    name: &'a str,
}

impl Case<'_> {
    fn tensor(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        self.file
            .f32(&format!("{}.{name}", self.name))
            .expect("a tensor of the case")
    }

    fn check(&self, dir: &Path) {
        let (spec, weights) = Weights::open(dir).expect("every tensor is known");
        let (shape, pixels) = self.tensor("pixel_values");
        let shape: [usize; 4] = shape.try_into().expect("[N, 3, H, W]");
        let exported =
            export_embedding(&spec, &weights, shape[2], shape[3]).expect("an exported model");
        let outputs = Ort::new(&exported.model).outputs(&pixels, shape, &["tokens", "features"]);
        for (output, name) in outputs.iter().zip(["last_hidden_state", "pooler_output"]) {
            let error = relative_error(output, &self.tensor(name).1);
            assert!(
                error <= TOLERANCE,
                "{} {} {name}: {error:e}",
                dir.display(),
                self.name
            );
        }
    }
}

#[test]
fn exported_backbones_compute_what_transformers_does() {
    let mut suite = Suite::discover("exported backbones", "backbones", |_| true, EXCEPTIONS);
    let excepted = |path: &Path| {
        let path = path.to_string_lossy();
        path.contains("convnext") || path.contains("adapters")
    };
    for path in suite.paths().into_iter().filter(|path| !excepted(path)) {
        if path
            .file_name()
            .is_none_or(|name| name != "cases.safetensors")
        {
            // The configuration and weights of the cases beside them, read there.
            suite.mark_used(&path);
            continue;
        }
        let file = TensorFile::open(&path).expect("golden cases");
        let shapes = file.shapes().expect("golden cases");
        let case = |name: &String| name.strip_suffix(".pixel_values").map(str::to_owned);
        let cases: BTreeSet<_> = shapes.keys().filter_map(case).collect();
        suite.expand(&path, &cases);
        for name in &cases {
            Case { file: &file, name }.check(path.parent().expect("a folder"));
            suite.mark_case(&path, name);
        }
    }
    suite.finish();
}

#[test]
fn equal_inputs_give_equal_bytes() {
    for name in ["dinov2", "dinov3-vit-swiglu"] {
        let (spec, weights) = golden_backbone(name);
        let export = || export_embedding(&spec, &weights, 24, 40).expect("an exported model");
        assert_eq!(export(), export(), "{name}");
    }
}

#[test]
fn a_size_between_patches_is_refused() {
    let (spec, weights) = golden_backbone("dinov2");
    let error = export_embedding(&spec, &weights, 30, 32).expect_err("30 is no multiple of 4");
    assert!(
        error.to_string().contains("(28, 32) and (32, 32)"),
        "{error}"
    );
}
