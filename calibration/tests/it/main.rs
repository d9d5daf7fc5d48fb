//! Golden values of other software, the guarantee by simulation, and properties that hold for all data.
#![allow(
    clippy::unwrap_used,
    reason = "a test that panics fails, and names the line"
)]

#[path = "../../../goldens/suite.rs"]
mod goldens;

mod bounds;
mod calibrator_properties;
mod calibrators;
mod conformal;
mod crc;
mod golden;
mod guarantee;
mod metrics;
mod monitoring;
mod properties;
mod scipy;
mod shift;
mod thresholds;
