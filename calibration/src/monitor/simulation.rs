//! How often the drift alarm is raised for nothing: the growing bag keeps its level, a fixed one doesn't.
//!
//! ```
//! use stage1_calibration::monitor::simulation::{Bag, NullStream};
//!
//! let stream = NullStream { reference: 200, steps: 500, level: 0.01 };
//! assert!(!stream.raises_alarm(Bag::Growing, 0));
//! ```

use super::drift::{JUMP, p_value};
use super::fenwick::Fenwick;
use super::{Bins, SimpleJumper};
use crate::counter::uniform;
use libm::log;

/// What a new score is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bag {
    /// The reference, and every score since: what [`Drift`](super::Drift) does.
    Growing,
    /// The reference alone. Not valid: p-values that share one reference aren't independent, and a bettor finds out
    /// where that reference happens to lie. Here as a negative control.
    Fixed,
}

/// A stream of scores in which nothing changes: reference and stream are uniform.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NullStream {
    /// Scores in the reference.
    pub reference: u64,
    /// Scores in the stream.
    pub steps: u64,
    /// Of the alarm.
    pub level: f64,
}

/// As many as the drift alarm has.
const BINS: u32 = 50;

impl NullStream {
    /// Whether an alarm is raised in the stream number `repetition`; the same numbers for either bag.
    pub fn raises_alarm(&self, bag: Bag, repetition: u64) -> bool {
        let bins = Bins::at((1..BINS).map(|i| f64::from(i) / f64::from(BINS)).collect());
        let bin = |i| bins.of(uniform(repetition, 0, i));
        let mut counts = Fenwick::empty(bins.count());
        (0..self.reference).for_each(|i| counts.add(bin(i), 1));
        let mut jumper = SimpleJumper::new(JUMP);
        let alarm = -log(self.level);
        (0..self.steps).any(|step| {
            let bin = bin(self.reference + step);
            let u = uniform(repetition, 1, step);
            let p = match bag {
                Bag::Growing => {
                    counts.add(bin, 1);
                    p_value(&counts, bin, u)
                }
                Bag::Fixed => against_fixed(&counts, bin, u),
            };
            jumper.bet(p) >= alarm
        })
    }

    /// How many of the streams 0 to `repetitions` raise an alarm.
    pub fn alarms(&self, bag: Bag, repetitions: u64) -> u64 {
        use rayon::prelude::*;
        let raised = (0..repetitions)
            .into_par_iter()
            .filter(|r| self.raises_alarm(bag, *r));
        raised.count() as u64
    }
}

/// The conformal p-value of one new score: it counts itself, and leaves the bag as it was.
fn against_fixed(counts: &Fenwick, bin: usize, u: f64) -> f64 {
    let (above, equal) = counts.above_and_in(bin);
    (above as f64 + u * (equal + 1) as f64) / (counts.total() + 1) as f64
}
