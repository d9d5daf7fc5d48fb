//! Backbones against the outputs of Hugging Face transformers.

use crate::goldens::Suite;
use stage1_core::{
    artifact::tensors::{self, Tensor as StoredTensor, TensorFile},
    model::{Adapter, BackboneSpec, Blocks, Features, Weights},
};
use stage1_trainer::{
    backbone::{Backbone, Places, PooledFeatures},
    head::values,
};
use std::{collections::BTreeMap, fs, path::Path};
use tch::{Device, Tensor, no_grad};

/// Of the largest expected value: float32 sums in another order.
const TOLERANCE: f32 = 1e-4;

#[test]
fn backbones_reproduce_transformers() {
    // The models are tiny: threads would only wait for each other.
    tch::set_num_threads(1);
    let mut suite = Suite::discover(
        "trainer backbones",
        "backbones",
        |path| !is_adapter(path),
        &[],
    );
    for cases in suite.paths() {
        if !cases.ends_with("cases.safetensors") {
            // The configuration and weights of the cases beside them, read there.
            suite.mark_used(&cases);
            continue;
        }
        let weights = Weights::open(cases.parent().unwrap()).unwrap();
        let file = TensorFile::open(&cases).unwrap();
        let names = case_names(&file);
        suite.expand(&cases, &names);
        for name in &names {
            check(&weights, &file, name);
            suite.mark_case(&cases, name);
        }
    }
    suite.finish();
}

#[test]
fn merged_adapters_reproduce_peft() {
    tch::set_num_threads(1);
    let mut suite = Suite::discover("trainer adapters", "backbones", is_adapter, &[]);
    for path in suite.paths() {
        suite.mark_used(&path);
        if !path.ends_with("cases.safetensors") {
            continue;
        }
        let dir = path.parent().unwrap();
        let base = Weights::open(&dir.join("base")).unwrap();
        let merged = base.merged(&Adapter::open(dir).unwrap()).unwrap();
        let file = TensorFile::open(&path).unwrap();
        let (shape, pixels) = file.f32("pixel_values").unwrap();
        let (_, features) = forward(&merged, &shape, &pixels);
        // PEFT's adapter beside the weights, and PEFT's own merge, are both ours merged.
        for name in ["pooler_output", "merged.pooler_output"] {
            let want = file.f32(name).unwrap().1;
            let what = format!("{} {name}", path.display());
            assert_close(&values(&features.class), &want, &what);
        }
    }
    suite.finish();
}

/// What a head on block k reads is what the whole backbone gives when the blocks above change nothing.
#[test]
fn a_backbone_can_end_after_any_block() {
    tch::set_num_threads(1);
    for name in [
        "dinov2",
        "dinov2-registers-swiglu",
        "dinov3-vit-mlp",
        "dinov3-vit-swiglu",
    ] {
        let shape = [2, 3, 32, 64];
        let pixels: Vec<_> = (0..2 * 3 * 32 * 64)
            .map(|i| (i % 97) as f32 / 97.0)
            .collect();
        let whole = with_still_blocks(name, 1);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones");
        let cut = Weights::open_blocks(&golden.join(name), Blocks::First(1)).unwrap();
        let run = |weights| {
            let (tokens, features) = forward(weights, &shape, &pixels);
            let features = features.select(Features::ClsMeanPatch);
            [values(&tokens), values(&features)]
        };
        for (got, want) in run(&cut).iter().zip(run(&whole)) {
            assert_close(got, &want, name);
        }
    }
}

/// A golden vision transformer whose blocks from `first` on change nothing: LayerScale multiplies what they would add by 0.
fn with_still_blocks(name: &str, first: usize) -> Weights {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../goldens/backbones")
        .join(name);
    let dir = tempfile::tempdir().unwrap();
    fs::copy(golden.join("config.json"), dir.path().join("config.json")).unwrap();
    let file = TensorFile::open(&golden.join("model.safetensors")).unwrap();
    let is_still = |name: &str| {
        let (_, place) = name.split_once("layer.").unwrap_or_default();
        let (block, _) = place.split_once('.').unwrap_or_default();
        name.contains("layer_scale") && block.parse().is_ok_and(|block: usize| block >= first)
    };
    let tensor = |name: String| {
        let (shape, values) = file.f32(&name).unwrap();
        let values = match is_still(&name) {
            true => vec![0.0; values.len()],
            false => values,
        };
        (name, StoredTensor::f32(shape, values))
    };
    let names = file.shapes().unwrap().into_keys();
    let path = dir.path().join("model.safetensors");
    tensors::save(&path, &names.map(tensor).collect(), &BTreeMap::new()).unwrap();
    Weights::open(dir.path()).unwrap()
}

/// Whether a path below `backbones` belongs to the goldens of adapters.
fn is_adapter(path: &Path) -> bool {
    path.starts_with("adapters")
}

fn case_names(file: &TensorFile) -> Vec<String> {
    let shapes = file.shapes().unwrap();
    let inputs = shapes
        .keys()
        .filter_map(|name| name.strip_suffix(".pixel_values"));
    inputs.map(str::to_owned).collect()
}

fn forward(weights: &Weights, shape: &[usize], pixels: &[f32]) -> (Tensor, PooledFeatures) {
    let places = Places::new(weights, (shape[2], shape[3]), Device::Cpu).unwrap();
    let shape: Vec<_> = shape.iter().map(|&n| n as i64).collect();
    let pixels = Tensor::from_slice(pixels).reshape(shape);
    let backbone = Backbone::new(weights, Device::Cpu);
    no_grad(|| {
        let tokens = backbone.tokens(&pixels, &places);
        (tokens, backbone.features(&pixels, &places))
    })
}

fn check(weights: &Weights, file: &TensorFile, case: &str) {
    let golden = |what: &str| file.f32(&format!("{case}.{what}")).unwrap();
    let (shape, pixels) = golden("pixel_values");
    let (tokens, features) = forward(weights, &shape, &pixels);
    let name = format!("{} {case}", file.path().display());
    assert_close(
        &values(&tokens),
        &golden("last_hidden_state").1,
        &format!("{name} tokens"),
    );
    assert_close(
        &values(&features.class),
        &golden("pooler_output").1,
        &format!("{name} class token"),
    );
    let both = values(&features.select(Features::ClsMeanPatch));
    check_patch_mean(weights.spec(), &tokens, &both, &name);
}

/// Our own definition, spelled out on the tokens: the class token, then the mean without class token and registers.
fn check_patch_mean(spec: &BackboneSpec, tokens: &Tensor, got: &[f32], name: &str) {
    let (batch, count, width) = tokens.size3().unwrap();
    let (count, width) = (count as usize, width as usize);
    let first = spec.prefix_tokens();
    let tokens = values(tokens);
    let mut want = Vec::new();
    for image in tokens.chunks_exact(count * width) {
        want.extend_from_slice(&image[..width]);
        let mean = |d: usize| {
            (first..count).map(|t| image[t * width + d]).sum::<f32>() / (count - first) as f32
        };
        want.extend((0..width).map(mean));
    }
    assert_eq!(want.len(), batch as usize * 2 * width);
    assert_close(got, &want, &format!("{name} features"));
}

fn assert_close(got: &[f32], want: &[f32], name: &str) {
    assert_eq!(got.len(), want.len(), "{name}");
    let scale = want.iter().fold(0.0_f32, |scale, x| scale.max(x.abs()));
    let error = got
        .iter()
        .zip(want)
        .fold(0.0_f32, |error, (a, b)| error.max((a - b).abs()));
    assert!(
        error <= TOLERANCE * scale,
        "{name}: error {error} at scale {scale}"
    );
}
