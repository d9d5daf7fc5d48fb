//! The bundle: what is deployed. A folder with a model, its policy and certificate, and the record that binds them.
//!
//! ```text
//! bundle/bundle.json                     the commit record: written last, names every file with its SHA-256
//! bundle/README.md                       the model card
//! bundle/golden.safetensors              pixel_values [N, 3, H, W] and the deployed session's logits [N, K]
//! bundle/licences/…                      licences of weights and data
//! bundle/variants/<name>/model.onnx, parity.json, policy.json, certificate.json
//! bundle/variants/<name>/model.onnx.data   weights, where they are too large for the ONNX file
//! bundle/variants/<name>/recipe.json     of further variants (fp16, int8): how they were made
//! bundle/variants/<name>/golden.safetensors  and their own logits of the golden inputs
//! ```
//!
//! A file that `bundle.json` doesn't name with its digest doesn't count. [`Bundle::open`] verifies everything, so that
//! an unverified bundle can't be held; [`create`], [`add_variant`], [`attach_policy`] and [`detach_policy`] write the record last, so
//! that a writer that dies leaves either no bundle or a valid one without the new part.

mod card;
mod error;
mod manifest;
mod open;
mod parity;
mod prediction;
mod recipe;
mod write;

#[cfg(test)]
mod tests;

pub use error::{Error, Result};
pub use manifest::{BundleManifest, FileRef, InputSpec, Provenance, Variant};
pub use open::Bundle;
pub use parity::{FlipRate, Parity};
pub use prediction::{DecisionKind, Prediction};
pub use recipe::Recipe;
pub use write::{
    Existing, NewBundle, NewVariant, add_variant, attach_certificate, attach_policy, create,
    detach_policy,
};

/// The name of the commit record inside a bundle.
pub const MANIFEST: &str = "bundle.json";
/// The name of a variant's ONNX file; weights outside of it are in the file of this name and `.data`.
pub const MODEL: &str = "model.onnx";
/// The name of the golden inputs and outputs inside a bundle.
pub const GOLDEN: &str = "golden.safetensors";
/// The name of the model card inside a bundle.
pub const CARD: &str = "README.md";
/// The variant that every bundle is born with.
pub const FP32: &str = "fp32";
