//! Golden values of other software, the guarantee by simulation, and properties that hold for all data.

#[path = "../../../goldens/suite.rs"]
mod goldens;

mod bounds;
mod calibrators;
mod golden;
mod guarantee;
mod later;
mod metrics;
mod properties;
