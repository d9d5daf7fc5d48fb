//! The architecture, described once: the libtorch module and the ONNX graph both follow from it.
//!
//! - [`BackboneSpec`]: the numbers of a backbone, read from a Hugging Face `config.json`;
//! - [`TensorSpec`]: the one table of tensors (role, Hugging Face name, shape) that the forward pass needs;
//! - [`Weights`]: a checked `model.safetensors`, by role;
//! - [`rope_tables`] and [`position_embeddings`]: what depends on the image size;
//! - [`HeadSpec`]: the classifier on top, with its tensor names.

mod error;
mod head;
mod hf_config;
mod positions;
mod spec;
mod tensors;
mod weights;

pub use error::{ModelError, Result};
pub use head::{Features, HeadKind, HeadSpec};
pub use positions::{position_embeddings, rope_tables};
pub use spec::{BackboneSpec, Family, Ffn, Positions};
pub use tensors::{BlockRole, Role, TensorSpec};
pub use weights::Weights;
