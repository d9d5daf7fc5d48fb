//! Integration tests of `stage1-runtime`. They need ONNX Runtime (`cargo xtask setup`), and build their own models.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod bundles;
mod devices;
mod embedder;
mod fixture;
mod init;
mod onnx;
mod predictor;
mod scorer;
mod session;
