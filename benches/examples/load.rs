//! Asks a server, and says how it did: see `benches/README.md`, "The server".
//!
//! ```text
//! load ADDRESS IMAGES closed CONCURRENCY [SECONDS]
//! load ADDRESS IMAGES open RATE [SECONDS [DECODERS MAX_BATCH MAX_DELAY_S]]
//! load ADDRESS IMAGES soak CONCURRENCY [SECONDS]
//! ```
//! One JSON document on standard output. An open loop is compared with a simulation of the queue, fed with the service times that the
//! server told meanwhile. A soak prints the server's memory all along.

use serde_json::{Value, json};
use stage1_benches::load::{
    generate::{self, Target},
    process,
    simulation::{self, Measured, Server},
    summary,
};
use std::{
    env,
    error::Error,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

const WARM_UP: Duration = Duration::from_secs(3);
const CLIENTS: usize = 60;
const SEED: u64 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [address, images, kind, amount, rest @ ..] = &words[..] else {
        return Err("usage: load ADDRESS IMAGES closed|open|soak CONCURRENCY|RATE [SECONDS [DECODERS MAX_BATCH MAX_DELAY_S]]".into());
    };
    let target = target(address, images)?;
    let number = |i: usize, otherwise: f64| {
        rest.get(i)
            .map_or(Ok(otherwise), |word| word.parse::<f64>())
    };
    let time = Duration::from_secs_f64(number(0, 20.0)?);
    let server = Server {
        decoders: number(1, 2.0)? as usize,
        max_batch: number(2, 8.0)? as usize,
        max_delay: number(3, 0.002)?,
    };
    let before = (
        process::cpu_seconds(),
        metric(&target, "stage1_cpu_seconds"),
        Instant::now(),
    );
    let mut report = match kind.as_str() {
        "closed" => {
            let (samples, elapsed) = generate::closed(&target, amount.parse()?, WARM_UP, time);
            summary(&samples, elapsed)
        }
        "open" => open(&target, amount.parse()?, time, server),
        "soak" => soak(&target, amount.parse()?, time),
        other => return Err(format!("`{other}` is none of closed, open, soak").into()),
    };
    let elapsed = before.2.elapsed().as_secs_f64();
    let share = |after: Option<f64>, before: Option<f64>| Some((after? - before?) / elapsed);
    report["loop"] = json!({ "kind": kind, "amount": amount, "seconds": time.as_secs_f64() });
    report["generator"] = json!({ "cores": share(process::cpu_seconds(), before.0), "pinned_to": process::pinning() });
    report["server_cores"] = json!(share(metric(&target, "stage1_cpu_seconds"), before.1));
    writeln!(std::io::stdout(), "{report:#}")?;
    Ok(())
}

fn target(address: &str, images: &str) -> Result<Target, Box<dyn Error>> {
    let mut paths: Vec<_> = fs::read_dir(images)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    Ok(Target {
        address: address.parse()?,
        path: "/v1/classify".to_owned(),
        images: paths.iter().map(fs::read).collect::<Result<_, _>>()?,
    })
}

fn open(target: &Target, rate: f64, time: Duration, server: Server) -> Value {
    let (samples, elapsed) = generate::open(target, rate, CLIENTS, WARM_UP, time, SEED);
    let mut report = summary(&samples, elapsed);
    if let Some(measured) = Measured::of(&samples) {
        // The very arrivals that the server had, so that only the service is simulated.
        let arrivals = generate::poisson(rate, WARM_UP + time, SEED);
        let arrivals: Vec<f64> = arrivals.iter().map(Duration::as_secs_f64).collect();
        let sorted =
            simulation::latencies(server, &measured, &arrivals, WARM_UP.as_secs_f64(), 200);
        let (p50, p99) = simulation::p50_p99(&sorted);
        report["simulated_ms"] = json!({ "p50": p50 * 1e3, "p99": p99 * 1e3 });
        let ratio = |name: &str, simulated: f64| {
            report["ms"][name]
                .as_f64()
                .map(|got| got / (simulated * 1e3))
        };
        report["over_simulated"] = json!({ "p50": ratio("p50", p50), "p99": ratio("p99", p99) });
    }
    report
}

/// Memory every so often, beside a closed loop.
fn soak(target: &Target, concurrency: usize, time: Duration) -> Value {
    let start = Instant::now();
    let (samples, memory) = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut memory = Vec::new();
            while start.elapsed() < WARM_UP + time {
                thread::sleep(time / 20);
                memory.push(metric(target, "stage1_resident_memory_bytes").unwrap_or(0.0) / 1e6);
            }
            memory
        });
        let loaded = generate::closed(target, concurrency, WARM_UP, time);
        (loaded, watching.join().expect("watching doesn't panic"))
    });
    let mut report = summary(&samples.0, samples.1);
    report["resident_mb"] = json!(memory);
    report
}

/// The value of one of the server's metrics, if it has them.
fn metric(target: &Target, name: &str) -> Option<f64> {
    let mut stream = TcpStream::connect::<SocketAddr>(target.address).ok()?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: load\r\nconnection: close\r\n\r\n")
        .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let line = text.lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}
