//! A load generator for `POST /v1/classify`, and a simulation of the queue behind it: see `benches/README.md`, "The server".

pub mod client;
pub mod generate;
pub mod process;
pub mod simulation;

use serde_json::{Value, json};
use std::time::Duration;

/// One request as its client saw it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// From when it was due to its answer, so that a client that is late is counted.
    pub latency: Duration,
    /// The answer's status.
    pub status: u16,
    /// What the server says about it, if it does.
    pub times: Option<Times>,
}

/// The header `Server-Timing`, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Times {
    /// Decoding and preprocessing.
    pub prepare: f64,
    /// Waiting for the model.
    pub queue: f64,
    /// The run of the model.
    pub inference: f64,
    /// Images in that run.
    pub batch: usize,
}

impl Times {
    /// Reads `decode;dur=1.5, preprocess;dur=0.5, queue;dur=…, batch;desc=8`, durations in milliseconds.
    pub fn parse(header: &str) -> Option<Self> {
        let mut times = Self::default();
        for part in header.split(',') {
            let (name, value) = part.trim().split_once(';')?;
            let (_, value) = value.split_once('=')?;
            match name {
                "batch" => times.batch = value.parse().ok()?,
                "decode" | "preprocess" => times.prepare += value.parse::<f64>().ok()? / 1e3,
                "queue" => times.queue = value.parse::<f64>().ok()? / 1e3,
                "inference" => times.inference = value.parse::<f64>().ok()? / 1e3,
                _ => {}
            }
        }
        Some(times)
    }
}

/// The smallest value that a share `q` of `sorted` doesn't exceed.
///
/// # Panics
/// If there are no values.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Counts, throughput and latencies of what was answered with 200.
pub fn summary(samples: &[Sample], elapsed: Duration) -> Value {
    let mut latencies: Vec<f64> = good(samples)
        .map(|sample| sample.latency.as_secs_f64() * 1e3)
        .collect();
    latencies.sort_by(f64::total_cmp);
    let refused = samples
        .iter()
        .filter(|sample| matches!(sample.status, 429 | 503 | 504))
        .count();
    let mut batches: Vec<f64> = good(samples)
        .filter_map(|sample| Some(sample.times?.batch as f64))
        .collect();
    batches.sort_by(f64::total_cmp);
    let at = |q| (!latencies.is_empty()).then(|| quantile(&latencies, q));
    json!({
        "requests": samples.len(),
        "answered": latencies.len(),
        "refused": refused,
        "failed": samples.len() - latencies.len() - refused,
        "requests_per_second": latencies.len() as f64 / elapsed.as_secs_f64(),
        "ms": { "p50": at(0.5), "p90": at(0.9), "p95": at(0.95), "p99": at(0.99), "max": at(1.0) },
        "batch_p50": (!batches.is_empty()).then(|| quantile(&batches, 0.5)),
    })
}

/// Those that were answered.
pub fn good(samples: &[Sample]) -> impl Iterator<Item = &Sample> {
    samples.iter().filter(|sample| sample.status == 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_times_are_read() {
        let times = Times::parse(
            "decode;dur=10.000, preprocess;dur=5.000, queue;dur=1.000, inference;dur=60.000, decide;dur=0.1, batch;desc=3",
        );
        let want = Times {
            prepare: 0.015,
            queue: 0.001,
            inference: 0.06,
            batch: 3,
        };
        assert_eq!(times, Some(want));
        assert_eq!(Times::parse("nonsense"), None);
    }

    #[test]
    fn quantiles_are_values() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(
            [0.0, 0.5, 0.51, 1.0].map(|q| quantile(&sorted, q).to_bits()),
            [1.0, 2.0, 3.0, 4.0].map(f64::to_bits)
        );
    }
}
