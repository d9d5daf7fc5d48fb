//! Writes a trained classifier, or a bare backbone, as one ONNX file: in Rust, from the weights, without libtorch.
//!
//! - [`export_classifier`]: backbone and head, `pixel_values` [N, 3, H, W] to `logits` [N, K];
//! - [`export_embedding`]: the backbone, `pixel_values` to `tokens` [N, T, D] and `features` [N, D];
//! - [`fp16()`] and [`int8()`]: such a model in another precision;
//! - [`parity`]: the exported model's logits against those that the trainer recorded, alone and in batches;
//! - [`inspect()`]: what a model file consists of and what it costs to run;
//! - [`import()`]: backbones in other forms (Meta's `.pth`, timm's safetensors, a DINOv2 in ONNX) into a Hugging Face folder.
//!
//! Weights above 1.5 GB lie in a file beside the model ([`Form`]): protobuf ends at 2 GB.
//!
//! Where the form says so, `pixel_values` are uint8 [N, H, W, 3], and the model normalises them itself.
//!
//! N is dynamic unless the form fixes it, H and W are fixed: position tables are constants of the graph. The graph consists of primitive
//! operators in float32; the weights hold what could be folded into them (see `backbone`). The same inputs give the same
//! bytes.
//!
//! It doesn't run models: the caller brings a [`Session`] and a [`Runtime`].

mod backbone;
mod checkpoint;
mod embedding;
mod error;
mod form;
mod graph;
mod head;
mod import;
mod inspect;
mod linear;
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    rustdoc::all,
    reason = "generated code; its comments are the ONNX project's"
)]
mod onnx;
mod parity;
mod precision;

pub use checkpoint::{export_classifier, export_classifier_as};
pub use embedding::{export_embedding, export_embedding_as, export_features};
pub use error::{Error, Result};
pub use form::{Form, Input};
pub use graph::{Exported, ExternalData};
pub use import::{ImportError, ImportReport, TorchError, import};
pub use inspect::{Inspection, inspect};
pub use parity::{Session, Tolerances, parity};
pub use precision::{Attention, Fp16, Int8, Int8Options, Observed, Runtime, Sample, fp16, int8};
