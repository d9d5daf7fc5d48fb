//! Trains classifiers on vision backbones with libtorch, from a configuration and `splits.json` to a checkpoint folder
//! that the exporter reads without libtorch.
//!
//! ```no_run
//! use stage1_core::{config::Config, progress::Silent};
//! use stage1_trainer::{Begin, Existing, train};
//!
//! let config = Config::load("stage1.yaml".as_ref(), &[])?;
//! let trained = train(&config, Existing::Keep, Begin::Anywhere, &Silent)?;
//! println!("{}", trained.checkpoint.display());
//! # Ok::<(), stage1_trainer::Error>(())
//! ```
//!
//! Phase `baseline`: the backbone is frozen, its features are computed once and kept on disk ([`features`]), and a
//! [`head`] is [fitted](fit) to them. Phase `peft`: [adapters](peft) are trained with it, through the backbone, on images that
//! are [varied](augment) each time. Phase `gate`: a [gate] learns beside a head whether it is right. Phases `explora` and
//! `explora-supervised` train the backbone itself first, without labels, on images of `train` and of unlabelled folders. Only
//! images of `train` and `val_select` are trained on or judged by; those of other splits are opened only to find their copies
//! among unlabelled ones. The same inputs, seed and number
//! of threads give the same bytes, however often the training was killed in between.

pub mod augment;
pub mod backbone;
mod device;
mod error;
pub mod events;
mod explora;
pub mod features;
pub mod fit;
pub mod gate;
pub mod head;
mod log;
pub mod loss;
pub mod optimiser;
mod origin;
pub mod peft;
mod plan;
pub mod random;
pub mod sampling;
pub mod selection;
pub mod tensorboard;
mod train;

pub use error::{Error, Rates, Result};
pub use train::{Begin, Existing, Trained, plan, select_logits, train};
