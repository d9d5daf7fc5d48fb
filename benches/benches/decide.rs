//! How long one decision takes, from raw logits to answer or defer.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use stage1_core::artifact::Digest;
use stage1_core::policy::{Calibrator, Policy, Score, Threshold};
use std::hint::black_box;

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for classes in [2, 10, 1000] {
        let policy = policy(classes);
        let logits: Vec<f32> = (0..classes).map(|k| (k * 37 % 101) as f32 / 20.0).collect();
        group.bench_with_input(
            BenchmarkId::from_parameter(classes),
            &logits,
            |b, logits| {
                b.iter(|| policy.decide(black_box(logits)));
            },
        );
    }
    group.finish();
}

/// What `stage1 calibrate` makes for this many classes.
fn policy(classes: usize) -> Policy {
    let (score, threshold, calibrator) = if classes == 2 {
        let threshold = Threshold::TwoSided {
            low: -1.0,
            high: 1.0,
        };
        (
            Score::BinaryMargin,
            threshold,
            Calibrator::Beta {
                a: 0.9,
                b: 1.1,
                c: 0.1,
            },
        )
    } else {
        let score = Score::MaxProbability { temperature: 1.3 };
        (
            score,
            Threshold::OneSided { at_least: 0.5 },
            Calibrator::Temperature { t: 1.4 },
        )
    };
    Policy::new(
        classes,
        score,
        threshold,
        calibrator,
        Digest::of_bytes(b"plan"),
    )
}

criterion_group!(benches, decide);
criterion_main!(benches);
