//! What an export costs: the graph of a backbone with the shapes of DINOv3 ViT-S/16 and random weights, from weights that are
//! read already, in both forms of input; and looking at a finished model.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stage1_core::{
    artifact::tensors::{self, Tensor},
    model::{BackboneSpec, Weights, preset},
    preprocess::{IMAGENET_MEAN, IMAGENET_STD, Normalisation},
};
use stage1_exporter::{Form, Input, export_embedding_as, inspect};
use std::{collections::BTreeMap, fs, hint::black_box};

const SIDE: usize = 224;

/// Weights of this shape, of numbers that mean nothing.
fn random(spec: &BackboneSpec) -> Weights {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 27) as f32 - 0.0625
    };
    let tensors: BTreeMap<_, _> = spec
        .tensors()
        .into_iter()
        .map(|tensor| {
            let values = (0..tensor.shape.iter().product()).map(|_| next()).collect();
            (tensor.name, Tensor::f32(tensor.shape, values))
        })
        .collect();
    let path = dir.path().join("model.safetensors");
    tensors::save(&path, &tensors, &BTreeMap::new()).expect("saved");
    let config = spec.to_hf_config().to_string();
    fs::write(dir.path().join("config.json"), config).expect("written");
    Weights::open(dir.path()).expect("a valid backbone")
}

fn exporting(c: &mut Criterion) {
    let weights = random(&preset("dinov3-vits16").expect("a preset"));
    let normalisation = Normalisation::new(IMAGENET_MEAN, IMAGENET_STD);
    let inputs = [
        ("float32", Input::Float32),
        ("uint8", Input::Uint8(normalisation)),
    ];
    let mut group = c.benchmark_group("ViT-S/16 at 224");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(
        4 * weights.spec().parameter_count() as u64,
    ));
    for (name, input) in inputs {
        let form = Form {
            input,
            ..Form::default()
        };
        let export =
            || export_embedding_as(black_box(&weights), SIDE, SIDE, &form).expect("exported");
        group.bench_function(format!("export {name}"), |b| b.iter(export));
        let model = export().model;
        group.bench_function(format!("inspect {name}"), |b| {
            b.iter(|| inspect(black_box(&model)).expect("a model"));
        });
    }
    group.finish();
}

criterion_group!(benches, exporting);
criterion_main!(benches);
