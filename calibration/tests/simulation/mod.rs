//! The guarantee by simulation: plan on one sample, certify on another, both by the shipped code, and compare the certified
//! threshold's *true* rate with the target. The example `guarantee` runs all of it, the test suite a reduced version.
//!
//! - A *validity* cell fails when its violations are as many as chance gives once in 10,000 times at rate δ.
//! - An *efficiency* cell fails when the mean true certified coverage is lower than the binding page's table, less three
//!   standard errors of both, or not above that of Holm and of SGR (Geifman & El-Yaniv 2017) on the same draws.
//! - An *expectation* cell fails when the mean true rate of wrong answers among selected images is so far above the target
//!   as chance puts it once in 10,000 times.
//! - A *control* is a procedure that isn't valid; it fails when it is *not* flagged in its own cell.

mod controls;
mod curves;
mod expectation;
mod groups;
mod rivals;
mod sessions;

use rayon::prelude::*;
use stage1_calibration::binomial::survival;

/// Target, failure probability, and how seldom chance may flag a valid cell.
pub(crate) const ALPHA: f64 = 0.05;
pub(crate) const DELTA: f64 = 0.1;
const CHANCE: f64 = 1e-4;

/// What is simulated.
pub(crate) struct Cell {
    /// E.g. `A200`.
    pub(crate) name: String,
    /// How it is done, given the number of calibrations.
    run: Box<dyn Fn(u64) -> Finding + Send + Sync>,
}

/// What came of it.
pub(crate) struct Finding {
    /// Whether it is as it should be.
    pub(crate) ok: bool,
    /// The numbers.
    pub(crate) detail: String,
}

impl Cell {
    fn new(name: impl Into<String>, run: impl Fn(u64) -> Finding + Send + Sync + 'static) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }

    /// Simulates `repetitions` calibrations.
    pub(crate) fn run(&self, repetitions: u64) -> Finding {
        (self.run)(repetitions)
    }
}

/// All cells, in the order of the binding page.
pub(crate) fn cells() -> Vec<Cell> {
    let parts = [
        curves::cells(),
        groups::cells(),
        sessions::cells(),
        expectation::cells(),
        controls::cells(),
    ];
    parts.into_iter().flatten().collect()
}

/// One calibration: the true coverage of what was certified (0 if nothing), and whether its true rate is above α.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    coverage: f64,
    violated: bool,
}

/// `run` of every repetition, in order.
fn repeat<T: Send>(repetitions: u64, run: impl Fn(u64) -> T + Send + Sync) -> Vec<T> {
    (0..repetitions).into_par_iter().map(run).collect()
}

/// As many violations as chance gives once in 10,000 times, were the rate `level`.
fn is_flagged(violations: u64, repetitions: u64, level: f64) -> bool {
    survival(violations, repetitions, level) <= CHANCE
}

/// A cell that must not be flagged.
fn validity(violations: u64, repetitions: u64, reference: Option<f64>) -> Finding {
    let rate = violations as f64 / repetitions as f64;
    let reference = reference.map_or_else(String::new, |rate| format!(" (reference {rate:.3})"));
    Finding {
        ok: !is_flagged(violations, repetitions, DELTA),
        detail: format!("violations {violations}/{repetitions} = {rate:.4}{reference}"),
    }
}

/// A control, which must be flagged.
fn control(violations: u64, repetitions: u64, level: f64) -> Finding {
    let rate = violations as f64 / repetitions as f64;
    Finding {
        ok: is_flagged(violations, repetitions, level),
        detail: format!(
            "flagged as it should be: {violations}/{repetitions} = {rate:.4} at level {level}"
        ),
    }
}

impl Finding {
    /// Both must be as they should.
    fn and(self, ok: bool, detail: &str) -> Self {
        Self {
            ok: self.ok && ok,
            detail: format!("{}; {detail}", self.detail),
        }
    }
}

/// Mean and its standard error.
fn mean(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}

/// A number in [0, 1) that depends on its place alone: SplitMix64 of `stream` and `index`.
fn uniform(stream: u64, index: u64) -> f64 {
    let mix = |x: u64| {
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let word = mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ index;
    (mix(word.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 11) as f64 / (1u64 << 53) as f64
}
