//! Closed and open loops.

use super::{Sample, client::Client};
use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Whom to ask.
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// Usually `/v1/classify`.
    pub path: String,
    /// Sent in turn.
    pub images: Vec<Vec<u8>>,
}

/// As many clients as `concurrency`, each of which asks again as soon as it is answered; what was due in `warm_up` isn't counted.
pub fn closed(
    target: &Target,
    concurrency: usize,
    warm_up: Duration,
    time: Duration,
) -> (Vec<Sample>, Duration) {
    let start = Instant::now();
    let (next, samples) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..concurrency {
            scope.spawn(|| {
                let mut client = Client::new(target.address, &target.path);
                let mut mine = Vec::new();
                while start.elapsed() < warm_up + time {
                    let due = Instant::now();
                    let sample = client.ask(target.image(&next), due);
                    if due - start >= warm_up {
                        mine.push(sample);
                    }
                }
                samples
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(mine);
            });
        }
    });
    let elapsed = start.elapsed() - warm_up;
    (
        samples.into_inner().unwrap_or_else(PoisonError::into_inner),
        elapsed,
    )
}

/// Requests that come as they please: a Poisson process of `rate` per second. Each is sent when it is due, by one of `clients` that has
/// nothing else to do; if there is none, it waits, and its latency counts from when it was due.
pub fn open(
    target: &Target,
    rate: f64,
    clients: usize,
    warm_up: Duration,
    time: Duration,
    seed: u64,
) -> (Vec<Sample>, Duration) {
    let arrivals = poisson(rate, warm_up + time, seed);
    let (next, turn, samples) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        Mutex::new(Vec::new()),
    );
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut client = Client::new(target.address, &target.path);
                let mut mine = Vec::new();
                while let Some(arrival) = arrivals.get(turn.fetch_add(1, Ordering::Relaxed)) {
                    let due = start + *arrival;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    let sample = client.ask(target.image(&next), due);
                    if *arrival >= warm_up {
                        mine.push(sample);
                    }
                }
                samples
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(mine);
            });
        }
    });
    (
        samples.into_inner().unwrap_or_else(PoisonError::into_inner),
        time,
    )
}

impl Target {
    fn image(&self, next: &AtomicUsize) -> &[u8] {
        &self.images[next.fetch_add(1, Ordering::Relaxed) % self.images.len()]
    }
}

/// Arrivals until `end`.
pub fn poisson(rate: f64, end: Duration, seed: u64) -> Vec<Duration> {
    let mut random = Random(seed);
    let mut arrivals = Vec::new();
    let mut now = 0.0;
    loop {
        now += -(1.0 - random.uniform()).ln() / rate;
        if now >= end.as_secs_f64() {
            return arrivals;
        }
        arrivals.push(Duration::from_secs_f64(now));
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One of `values`.
    pub fn choose<T: Copy>(&mut self, values: &[T]) -> T {
        values[(self.uniform() * values.len() as f64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_their_rate() {
        let arrivals = poisson(100.0, Duration::from_secs(100), 1);
        assert!(
            (9_600..10_400).contains(&arrivals.len()),
            "{}",
            arrivals.len()
        );
        assert!(arrivals.is_sorted());
    }
}
