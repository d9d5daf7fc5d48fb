//! Integration tests of `stage1-trainer`.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

#[path = "../../../goldens/suite.rs"]
mod goldens;

mod backbones;
mod baseline;
mod blocks;
mod depth;
mod explora;
mod fixture;
mod gate;
mod origin;
mod peft;
mod python;
mod refusals;
mod resume;
