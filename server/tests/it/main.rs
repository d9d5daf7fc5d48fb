//! Integration tests of `stage1-server`: servers on loopback, and clients that behave and don't. They need ONNX Runtime.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]
#![expect(clippy::float_cmp, reason = "metrics that count hold whole numbers")]

#[path = "../../../runtime/tests/it/fixture.rs"]
mod fixture;
#[path = "../../../runtime/tests/it/onnx.rs"]
#[expect(dead_code, reason = "the runtime's tests need more of it")]
mod onnx;

mod client;
mod running;

mod access;
mod bad_input;
mod classify;
mod drain;
mod grpc;
mod leaks;
mod limits;
mod observing;
mod protocol;
mod python;
mod reload;
