//! What the benches and the example `calibration` have in common: see `benches/README.md`.

pub mod calibration;
