//! The server's queue as a simulation: what the latencies would be if nothing but the measured service times mattered.
//!
//! Requests come as a Poisson process. Each is prepared (decoded, resized) by the first of a few decoders that is free, then waits in one
//! queue, from which a single model takes up to `max_batch` at a time, as soon as there are that many, or the first has waited for
//! `max_delay`. Service times are drawn from those that were measured under the same load: of preparing, one by one; of a run of the
//! model, from runs with as many images. What a request takes beside (network, parsing, threads that wait for their turn) is drawn from
//! what was measured, too.

use super::{Sample, generate::Random, good, quantile};
use std::collections::{BTreeMap, VecDeque};

/// How the server was started.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// Images that are prepared at the same time.
    pub decoders: usize,
    /// Images of one run.
    pub max_batch: usize,
    /// In seconds.
    pub max_delay: f64,
}

/// Measured service times, in seconds.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    prepare: Vec<f64>,
    inference: BTreeMap<usize, Vec<f64>>,
    beside: Vec<f64>,
}

impl Measured {
    /// None if the server told no times.
    pub fn of(samples: &[Sample]) -> Option<Self> {
        let mut measured = Self::default();
        for sample in good(samples) {
            let times = sample.times?;
            measured.prepare.push(times.prepare);
            measured
                .inference
                .entry(times.batch)
                .or_default()
                .push(times.inference);
            let told = times.prepare + times.queue + times.inference;
            measured
                .beside
                .push((sample.latency.as_secs_f64() - told).max(0.0));
        }
        measured.beside.sort_by(f64::total_cmp);
        // Waiting for a decoder is in what was measured beside, and is simulated: only what everybody needs is taken over.
        let least = measured.beside.len().div_ceil(4);
        measured.beside.truncate(least);
        (!measured.prepare.is_empty()).then_some(measured)
    }

    fn inference(&self, batch: usize, random: &mut Random) -> f64 {
        let nearest = self
            .inference
            .keys()
            .min_by_key(|size| size.abs_diff(batch))
            .expect("there is a run");
        random.choose(&self.inference[nearest])
    }
}

/// Latencies in seconds, sorted, of `rounds` simulations of the same `arrivals` (in seconds), of which those before `from` aren't counted.
pub fn latencies(
    server: Server,
    measured: &Measured,
    arrivals: &[f64],
    from: f64,
    rounds: u64,
) -> Vec<f64> {
    let mut all: Vec<f64> = (0..rounds)
        .flat_map(|seed| round(server, measured, arrivals, from, seed))
        .collect();
    all.sort_by(f64::total_cmp);
    all
}

/// The simulation's p50 and p99, in seconds.
pub fn p50_p99(sorted: &[f64]) -> (f64, f64) {
    (quantile(sorted, 0.5), quantile(sorted, 0.99))
}

fn round(server: Server, measured: &Measured, arrivals: &[f64], from: f64, seed: u64) -> Vec<f64> {
    let mut random = Random(seed.wrapping_add(0xfeed));
    let mut ready = prepare(server, measured, arrivals, &mut random);
    ready.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ended = run(server, measured, ready, &mut random);
    ended
        .into_iter()
        .filter(|(arrival, _)| *arrival >= from)
        .map(|(arrival, end)| end - arrival + random.choose(&measured.beside))
        .collect()
}

/// When each request is ready for the model, and when it came.
fn prepare(
    server: Server,
    measured: &Measured,
    arrivals: &[f64],
    random: &mut Random,
) -> Vec<(f64, f64)> {
    let mut free = vec![0.0_f64; server.decoders];
    let mut ready = Vec::with_capacity(arrivals.len());
    for &arrival in arrivals {
        let decoder = free
            .iter_mut()
            .min_by(|a, b| a.total_cmp(b))
            .expect("there is a decoder");
        *decoder = decoder.max(arrival) + random.choose(&measured.prepare);
        ready.push((*decoder, arrival));
    }
    ready
}

/// When each request came, and when its batch ended. `ready` is sorted.
fn run(
    server: Server,
    measured: &Measured,
    ready: Vec<(f64, f64)>,
    random: &mut Random,
) -> Vec<(f64, f64)> {
    let mut waiting: VecDeque<_> = ready.into();
    let mut ended = Vec::with_capacity(waiting.len());
    let mut free = 0.0_f64;
    while let Some(&(first, _)) = waiting.front() {
        // It starts when it is full, or its first image has waited; but not before the model is free.
        let full = waiting
            .get(server.max_batch - 1)
            .map_or(f64::INFINITY, |(ready, _)| *ready);
        let start = free.max(full.min(first + server.max_delay));
        let n = waiting
            .iter()
            .take(server.max_batch)
            .take_while(|(ready, _)| *ready <= start)
            .count()
            .max(1);
        free = start + measured.inference(n, random);
        ended.extend(waiting.drain(..n).map(|(_, arrival)| (arrival, free)));
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Times, generate::poisson};
    use std::time::Duration;

    fn measured(prepare: f64, inference: f64) -> Measured {
        let sample = |batch| Sample {
            latency: Duration::from_secs_f64(prepare + inference),
            status: 200,
            times: Some(Times {
                prepare,
                queue: 0.0,
                inference,
                batch,
            }),
        };
        Measured::of(&[sample(1), sample(1)]).unwrap()
    }

    fn arrivals(rate: f64, seed: u64) -> Vec<f64> {
        let arrivals = poisson(rate, Duration::from_secs(2_000), seed);
        arrivals.iter().map(Duration::as_secs_f64).collect()
    }

    #[test]
    fn without_load_a_request_takes_its_service_times() {
        let server = Server {
            decoders: 2,
            max_batch: 8,
            max_delay: 0.002,
        };
        let (p50, _) = p50_p99(&latencies(
            server,
            &measured(0.01, 0.05),
            &arrivals(0.1, 1),
            0.0,
            1,
        ));
        assert!((p50 - 0.062).abs() < 1e-9, "{p50}");
    }

    /// The mean time in an M/D/1 queue is `s + ρ s / (2 (1 - ρ))` (Pollaczek 1930, Khinchine 1932).
    #[test]
    fn a_queue_without_batches_is_that_of_pollaczek_and_khinchine() {
        let server = Server {
            decoders: 1,
            max_batch: 1,
            max_delay: 0.0,
        };
        let (service, load) = (0.1, 0.8);
        let all = (0..20)
            .flat_map(|seed| {
                latencies(
                    server,
                    &measured(0.0, service),
                    &arrivals(load / service, seed),
                    0.0,
                    1,
                )
            })
            .collect::<Vec<_>>();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let want = service + load * service / (2.0 * (1.0 - load));
        assert!((mean / want - 1.0).abs() < 0.05, "{mean} for {want}");
    }

    #[test]
    fn batches_carry_more_than_one_image_at_a_time_could() {
        let server = Server {
            decoders: 2,
            max_batch: 8,
            max_delay: 0.0,
        };
        // Twice what runs of one image could do: the queue stays short all the same.
        let (_, p99) = p50_p99(&latencies(
            server,
            &measured(0.001, 0.1),
            &arrivals(20.0, 1),
            0.0,
            1,
        ));
        assert!(p99 < 0.5, "{p99}");
    }
}
