//! Integration tests of `stage1-core`.
#![expect(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helpers too"
)]

#[path = "../../../goldens/suite.rs"]
mod goldens;

mod artifact;
mod data;
mod goldens_suite;
mod images;
mod ledger;
mod preprocess;
mod split;
