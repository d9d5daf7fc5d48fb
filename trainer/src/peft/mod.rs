//! Phase `peft`: a head and low-rank adapters of the backbone's linear layers, trained through the backbone.

mod adapters;
mod objective;

pub use adapters::Adapters;
pub(crate) use objective::{Adapting, Parts};
