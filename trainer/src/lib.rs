//! Trains classifiers on vision backbones with libtorch, from a configuration and `splits.json` to a checkpoint folder
//! that the exporter reads without libtorch.
//!
//! ```no_run
//! use stage1_core::{config::Config, progress::Silent};
//! use stage1_trainer::{Existing, train};
//!
//! let config = Config::load("stage1.yaml".as_ref(), &[])?;
//! let trained = train(&config, Existing::Keep, &Silent)?;
//! println!("{}", trained.checkpoint.display());
//! # Ok::<(), stage1_trainer::Error>(())
//! ```
//!
//! Phase `baseline`: the backbone is frozen, its features are computed once and kept on disk ([`features`]), and a
//! [`head`] is [fitted](fit) to them. Only images of `train` and `val_select` are ever opened. The same inputs, seed and
//! number of threads give the same bytes.

pub mod backbone;
mod error;
pub mod events;
pub mod features;
pub mod fit;
pub mod head;
pub mod optimiser;
pub mod random;
pub mod selection;
mod train;

pub use error::{Error, Result};
pub use train::{Existing, Trained, train};
