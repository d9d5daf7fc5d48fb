//! Integration tests of `stage1-core`.

#[path = "../../../goldens/suite.rs"]
mod goldens;

mod goldens_suite;
mod preprocess;
