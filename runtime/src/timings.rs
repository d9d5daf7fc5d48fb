use serde::Serialize;
use std::{ops::AddAssign, time::Duration};

/// Time spent in each stage between a file and its decision. Of many images decoded on several cores it is the sum, which
/// may exceed the time on the clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Timings {
    /// Reading and decoding.
    pub decode: Duration,
    /// Resizing, cropping and normalising.
    pub preprocess: Duration,
    /// The model.
    pub inference: Duration,
    /// The policy.
    pub decide: Duration,
}

impl Timings {
    /// All stages together.
    pub fn total(&self) -> Duration {
        self.decode + self.preprocess + self.inference + self.decide
    }
}

impl AddAssign for Timings {
    fn add_assign(&mut self, other: Self) {
        self.decode += other.decode;
        self.preprocess += other.preprocess;
        self.inference += other.inference;
        self.decide += other.decide;
    }
}
