//! Measures one configuration in this process: latency by stage, throughput of a stream, and of several clients at once.

use super::{
    child::{self, ColdStart, Memory},
    grid::{Point, session_args},
};
use crate::{
    args::BenchArgs, commands::session, output::Output, progress::Steps, steps::latency::percentile,
};
use anyhow::bail;
use serde::Serialize;
use stage1_core::{
    bundle::{DecisionKind, Prediction},
    progress::Progress,
};
use stage1_runtime::{CancelToken, Predictor, Timings};
use std::{
    ops::Range,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// What is measured with.
pub(super) struct Bench<'a> {
    pub(super) args: &'a BenchArgs,
    pub(super) paths: Vec<PathBuf>,
    pub(super) output: Output,
    pub(super) progress: Steps,
}

/// What was measured of a configuration.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub(super) provider: String,
    pub(super) provider_version: String,
    pub(super) cpu_isa: String,
    pub(super) certified: bool,
    pub(super) latency_ms: Latency,
    pub(super) throughput: Throughput,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) concurrent: Option<Concurrent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cold_start_ms: Option<ColdStart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory_mib: Option<Memory>,
}

/// Of requests for a batch of images each, one after the other.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Latency {
    /// The stages' times per image: the mean over a request's images, each on the thread that it was decoded on.
    pub(super) decode: Percentiles,
    pub(super) preprocess: Percentiles,
    pub(super) inference: Percentiles,
    pub(super) decide: Percentiles,
    /// From the files to the decisions of a request, by the clock around it all.
    pub(super) end_to_end: Percentiles,
}

/// Milliseconds. A percentile is the smallest time that so many per cent don't exceed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Percentiles {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Percentiles {
    /// Of at least one time.
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let sum: Duration = times.iter().sum();
        Self {
            mean: sum.as_secs_f64() * 1e3 / times.len() as f64,
            p50: percentile(&times, 50),
            p90: percentile(&times, 90),
            p95: percentile(&times, 95),
            p99: percentile(&times, 99),
            max: percentile(&times, 100),
        }
    }
}

/// Of a stream of images, decoded on all threads while the model runs on the batch before.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Throughput {
    pub(super) images: usize,
    pub(super) images_per_second: f64,
}

/// Of clients that ask for one image each, and for the next once they are answered.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Concurrent {
    pub(super) clients: usize,
    pub(super) images_per_second: f64,
    pub(super) latency_ms: Percentiles,
}

/// A request, by the clock, and its stages' mean per image.
struct Request {
    stages: Timings,
    total: Duration,
}

impl Bench<'_> {
    pub(super) fn measure(&self, point: &Point) -> anyhow::Result<Figures> {
        let args = self.args;
        let session = session_args(args, point.device, Some(point.threads), point.batch);
        // Before this process takes memory and warms the caches that it shares with them.
        let cold_start_ms = child::cold_start(self, point)?;
        let memory_mib = child::memory(self, point)?;
        // Measuring promises nothing, so that a session that isn't certified may be measured.
        let predictor = session::open(
            &args.bundle,
            Some(&point.variant),
            &session,
            true,
            self.output,
        )?;
        if predictor.scorer().batch() != point.batch {
            bail!(
                "its model takes {} images at a time",
                predictor.scorer().batch()
            );
        }
        let latency_ms = self.latency(&predictor, point.batch)?;
        let throughput = self.throughput(&predictor)?;
        let clients = args.concurrency;
        let concurrent = clients
            .map(|clients| self.concurrent(&predictor, clients))
            .transpose()?;
        let fingerprint = predictor.scorer().fingerprint();
        Ok(Figures {
            provider: fingerprint.provider,
            provider_version: fingerprint.provider_version,
            cpu_isa: fingerprint.cpu_isa,
            certified: predictor.standing().is_certified(),
            latency_ms,
            throughput,
            concurrent,
            cold_start_ms,
            memory_mib,
        })
    }

    /// The image that comes `i`-th.
    fn path(&self, i: usize) -> PathBuf {
        self.paths[i % self.paths.len()].clone()
    }

    fn latency(&self, predictor: &Predictor, batch: usize) -> anyhow::Result<Latency> {
        let request = |i: usize| {
            self.progress.advance(1);
            self.request(predictor, i * batch..(i + 1) * batch)
        };
        self.progress.start("warm up", self.args.warmup as u64);
        for i in 0..self.args.warmup {
            request(i)?;
        }
        self.progress
            .start("one request at a time", self.args.iterations as u64);
        let measured: Vec<_> = (0..self.args.iterations)
            .map(request)
            .collect::<Result<_, _>>()?;
        self.progress.finish();
        let stage =
            |pick: fn(&Request) -> Duration| Percentiles::of(measured.iter().map(pick).collect());
        Ok(Latency {
            decode: stage(|request| request.stages.decode),
            preprocess: stage(|request| request.stages.preprocess),
            inference: stage(|request| request.stages.inference),
            decide: stage(|request| request.stages.decide),
            end_to_end: stage(|request| request.total),
        })
    }

    fn request(&self, predictor: &Predictor, images: Range<usize>) -> anyhow::Result<Request> {
        let n = u32::try_from(images.len())?;
        let paths: Vec<_> = images.map(|i| self.path(i)).collect();
        let start = Instant::now();
        let stages = match &*paths {
            [path] => {
                let (prediction, stages) = predictor.predict_one_timed(&**path)?;
                check(&prediction)?;
                stages
            }
            _ => {
                let mut records = predictor.stream(paths, &CancelToken::new());
                for record in &mut records {
                    check(&record?)?;
                }
                records.summary().timings
            }
        };
        let total = start.elapsed();
        Ok(Request {
            stages: Timings {
                decode: stages.decode / n,
                preprocess: stages.preprocess / n,
                inference: stages.inference / n,
                decide: stages.decide / n,
            },
            total,
        })
    }

    fn throughput(&self, predictor: &Predictor) -> anyhow::Result<Throughput> {
        let n = self.args.iterations.max(8 * predictor.scorer().batch());
        self.progress.start("many at once", n as u64);
        let paths = (0..n).map(|i| self.path(i));
        let start = Instant::now();
        for record in predictor.stream(paths, &CancelToken::new()) {
            check(&record?)?;
            self.progress.advance(1);
        }
        let seconds = start.elapsed().as_secs_f64();
        self.progress.finish();
        Ok(Throughput {
            images: n,
            images_per_second: n as f64 / seconds,
        })
    }

    fn concurrent(&self, predictor: &Predictor, clients: usize) -> anyhow::Result<Concurrent> {
        let n = self.args.iterations.max(8 * clients);
        let asked = AtomicUsize::new(0);
        self.progress.start("several clients at once", n as u64);
        let client = || -> anyhow::Result<Vec<Duration>> {
            let mut times = Vec::new();
            loop {
                let i = asked.fetch_add(1, Ordering::Relaxed);
                if i >= n {
                    return Ok(times);
                }
                let start = Instant::now();
                check(&predictor.predict_one(self.path(i))?)?;
                times.push(start.elapsed());
                self.progress.advance(1);
            }
        };
        let start = Instant::now();
        let times = thread::scope(|scope| {
            let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
            let times = clients.into_iter().map(|client| match client.join() {
                Ok(times) => times,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            times.collect::<anyhow::Result<Vec<_>>>()
        })?;
        let seconds = start.elapsed().as_secs_f64();
        self.progress.finish();
        Ok(Concurrent {
            clients,
            images_per_second: n as f64 / seconds,
            latency_ms: Percentiles::of(times.concat()),
        })
    }
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
