//! The architecture, described once: the libtorch module and the ONNX graph both follow from it.
//!
//! - [`BackboneSpec`]: the numbers of a backbone, read from a Hugging Face `config.json` or a [`preset`];
//! - [`TensorSpec`]: the one table of tensors ([`Role`], Hugging Face name, shape) that the forward pass needs;
//! - [`Weights`]: a checked `model.safetensors`, by role;
//! - [`Adapter`]: a LoRA or DoRA adapter as Hugging Face PEFT saves it, merged into weights;
//! - [`rope_tables`] and [`position_embeddings`]: what depends on the image size;
//! - [`HeadSpec`]: the classifier on top, with its tensor names.

mod adapter;
mod convnext;
mod error;
mod head;
mod hf_config;
mod positions;
mod presets;
mod role;
mod spec;
mod vit;
mod weights;

pub use adapter::{
    ADAPTER_CONFIG, ADAPTER_TENSORS, AdaptableLayer, Adapter, AdapterChange, AdapterError, Naming,
    NewAdapter, NewLayer,
};
pub use convnext::ConvNextSpec;
pub use error::{ModelError, Result};
pub use head::{Features, GateSpec, HeadKind, HeadSpec, ReadBlocks};
pub use positions::{position_embeddings, rope_tables};
pub use presets::{PRESETS, preset};
pub use role::{BlockRole, LayerRole, Role, StageRole, TensorSpec};
pub use spec::{BackboneSpec, Blocks};
pub use vit::{Ffn, Positions, RenamedTensor, RopePeriods, VitFamily, VitSpec};
pub use weights::{Weights, check_finite};
