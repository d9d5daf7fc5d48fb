//! Times the stages from logits to certificate and metrics once, and prints one JSON object: seconds on the clock and of
//! processor time, what came out, and the most memory that the process ever had (Linux).
//!
//! `cargo run --release -p stage1-benches --example calibration -- [ROWS [CLASSES [FOLDER]]]`: with a folder, the rows
//! are written there as safetensors for other software to read (`benches/peers/calibration`).

use serde_json::{Map, Value, json};
use stage1_benches::calibration::{Problem, STAGES, auto, bootstrap, plan_of_groups};
use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// Rows of the bootstrap.
const BOOTSTRAP_ROWS: usize = 20_000;
/// Its resamples.
const RESAMPLES: usize = 2000;
/// Rows of a group.
const GROUP: u64 = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(Ok(default), |text| text.parse());
    let (rows, classes) = (number(0, 1_000_000)?, number(1, 10)?);
    let problem = Problem::generate(rows, classes);
    if let Some(folder) = args.get(2) {
        problem
            .select
            .save(&Path::new(folder).join("select.safetensors"))?;
        problem
            .calib
            .save(&Path::new(folder).join("calib.safetensors"))?;
    }
    let stages: Map<String, Value> = STAGES
        .iter()
        .map(|stage| (stage.name.to_owned(), timed(|| (stage.run)(&problem))))
        .collect();
    let peak = status("VmHWM");
    let auto = timed(|| auto(&problem));
    let peak_with_auto = status("VmHWM");
    let groups = timed(|| plan_of_groups(&problem, GROUP));
    drop(problem);
    let few = Problem::generate(BOOTSTRAP_ROWS, classes);
    let report = json!({
        "rows": rows,
        "classes": classes,
        "stages": stages,
        "peak_memory_kb": peak,
        "auto": auto,
        "peak_memory_with_auto_kb": peak_with_auto,
        "plan_groups_of_5": groups,
        "bootstrap_2000_on_20000": timed(|| bootstrap(&few, RESAMPLES)),
    });
    writeln!(std::io::stdout(), "{report}")?;
    Ok(())
}

fn timed(run: impl FnOnce() -> String) -> Value {
    let (start, cpu) = (Instant::now(), processor_seconds());
    let found = run();
    let cpu = processor_seconds().zip(cpu).map(|(end, start)| end - start);
    json!({"seconds": start.elapsed().as_secs_f64(), "cpu_seconds": cpu, "found": found})
}

/// A number of `/proc/self/status`.
fn status(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Of all threads, from `/proc/self/stat`, whose ticks are hundredths of a second.
fn processor_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / 100.0)
}
