//! How long one image takes, end to end, on this machine: shown in the report, promised to nobody.

use super::{Run, split::Splits};
use serde::{Deserialize, Serialize};
use stage1_core::{
    artifact::{Digest, Document, json},
    bundle::Bundle,
    config::Config,
    split::Split,
};
use stage1_runtime::{Predictor, PredictorOptions};
use std::{path::PathBuf, time::Duration};

const WARM_UP: usize = 5;
const MEASURED: usize = 60;

/// Percentiles of single-image latency, in milliseconds, from the encoded file to the decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Latency {
    pub(crate) schema_version: u32,
    /// Of the variant that was measured.
    pub(crate) subject_digest: Digest,
    pub(crate) threads: usize,
    pub(crate) images: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Document for Latency {
    const KIND: &'static str = "latency.json";
    const SCHEMA_VERSION: u32 = 2;

    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

pub(crate) fn path(config: &Config, variant: &str) -> PathBuf {
    config.variant_file("latency", variant)
}

/// Measures on val_select images, one at a time, as a camera would send them.
pub(crate) fn ensure(
    run: &Run,
    splits: &Splits,
    bundle: &Bundle,
    variant: &str,
) -> anyhow::Result<Latency> {
    let subject_digest = bundle.variant_digest(variant)?;
    let threads = run.config.thread_count();
    let known = json::load::<Latency>(&path(&run.config, variant))
        .ok()
        .map(|(latency, _)| latency);
    if let Some(known) =
        known.filter(|known| known.subject_digest == subject_digest && known.threads == threads)
    {
        return Ok(known);
    }
    let options = PredictorOptions {
        variant: Some(variant.to_owned()),
        devices: run.config.deploy.device.clone(),
        providers: run.config.deploy.providers(),
        threads,
        limits: super::limits(&run.config),
        ..PredictorOptions::default()
    };
    let predictor = Predictor::open(bundle.dir(), &options)?;
    let paths: Vec<_> = splits
        .manifest
        .of(Split::ValSelect)
        .map(|sample| splits.root.join(&sample.path))
        .collect();
    let mut times = Vec::with_capacity(MEASURED);
    for (i, path) in paths.iter().cycle().take(WARM_UP + MEASURED).enumerate() {
        let (_, timings) = predictor.predict_one_timed(path.as_path())?;
        if i >= WARM_UP {
            times.push(timings.total());
        }
    }
    times.sort();
    let latency = Latency {
        schema_version: Latency::SCHEMA_VERSION,
        subject_digest,
        threads,
        images: times.len(),
        p50_ms: percentile(&times, 50),
        p90_ms: percentile(&times, 90),
        p99_ms: percentile(&times, 99),
    };
    json::save(&latency, &path(&run.config, variant))?;
    Ok(latency)
}

/// The smallest time that `percent` of the sorted times don't exceed, in milliseconds.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (percent * sorted.len()).div_ceil(100).max(1);
    sorted[rank - 1].as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_order_statistics() {
        let times: Vec<_> = (1..=60).map(Duration::from_millis).collect();
        for (percent, want) in [(50, 30.0), (90, 54.0), (99, 60.0), (100, 60.0)] {
            assert!(
                (percentile(&times, percent) - want).abs() < 1e-9,
                "{percent}"
            );
        }
    }
}
