//! What values a model's tensors take on the sample.

use super::{Observed, Runtime, Sample, model::Model, open};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// The smallest and the largest value of each channel (the last axis), over all images and tokens.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Channels {
    pub(super) low: Vec<f32>,
    pub(super) high: Vec<f32>,
    /// Rows of one image, so that costs can be told.
    pub(super) rows: usize,
}

impl Channels {
    fn new(channels: usize, rows: usize) -> Self {
        Self {
            low: vec![f32::INFINITY; channels],
            high: vec![f32::NEG_INFINITY; channels],
            rows,
        }
    }

    fn add(&mut self, values: &[f32]) {
        for row in values.chunks_exact(self.low.len()) {
            for ((low, high), value) in self.low.iter_mut().zip(&mut self.high).zip(row) {
                *low = low.min(*value);
                *high = high.max(*value);
            }
        }
    }

    /// The largest magnitude of each channel.
    pub(super) fn magnitudes(&self) -> Vec<f32> {
        let both = self.low.iter().zip(&self.high);
        both.map(|(low, high)| low.abs().max(high.abs())).collect()
    }

    /// Smallest and largest value of all channels.
    pub(super) fn range(&self) -> (f32, f32) {
        let low = self.low.iter().copied().fold(f32::INFINITY, f32::min);
        let high = self.high.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        (low, high)
    }

    /// Of the channels divided by `factors`, which are positive.
    pub(super) fn divide(&mut self, factors: &[f32]) {
        for ((low, high), factor) in self.low.iter_mut().zip(&mut self.high).zip(factors) {
            *low /= factor;
            *high /= factor;
        }
    }
}

/// Looks at values, given with their number of channels, one image at a time: all of them are in memory together.
///
/// # Errors
/// [`Error::Session`], and [`Error::NotFinite`] when a value is NaN or infinite.
pub(super) fn channels(
    runtime: &mut dyn Runtime,
    model: &Model,
    sample: Sample<'_>,
    values: &BTreeMap<String, usize>,
) -> Result<BTreeMap<String, Channels>> {
    let names: BTreeSet<String> = values.keys().cloned().collect();
    let mut session = open(runtime, &model.with_outputs(&names))?;
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut seen: BTreeMap<String, Channels> = BTreeMap::new();
    for (pixels, shape) in sample.batches(1) {
        let outputs = run(&mut *session, pixels, shape, &asked)?;
        for ((name, channels), output) in values.iter().zip(outputs) {
            if !output.iter().all(|value| value.is_finite()) {
                return Err(Error::NotFinite {
                    value: name.clone(),
                });
            }
            seen.entry(name.clone())
                .or_insert_with(|| Channels::new(*channels, output.len() / channels))
                .add(&output);
        }
    }
    Ok(seen)
}

pub(super) fn run(
    session: &mut dyn Observed,
    pixels: &[f32],
    shape: [usize; 4],
    outputs: &[&str],
) -> Result<Vec<Vec<f32>>> {
    let failed = |source| Error::Session {
        batch: shape[0],
        source,
    };
    let values = session.run(pixels, shape, outputs).map_err(failed)?;
    if values.len() == outputs.len() {
        return Ok(values);
    }
    let reason = format!("{} outputs instead of {}", values.len(), outputs.len());
    Err(failed(reason.into()))
}
