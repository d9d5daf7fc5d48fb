//! One module per verb: each reads its arguments, calls the libraries, and prints.

pub(crate) mod ab_test;
pub(crate) mod bench;
pub(crate) mod calibrate;
pub(crate) mod calibrate_logits;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod embed;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod metrics;
pub(crate) mod monitor;
pub(crate) mod predict;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod split;
pub(crate) mod train;
mod used_rows;
pub(crate) mod validate;
mod validate_logits;
