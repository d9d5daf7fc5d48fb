//! What an export costs: the graph of a backbone with the shapes of DINOv3 ViT-S/16 and random weights, from weights that are
//! read already, in both forms of input; and looking at a finished model.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stage1_benches::weights::random;
use stage1_core::{
    model::preset,
    preprocess::{IMAGENET_MEAN, IMAGENET_STD, Normalisation},
};
use stage1_exporter::{Form, Input, export_embedding_as, inspect};
use std::hint::black_box;

const SIDE: usize = 224;

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
