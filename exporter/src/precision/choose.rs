//! Which layers stay in float32: those that buy most accuracy for the time they cost.

use super::{BATCH, Int8, Runtime, Sample, int8::Quantiser, logits, model::Model};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Images on which each layer alone is tried: an order is wanted, not a number.
const ORDER_IMAGES: usize = 4 * BATCH;

/// Puts all layers into integers, if the error stays within `max_error`; else as many as it allows. Layers go back to
/// float32 by falling squared error per multiplication, which each causes alone; the number of them is found by
/// bisection, each time on the whole sample.
pub(super) fn choose(
    original: &Model,
    quantiser: &Quantiser,
    sample: Sample<'_>,
    runtime: &mut dyn Runtime,
    max_error: f64,
) -> Result<Int8> {
    let mut trial = Trial::new(original, quantiser, sample, runtime)?;
    let all: BTreeSet<usize> = (0..quantiser.layers().len()).collect();
    let error = trial.error(&all, usize::MAX)?;
    if error <= max_error {
        return finish(quantiser, &all, &BTreeMap::new(), error);
    }
    let alone = all
        .iter()
        .map(|layer| {
            Ok((
                *layer,
                trial.error(&BTreeSet::from([*layer]), ORDER_IMAGES)?,
            ))
        })
        .collect::<Result<BTreeMap<usize, f64>>>()?;
    let order = order(quantiser, &alone);
    let chosen = |kept: usize| order[kept..].iter().copied().collect::<BTreeSet<usize>>();
    // `fails` layers in float32 are too few, `holds` are enough: with all of them the error is 0.
    let (mut fails, mut holds, mut best) = (0, order.len(), 0.0);
    while holds - fails > 1 {
        let middle = usize::midpoint(fails, holds);
        let error = trial.error(&chosen(middle), usize::MAX)?;
        match error <= max_error {
            true => (holds, best) = (middle, error),
            false => fails = middle,
        }
    }
    if holds == order.len() {
        return Err(Error::NothingQuantised { max_error });
    }
    finish(quantiser, &chosen(holds), &alone, best)
}

fn finish(
    quantiser: &Quantiser,
    chosen: &BTreeSet<usize>,
    alone: &BTreeMap<usize, f64>,
    error: f64,
) -> Result<Int8> {
    let name = |i: usize| quantiser.layers()[i].layer.name.clone();
    let kept = alone.iter().filter(|(i, _)| !chosen.contains(i));
    Ok(Int8 {
        model: quantiser.model(chosen).finish()?,
        quantised: chosen.iter().map(|i| name(*i)).collect(),
        kept: kept.map(|(i, error)| (name(*i), *error)).collect(),
        error,
    })
}

/// By falling squared error per multiplication; equal ones in the order of the graph.
fn order(quantiser: &Quantiser, alone: &BTreeMap<usize, f64>) -> Vec<usize> {
    let worth = |i: usize| alone[&i] * alone[&i] / quantiser.layers()[i].cost;
    let mut order: Vec<usize> = alone.keys().copied().collect();
    order.sort_by(|a, b| worth(*b).total_cmp(&worth(*a)).then(a.cmp(b)));
    order
}

/// Tries sets of layers on the sample.
struct Trial<'a> {
    quantiser: &'a Quantiser,
    sample: Sample<'a>,
    runtime: &'a mut dyn Runtime,
    output: String,
    /// The float32 model's logits, [n, K].
    want: Vec<f32>,
}

impl<'a> Trial<'a> {
    fn new(
        original: &Model,
        quantiser: &'a Quantiser,
        sample: Sample<'a>,
        runtime: &'a mut dyn Runtime,
    ) -> Result<Self> {
        let output = original.output()?;
        let want = logits(runtime, original, sample, &output)?;
        Ok(Self {
            quantiser,
            sample,
            runtime,
            output,
            want,
        })
    }

    /// The error on the first `images` of the sample with these layers in integers.
    fn error(&mut self, chosen: &BTreeSet<usize>, images: usize) -> Result<f64> {
        let sample = self.sample.first(images);
        let model = self.quantiser.model(chosen);
        let got = logits(self.runtime, &model, sample, &self.output)?;
        let classes = self.want.len() / self.sample.images();
        Ok(relative_error(&got, &self.want[..got.len()], classes))
    }
}

/// Root mean square of the difference over that of `want`, both less their row's mean.
fn relative_error(got: &[f32], want: &[f32], classes: usize) -> f64 {
    let centred = |row: &mut dyn Iterator<Item = f64>| -> f64 {
        let row: Vec<f64> = row.collect();
        let mean = row.iter().sum::<f64>() / row.len() as f64;
        row.iter().map(|x| (x - mean) * (x - mean)).sum()
    };
    let (mut off, mut scale) = (0.0, 0.0);
    for (got, want) in got.chunks_exact(classes).zip(want.chunks_exact(classes)) {
        let pairs = got.iter().zip(want);
        off += centred(&mut pairs.map(|(g, w)| f64::from(*g) - f64::from(*w)));
        scale += centred(&mut want.iter().map(|w| f64::from(*w)));
    }
    // Logits without any spread have no scale: any error is too much then.
    match off > 0.0 {
        true => (off / scale.max(f64::MIN_POSITIVE)).sqrt(),
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::relative_error;

    #[test]
    fn a_shift_of_all_logits_is_no_error() {
        let want = [1.0, -1.0, 3.0, 5.0];
        let shifted = [2.0, 0.0, 2.0, 4.0];
        assert!(relative_error(&shifted, &want, 2).abs() < 1e-12);
        let got = [1.1, -1.1, 3.0, 5.0];
        let expected = (0.02_f64 / 4.0).sqrt();
        assert!((relative_error(&got, &want, 2) - expected).abs() < 1e-6);
    }
}
