//! Integration tests of the `stage1` command.

#[path = "../../../goldens/suite.rs"]
mod goldens;

mod calibrate_logits;
mod cli;
mod doctor;
mod metrics;
mod pipeline;
mod verbs;
