//! Integration tests of the `stage1` command.
#![expect(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helpers too"
)]

#[path = "../../../goldens/suite.rs"]
mod goldens;

#[path = "../../../runtime/tests/it/fixture.rs"]
#[expect(dead_code, reason = "the runtime's tests need more of it")]
mod fixture;
#[path = "../../../runtime/tests/it/onnx.rs"]
#[expect(dead_code, reason = "the runtime's tests need more of it")]
mod onnx;

mod ab_test;
mod bench;
mod calibrate_logits;
mod cli;
mod devices;
mod doctor;
mod earlier_system;
mod embed;
mod expectation;
mod export;
mod gate;
mod joint;
mod metrics;
mod monitor;
mod pipeline;
mod predict;
mod python;
mod recovery;
mod serve;
mod triton;
mod validate_logits;
mod verbs;
