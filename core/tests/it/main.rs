//! Integration tests of `stage1-core`.

#[path = "../../../goldens/suite.rs"]
mod goldens;

mod data;
mod goldens_suite;
mod images;
mod ledger;
mod preprocess;
mod split;
