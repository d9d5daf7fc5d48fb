//! What the benches and examples have in common: see `benches/README.md`.

pub mod bundle;
pub mod calibration;
pub mod load;
pub mod weights;
