//! `stage1 bench`: latency of one image by stage, and throughput.

use super::session;
use crate::{
    args::BenchArgs,
    inputs::Inputs,
    output::{Answer, Output},
    progress::Steps,
    steps::latency::percentile,
};
use anyhow::bail;
use serde::Serialize;
use stage1_core::{
    bundle::{DecisionKind, Prediction},
    progress::{Progress, Silent},
};
use stage1_runtime::{CancelToken, Predictor, Timings};
use std::{
    fmt::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What was measured, and on what.
#[derive(Serialize)]
struct Report {
    bundle: PathBuf,
    variant: String,
    provider: String,
    provider_version: String,
    cpu_isa: String,
    certified: bool,
    /// Different images that were used in turn.
    images: usize,
    iterations: usize,
    warmup: usize,
    /// One image at a time, from the file to the decision.
    latency_ms: Latency,
    /// Many at once, decoded on all cores while the model runs on `batch` of them.
    throughput: Throughput,
}

#[derive(Serialize)]
struct Latency {
    decode: Stage,
    preprocess: Stage,
    inference: Stage,
    decide: Stage,
    /// By the clock around it all, so a little more than the stages together.
    end_to_end: Stage,
}

/// Milliseconds. A percentile is the smallest time that so many per cent don't exceed.
#[derive(Serialize)]
struct Stage {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

#[derive(Serialize)]
struct Throughput {
    batch: usize,
    images_per_second: f64,
}

pub(crate) fn run(args: &BenchArgs, output: &Output) -> anyhow::Result<Answer> {
    if args.iterations == 0 {
        bail!("--iterations is 0, a whole number ≥ 1 is needed");
    }
    let images = Inputs::new(&args.paths, None)?.collect()?;
    let paths: Vec<_> = images.into_iter().map(|image| image.path).collect();
    // Measuring promises nothing, so that a session that isn't certified may be measured.
    let predictor = session::open(
        &args.bundle,
        args.variant.as_deref(),
        &args.session,
        true,
        *output,
    )?;
    let progress = Steps::new(*output);
    let latency_ms = latency(&predictor, &paths, args, &progress)?;
    let throughput = throughput(&predictor, &paths, args, &progress)?;
    let fingerprint = predictor.scorer().fingerprint();
    let report = Report {
        bundle: args.bundle.clone(),
        variant: predictor.scorer().variant().to_owned(),
        provider: fingerprint.provider,
        provider_version: fingerprint.provider_version,
        cpu_isa: fingerprint.cpu_isa,
        certified: predictor.standing().is_certified(),
        images: paths.len(),
        iterations: args.iterations,
        warmup: args.warmup,
        latency_ms,
        throughput,
    };
    output.answer(&report, &text(&report))?;
    Ok(Answer::Yes)
}

fn latency(
    predictor: &Predictor,
    paths: &[PathBuf],
    args: &BenchArgs,
    progress: &dyn Progress,
) -> anyhow::Result<Latency> {
    let mut in_turn = paths.iter().cycle();
    let mut next = || {
        in_turn
            .next()
            .map(PathBuf::as_path)
            .expect("there is at least one image")
    };
    progress.start("warm up", args.warmup as u64);
    for _ in 0..args.warmup {
        measure(predictor, next())?;
        progress.advance(1);
    }
    progress.start("one image at a time", args.iterations as u64);
    let mut measured = Vec::with_capacity(args.iterations);
    for _ in 0..args.iterations {
        measured.push(measure(predictor, next())?);
        progress.advance(1);
    }
    progress.finish();
    let stage =
        |pick: fn(&(Timings, Duration)) -> Duration| Stage::of(measured.iter().map(pick).collect());
    Ok(Latency {
        decode: stage(|(timings, _)| timings.decode),
        preprocess: stage(|(timings, _)| timings.preprocess),
        inference: stage(|(timings, _)| timings.inference),
        decide: stage(|(timings, _)| timings.decide),
        end_to_end: stage(|(_, total)| *total),
    })
}

fn measure(predictor: &Predictor, path: &Path) -> anyhow::Result<(Timings, Duration)> {
    let start = Instant::now();
    let (prediction, timings) = predictor.predict_one_timed(path)?;
    let total = start.elapsed();
    check(&prediction)?;
    Ok((timings, total))
}

/// A failed image is fast: it would make the figures better than they are.
fn check(prediction: &Prediction) -> anyhow::Result<()> {
    match (prediction.decision, &prediction.error) {
        (DecisionKind::Error, Some(error)) => {
            bail!("only images that can be judged can be measured: {error}")
        }
        _ => Ok(()),
    }
}

fn throughput(
    predictor: &Predictor,
    paths: &[PathBuf],
    args: &BenchArgs,
    progress: &dyn Progress,
) -> anyhow::Result<Throughput> {
    // Buffers for this batch size are made by the first batch.
    batches(predictor, paths, args.warmup, &Silent)?;
    progress.start("many at once", args.iterations as u64);
    let start = Instant::now();
    batches(predictor, paths, args.iterations, progress)?;
    let seconds = start.elapsed().as_secs_f64();
    progress.finish();
    Ok(Throughput {
        batch: predictor.scorer().batch(),
        images_per_second: args.iterations as f64 / seconds,
    })
}

fn batches(
    predictor: &Predictor,
    paths: &[PathBuf],
    n: usize,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    let paths = paths.iter().cycle().take(n).cloned();
    for prediction in predictor.stream(paths, &CancelToken::new()) {
        check(&prediction?)?;
        progress.advance(1);
    }
    Ok(())
}

impl Stage {
    /// Of at least one time.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let sum: Duration = times.iter().sum();
        Self {
            mean: sum.as_secs_f64() * 1e3 / times.len() as f64,
            p50: percentile(&times, 50),
            p90: percentile(&times, 90),
            p99: percentile(&times, 99),
            max: percentile(&times, 100),
        }
    }
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    table(report, &mut out).expect("writing to a string can't fail");
    out
}

fn table(report: &Report, out: &mut String) -> std::fmt::Result {
    let latency = &report.latency_ms;
    writeln!(
        out,
        "{:<12}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "ms per image", "mean", "p50", "p90", "p99", "max"
    )?;
    for (name, stage) in [
        ("decode", &latency.decode),
        ("preprocess", &latency.preprocess),
        ("inference", &latency.inference),
        ("decide", &latency.decide),
        ("end to end", &latency.end_to_end),
    ] {
        let Stage {
            mean,
            p50,
            p90,
            p99,
            max,
        } = stage;
        writeln!(
            out,
            "{name:<12}{mean:>9.3}{p50:>9.3}{p90:>9.3}{p99:>9.3}{max:>9.3}"
        )?;
    }
    let Throughput {
        batch,
        images_per_second,
    } = &report.throughput;
    writeln!(
        out,
        "\nmany at once, in batches of {batch}: {images_per_second:.1} images/s"
    )?;
    writeln!(
        out,
        "{}: {} on {}, {}; {} repetitions over {} images after {} to warm up",
        report.variant,
        report.provider_version,
        report.provider,
        report.cpu_isa,
        report.iterations,
        report.images,
        report.warmup
    )
}
