//! Every golden backbone, exported and run: tokens and features are transformers' own.

use crate::{
    goldens::Suite,
    support::{Ort, golden_backbone, goldens, numbers, relative_error, with_still_blocks},
};
use stage1_core::{
    artifact::tensors::TensorFile,
    model::{Adapter, BlockRole, Blocks, Role, Weights},
};
use stage1_exporter::export_embedding;
use std::{collections::BTreeSet, path::Path};

/// What float32 in another order of summation is allowed, as a share of the outputs' scale.
const TOLERANCE: f64 = 1e-4;

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
        let weights = Weights::open(dir).expect("every tensor is known");
        let (shape, pixels) = self.tensor("pixel_values");
        let shape: [usize; 4] = shape.try_into().expect("[N, 3, H, W]");
        let exported = export_embedding(&weights, shape[2], shape[3]).expect("an exported model");
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
    let mut suite = Suite::discover("exported backbones", "backbones", |p| !is_adapter(p), &[]);
    for path in suite.paths() {
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
fn exported_adapters_compute_what_peft_does() {
    let mut suite = Suite::discover("exported adapters", "backbones", is_adapter, &[]);
    for path in suite.paths() {
        suite.mark_used(&path);
        if path.ends_with("cases.safetensors") {
            check_adapter(path.parent().expect("a folder"), &path);
        }
    }
    suite.finish();
}

/// Whether a path below `backbones` belongs to the goldens of adapters.
fn is_adapter(path: &Path) -> bool {
    path.starts_with("adapters")
}

/// PEFT's adapter beside the weights and PEFT's own merge are both the merged weights here.
fn check_adapter(dir: &Path, cases: &Path) {
    let base = Weights::open(&dir.join("base")).expect("every tensor is known");
    let adapter = Adapter::open(dir).expect("an adapter that is understood");
    let merged = base.merged(&adapter).expect("it fits");
    let file = TensorFile::open(cases).expect("golden cases");
    let golden = |name: &str| file.f32(name).expect("a tensor of the case");
    let names = file.shapes().expect("golden cases").into_keys();
    for name in names.filter(|name| name.ends_with(".weight")) {
        let error = relative_error(merged_weight(&merged, &name), &golden(&name).1);
        assert!(error <= 1e-6, "{} {name}: {error:e}", dir.display());
    }
    let (shape, pixels) = golden("pixel_values");
    let shape: [usize; 4] = shape.try_into().expect("[N, 3, H, W]");
    let exported = export_embedding(&merged, shape[2], shape[3]).expect("an exported model");
    let outputs = Ort::new(&exported.model).outputs(&pixels, shape, &["features"]);
    for name in ["pooler_output", "merged.pooler_output"] {
        let error = relative_error(&outputs[0], &golden(name).1);
        assert!(error <= TOLERANCE, "{} {name}: {error:e}", dir.display());
    }
}

/// The tensor that a golden calls `merged.layer<i>.<module>.weight`, by transformers' names of the modules, which are not
/// always those of its files.
fn merged_weight<'a>(weights: &'a Weights, golden: &str) -> &'a [f32] {
    let rest = golden.strip_prefix("merged.layer");
    let (layer, tensor) = rest.and_then(|rest| rest.split_once('.')).expect(golden);
    let role = match tensor {
        "q_proj.weight" => BlockRole::QWeight,
        "k_proj.weight" => BlockRole::KWeight,
        "v_proj.weight" => BlockRole::VWeight,
        "o_proj.weight" => BlockRole::ProjWeight,
        "up_proj.weight" | "fc1.weight" => BlockRole::UpWeight,
        "gate_proj.weight" => BlockRole::GateWeight,
        "down_proj.weight" | "fc2.weight" => BlockRole::DownWeight,
        other => panic!("{golden}: {other}"),
    };
    weights.get(Role::Block(layer.parse().expect(golden), role))
}

/// Blocks above the last that is run aren't in the file, and the others compute what the whole backbone would if those
/// above changed nothing.
#[test]
fn a_backbone_can_end_after_any_block() {
    let shape = [2, 3, 32, 64];
    let pixels = numbers(shape.iter().product(), 5);
    for name in [
        "dinov2",
        "dinov2-registers-swiglu",
        "dinov3-vit-mlp",
        "dinov3-vit-swiglu",
    ] {
        let run = |weights: &Weights| {
            let exported = export_embedding(weights, shape[2], shape[3]).expect("exported");
            let outputs =
                Ort::new(&exported.model).outputs(&pixels, shape, &["tokens", "features"]);
            (exported.model, outputs)
        };
        let first = Blocks::First(1);
        let cut = Weights::open_blocks(&goldens().join(name), first).expect("one block");
        let (model, got) = run(&cut);
        let (_, want) = run(&with_still_blocks(name, 1));
        for (got, want) in got.iter().zip(&want) {
            let error = relative_error(got, want);
            assert!(error <= 1e-6, "{name}: {error:e}");
        }
        let text = String::from_utf8_lossy(&model);
        assert!(
            text.contains("blocks.0.") && !text.contains("blocks.1"),
            "{name}"
        );
    }
}

#[test]
fn equal_inputs_give_equal_bytes() {
    for name in ["dinov2", "dinov3-vit-swiglu", "dinov3-convnext"] {
        let weights = golden_backbone(name);
        let export = || export_embedding(&weights, 32, 64).expect("an exported model");
        assert_eq!(export(), export(), "{name}");
    }
}

#[test]
fn a_size_between_patches_is_refused() {
    for (name, height, nearest) in [
        ("dinov2", 30, "(28, 32) and (32, 32)"),
        ("dinov3-convnext", 48, "(32, 32) and (64, 32)"),
    ] {
        let weights = golden_backbone(name);
        let error = export_embedding(&weights, height, 32).expect_err(name);
        assert!(error.to_string().contains(nearest), "{name}: {error}");
    }
}
