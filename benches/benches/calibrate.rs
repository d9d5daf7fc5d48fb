//! How long the calibrators of the reported probability take to fit on 1,000,000 rows of 10 classes.

use criterion::{Criterion, criterion_group, criterion_main};
use stage1_calibration::calibrate::fit;
use stage1_calibration::rows::Labelled;
use stage1_core::config::CalibratorChoice;
use stage1_core::policy::argmax;
use std::hint::black_box;

const ROWS: usize = 1_000_000;
const CLASSES: usize = 10;

fn calibrators(c: &mut Criterion) {
    let (logits, labels) = rows();
    let rows = Labelled {
        logits: &logits,
        classes: CLASSES,
        labels: &labels,
    };
    let mut group = c.benchmark_group("calibrate/1,000,000x10");
    group.sample_size(10);
    for choice in [
        CalibratorChoice::Temperature,
        CalibratorChoice::Vector,
        CalibratorChoice::Svs,
        CalibratorChoice::Sms,
        CalibratorChoice::Auto,
    ] {
        group.bench_function(format!("{choice:?}"), |b| {
            b.iter(|| fit(black_box(rows), None, 1, choice));
        });
    }
    group.finish();
}

/// Logits of an overconfident model whose classes are overconfident to different degrees, so that `auto` takes SMS.
fn rows() -> (Vec<f32>, Vec<usize>) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let (mut logits, mut labels) = (Vec::new(), Vec::new());
    for _ in 0..ROWS {
        let row: Vec<f32> = (0..CLASSES).map(|_| 12.0 * uniform() - 6.0).collect();
        // The label is the largest of a part of each logit, a part of its neighbour's, and Gumbel noise.
        let noisy: Vec<f32> = (0..CLASSES)
            .map(|k| {
                let part = 0.3 + 0.05 * k as f32;
                let gumbel = -(-(uniform() + 1e-9).ln()).ln();
                part * row[k] + 0.1 * row[(k + 1) % CLASSES] + gumbel
            })
            .collect();
        labels.push(argmax(&noisy));
        logits.extend(row);
    }
    (logits, labels)
}

criterion_group!(benches, calibrators);
criterion_main!(benches);
