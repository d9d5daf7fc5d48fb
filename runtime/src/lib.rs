//! Runs a certified bundle with ONNX Runtime: image bytes in, [`Prediction`] out. The only crate that knows `ort`.
//!
//! ```no_run
//! use stage1_runtime::{Predictor, PredictorOptions};
//! use std::{ops::ControlFlow, path::Path};
//!
//! let mut predictor = Predictor::open(Path::new("runs/demo/bundle"), &PredictorOptions::default())?;
//! let one = predictor.predict_path(Path::new("boot.png"))?;
//! println!("{:?}: {:?}", one.decision, one.label);
//!
//! // Many: decoded on all cores while the model runs, in bounded memory; the records come in the order of the paths.
//! let summary = predictor.predict_batch(["a.png", "b.jpg"], |record| {
//!     println!("{}: {:?}", record.path, record.decision);
//!     ControlFlow::Continue(())
//! })?;
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
//! It doesn't train, export or fit, never falls back to another provider or threshold, and runs on the CPU only.

mod coverage;
mod device;
mod embedder;
mod error;
mod init;
mod isa;
mod native;
mod pipeline;
mod pixels;
mod predictor;
mod scorer;
mod search;
mod session;
mod timings;

pub use coverage::{Difference, Standing, fingerprint_differences};
pub use device::Device;
pub use embedder::{Embedder, EmbedderOptions};
pub use error::{Error, Result};
pub use init::{InitError, RuntimeInfo, init};
pub use isa::cpu_isa;
pub use pipeline::ImageError;
pub use predictor::{Predictor, PredictorOptions, Summary};
pub use scorer::{GoldenCheck, Scorer, ScorerOptions, Scores};
pub use search::{Attempt, MIN_VERSION};
pub use session::{NamedTensor, OrtSession, SessionOptions, TensorInfo, Weights};
pub use stage1_core::bundle::{DecisionKind, Prediction};
pub use timings::Timings;
