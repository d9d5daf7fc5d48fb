use super::fenwick::Fenwick;
use super::{Bins, MonitorError, SimpleJumper, check_level};
use crate::counter::uniform;
use libm::log;
use serde::{Deserialize, Serialize};

/// J of the jumper.
pub(super) const JUMP: f64 = 0.01;
/// The stream of random numbers that the draws come from.
const STREAM: u64 = 1;

/// The alarm without labels: a conformal test martingale over binned scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    level: f64,
    seed: u64,
    bins: Bins,
    /// val_calib's scores and those that came since.
    bag: Fenwick,
    rows: u64,
    jumper: SimpleJumper,
    alarm_at: Option<u64>,
}

impl Drift {
    /// A bag of the scores `calib`, in `bins` that were fixed without them.
    ///
    /// # Errors
    /// [`MonitorError::Level`].
    pub fn new(bins: Bins, calib: &[f64], level: f64, seed: u64) -> Result<Self, MonitorError> {
        check_level("level", level)?;
        let mut bag = Fenwick::empty(bins.count());
        calib.iter().for_each(|score| bag.add(bins.of(*score), 1));
        Ok(Self {
            level,
            seed,
            bins,
            bag,
            rows: 0,
            jumper: SimpleJumper::new(JUMP),
            alarm_at: None,
        })
    }

    /// Puts a score into the bag, bets on its p-value, and returns that.
    pub fn observe(&mut self, score: f64) -> f64 {
        let bin = self.bins.of(score);
        self.bag.add(bin, 1);
        let p = p_value(&self.bag, bin, uniform(self.seed, STREAM, self.rows));
        self.rows += 1;
        if self.jumper.bet(p) >= -log(self.level) && self.alarm_at.is_none() {
            self.alarm_at = Some(self.rows);
        }
        p
    }

    /// Whether the wealth ever was 1 / level: what was raised stays raised.
    pub fn has_alarmed(&self) -> bool {
        self.alarm_at.is_some()
    }

    /// The row, from 1, at which the alarm was raised.
    pub fn alarm_at(&self) -> Option<u64> {
        self.alarm_at
    }

    /// Rows observed.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows of val_calib in the bag.
    pub fn calib_rows(&self) -> u64 {
        self.bag.total() - self.rows
    }

    /// Probability that an alarm is ever raised for nothing.
    pub fn level(&self) -> f64 {
        self.level
    }

    /// Seed of the draws.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Logarithm of the wealth; an alarm is raised at −ln(level).
    pub fn ln_wealth(&self) -> f64 {
        self.jumper.ln_wealth()
    }

    /// Logarithm of the largest wealth so far; none before the first row.
    pub fn ln_max(&self) -> Option<f64> {
        self.jumper.ln_max()
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        check_level("level", self.level).map_err(|error| error.to_string())?;
        self.bins.validate()?;
        self.jumper.validate()?;
        if self.bag.bins() == self.bins.count() && self.bag.total() >= self.rows {
            return Ok(());
        }
        Err(format!(
            "drift: the bag has {} bins and {} rows, {} bins and at least the {} rows observed were expected",
            self.bag.bins(),
            self.bag.total(),
            self.bins.count(),
            self.rows
        ))
    }
}

/// (#{in higher bins} + u·#{in its bin}) / size, of a bag that holds the row itself.
pub(super) fn p_value(bag: &Fenwick, bin: usize, u: f64) -> f64 {
    let (above, equal) = bag.above_and_in(bin);
    (above as f64 + u * equal as f64) / bag.total() as f64
}
