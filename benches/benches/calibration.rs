//! From logits to certificate and metrics, by stage, on 100,000 rows of ten classes; and the bootstrap by resample.
//! The example `calibration` times a million rows, and memory.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use stage1_benches::calibration::{Problem, STAGES, auto, bootstrap};
use std::hint::black_box;
use std::time::Duration;

const ROWS: usize = 100_000;
const CLASSES: usize = 10;
/// One hundredth of the usual number.
const RESAMPLES: usize = 20;

fn stages(c: &mut Criterion) {
    let problem = Problem::generate(ROWS, CLASSES);
    let mut group = c.benchmark_group("calibration 100000x10");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::Elements(ROWS as u64));
    for stage in &STAGES {
        group.bench_function(stage.name, |b| b.iter(|| (stage.run)(black_box(&problem))));
    }
    group.bench_function("auto", |b| b.iter(|| auto(black_box(&problem))));
    group.finish();
}

fn resamples(c: &mut Criterion) {
    let problem = Problem::generate(ROWS / 5, CLASSES);
    let mut group = c.benchmark_group("bootstrap 20000x10");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::Elements(RESAMPLES as u64));
    group.bench_function("resamples", |b| {
        b.iter(|| bootstrap(black_box(&problem), RESAMPLES))
    });
    group.finish();
}

criterion_group!(benches, stages, resamples);
criterion_main!(benches);
