//! What the crates of Stage1 share: configuration, data and splits, preprocessing, artifact formats and digests,
//! and the *application* of a policy (fitting one is `stage1-calibration`'s).
//!
//! Nothing here knows libtorch or ONNX Runtime, trains, or fits.

pub mod artifact;
pub mod bundle;
pub mod certificate;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod depth;
pub mod device;
pub mod events;
mod folder;
pub mod gate;
pub mod ledger;
pub mod logits;
pub mod metrics;
pub mod model;
pub mod policy;
pub mod preprocess;
pub mod pretrained;
pub mod progress;
pub mod split;
