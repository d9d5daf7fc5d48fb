//! Integration tests of `stage1-trainer`.

#[path = "../../../goldens/suite.rs"]
mod goldens;

mod backbones;
mod baseline;
mod fixture;
mod refusals;
