//! Integration tests of `stage1-exporter`: exported models on ONNX Runtime.

#[path = "../../../goldens/suite.rs"]
mod goldens;

mod backbones;
mod classifier;
mod form;
mod input;
mod inspect;
mod precision;
mod python;
mod support;
