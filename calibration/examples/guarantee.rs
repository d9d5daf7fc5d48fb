//! The guarantee by simulation (see `tests/simulation`): a line per cell, and exit code 1 if one isn't as it should be.
//!
//! ```sh
//! cargo run --release -p stage1-calibration --example guarantee -- --repetitions 2000 --cells A200,fpr200
//! ```
//!
//! Without `--cells` it runs all; a name that ends in `*` stands for all cells that begin so. A release has 20,000
//! repetitions.
#![allow(
    clippy::unwrap_used,
    reason = "a simulation that panics fails, and names the line"
)]
#![allow(clippy::print_stdout, reason = "an example's answer")]

#[path = "../tests/simulation/mod.rs"]
mod simulation;

use simulation::{Cell, cells};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "usage: guarantee [--repetitions N] [--cells NAME,NAME*,…]";

struct Wanted {
    repetitions: u64,
    names: Vec<String>,
}

fn main() -> ExitCode {
    let wanted = match parse(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(message) => {
            println!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let cells: Vec<Cell> = cells()
        .into_iter()
        .filter(|cell| wanted.includes(&cell.name))
        .collect();
    if cells.is_empty() {
        println!("no cell is called {}", wanted.names.join(", "));
        return ExitCode::from(2);
    }
    let failures = cells
        .iter()
        .filter(|cell| !report(cell, wanted.repetitions))
        .count();
    println!(
        "{} cells, {failures} of them not as they should be",
        cells.len()
    );
    ExitCode::from(u8::from(failures > 0))
}

fn report(cell: &Cell, repetitions: u64) -> bool {
    let start = Instant::now();
    let finding = cell.run(repetitions);
    let word = if finding.ok { "ok  " } else { "FAIL" };
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{word} {:<36} {seconds:>6.1} s  {}",
        cell.name, finding.detail
    );
    finding.ok
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut wanted = Wanted {
        repetitions: 2000,
        names: Vec::new(),
    };
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        match &*arg {
            "--repetitions" => {
                let number = value.parse().ok().filter(|n| *n > 1);
                wanted.repetitions = number
                    .ok_or_else(|| format!("--repetitions {value}: a whole number from 2 on"))?;
            }
            "--cells" => wanted.names.extend(value.split(',').map(str::to_owned)),
            _ => return Err(format!("{arg}: unknown")),
        }
    }
    Ok(wanted)
}

impl Wanted {
    fn includes(&self, cell: &str) -> bool {
        let is_it = |name: &String| match name.strip_suffix('*') {
            Some(start) => cell.starts_with(start),
            None => cell == name,
        };
        self.names.is_empty() || self.names.iter().any(is_it)
    }
}
