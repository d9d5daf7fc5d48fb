//! Runs a certified bundle with ONNX Runtime: image bytes in, [`Prediction`] out. The only crate that knows `ort`.
//!
//! ```no_run
//! use stage1_runtime::{CancelToken, Predictor, PredictorOptions};
//! use std::path::{Path, PathBuf};
//!
//! let predictor = Predictor::open(Path::new("runs/demo/bundle"), &PredictorOptions::default())?;
//! let one = predictor.predict_one(Path::new("boot.png"))?;
//! println!("{:?}: {:?}", one.decision, one.label);
//!
//! // Many: decoded on all cores while the model runs, in bounded memory; the records come in the order of the paths.
//! let paths = ["a.png", "b.jpg"].map(PathBuf::from);
//! let mut records = predictor.stream(paths, &CancelToken::new());
//! for record in &mut records {
//!     let record = record?;
//!     println!("{}: {:?}", record.path, record.decision);
//! }
//! let summary = records.summary();
//! println!("{} of {} answered", summary.answered, summary.images);
//! # Ok::<(), stage1_runtime::Error>(())
//! ```
//!
//! - [`init`] loads ONNX Runtime, exactly once per process, and says where it looked when there is none;
//! - [`OrtSession`] runs one model and proves on which provider its nodes are placed;
//! - [`Scorer`] turns images into logits with a bundle's model: what calibration and validation need;
//! - [`Embedder`] turns images into features with a backbone alone;
//! - [`Predictor`] adds the bundle's policy, and refuses a session that its certificate doesn't cover.
//!
//! It doesn't train, export or fit, and never falls back to another provider or threshold: a [`Ladder`] names the devices that
//! may be tried, and [`Scorer::climb`] says what became of each.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod cancel;
mod coverage;
mod decoder;
mod device;
mod embedder;
mod engines;
mod error;
mod gpu;
mod init;
mod input;
mod isa;
mod libraries;
mod native;
mod pixels;
mod pool;
mod predictor;
mod profile;
mod provider;
mod rungs;
mod scorer;
mod search;
mod session;
mod stream;
mod timings;

pub use cancel::CancelToken;
pub use coverage::{Difference, Standing, fingerprint_differences};
pub use decoder::ImageError;
pub use embedder::{Embedder, EmbedderOptions, ModelFacts};
pub use error::{Error, Result};
pub use init::{InitError, RuntimeInfo, init};
pub use input::ImageInput;
pub use isa::cpu_isa;
pub use predictor::{Predictions, Predictor, PredictorOptions, Summary};
pub use profile::ShapeProfile;
pub use rungs::{Climb, FailedRung, climb};
pub use scorer::{CandidateFiles, GoldenCheck, Row, ScoredRows, Scorer, ScorerOptions, Scores};
pub use search::{Attempt, MIN_VERSION};
pub use session::{NamedTensor, OrtSession, SessionOptions, TensorInfo, Weights};
pub use stage1_core::{
    bundle::{DecisionKind, Prediction},
    device::{Device, Ladder, ProviderOptions},
    preprocess::RgbImage,
};
pub use timings::Timings;
