use super::AdapterError;
use crate::artifact;
use std::path::PathBuf;

/// Why a backbone can't be described or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file can't be read or parsed.
    #[error(transparent)]
    Artifact(#[from] artifact::Error),
    /// The configuration is of an architecture that isn't implemented.
    #[error("{}: model_type `{model_type}` is not supported yet by this version; supported: {supported}", path.display())]
    UnsupportedModel {
        /// The `config.json`.
        path: PathBuf,
        /// Its `model_type`.
        model_type: String,
        /// The types that can be read.
        supported: String,
    },
    /// A head can't read these blocks.
    #[error("head.blocks: {blocks:?} {reason}")]
    HeadBlocks {
        /// The blocks.
        blocks: Vec<usize>,
        /// Why not, and what to do.
        reason: String,
    },
    /// A configuration key is missing.
    #[error("{}: key `{key}` is missing; a `{model_type}` configuration needs it", path.display())]
    MissingKey {
        /// The `config.json`.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The configuration's `model_type`.
        model_type: &'static str,
    },
    /// A configuration key has a value that the forward pass doesn't implement.
    #[error("{}: `{key}` is {got}, this version implements {want} only", path.display())]
    UnsupportedValue {
        /// The `config.json`.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The value found, as JSON.
        got: String,
        /// What is implemented, in words.
        want: String,
    },
    /// Two values can't be true together.
    #[error("{}: {reason}", path.display())]
    Contradiction {
        /// The `config.json`.
        path: PathBuf,
        /// The keys with their values, and the rule that they break.
        reason: String,
    },
    /// The image isn't a whole number of patches.
    #[error(
        "image size {height}x{width} is not a multiple of the patch size {patch}; the nearest sizes are {smaller:?} and {larger:?} (height, width)"
    )]
    ImageSize {
        /// Height asked for, in pixels.
        height: usize,
        /// Width asked for, in pixels.
        width: usize,
        /// The backbone's patch size in pixels.
        patch: usize,
        /// The next size down.
        smaller: (usize, usize),
        /// The next size up.
        larger: (usize, usize),
    },
    /// The backbone has fewer blocks than are to be run, or none was asked for.
    #[error(
        "{count} blocks are to be run (`blocks`), the backbone has {layers}; give a number from 1 to {layers}, or leave it out to run all"
    )]
    BlockCount {
        /// Blocks asked for.
        count: usize,
        /// Blocks that there are.
        layers: usize,
    },
    /// Only transformers have blocks that a head could read instead of the last.
    #[error(
        "a {model_type} backbone consists of stages of different widths: a head reads the last one; leave `blocks` out (null)"
    )]
    NoBlocks {
        /// The backbone's `model_type`.
        model_type: &'static str,
    },
    /// There are no rotary positions whose periods could be rounded.
    #[error(
        "a {model_type} backbone has no rotary positions: `rope_periods` must be fp32 (the default) for it"
    )]
    NoRotaryPositions {
        /// The backbone's `model_type`.
        model_type: &'static str,
    },
    /// An adapter can't be read or doesn't fit.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The index of weights in several files doesn't agree with the files.
    #[error("{}: not a valid index of safetensors files: {reason}; fetch the folder's files again", path.display())]
    ShardIndex {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file holds no backbone of this family under any prefix.
    #[error("{}: no tensor is named `{name}`, alone or after a prefix; this is not a backbone as Hugging Face saves it", path.display())]
    NoBackbone {
        /// The safetensors file.
        path: PathBuf,
        /// The name looked for.
        name: String,
    },
    /// The file holds several backbones.
    #[error("{}: several tensors are named `{name}`: {found:?}; keep one backbone per file", path.display())]
    SeveralBackbones {
        /// The safetensors file.
        path: PathBuf,
        /// The name looked for.
        name: String,
        /// The tensors that end in it.
        found: Vec<String>,
    },
    /// Tensors that the configuration asks for aren't there.
    #[error("{}: {} tensors of `config.json`'s model are missing: {names:?}", path.display(), names.len())]
    MissingTensors {
        /// The safetensors file.
        path: PathBuf,
        /// Their Hugging Face names.
        names: Vec<String>,
    },
    /// Tensors that the configuration's model doesn't have.
    #[error("{}: {} tensors do not belong to `config.json`'s model: {names:?}", path.display(), names.len())]
    UnknownTensors {
        /// The safetensors file.
        path: PathBuf,
        /// Their names in the file.
        names: Vec<String>,
    },
    /// A tensor doesn't have the shape that follows from the configuration.
    #[error("{}: tensor `{name}` has shape {got:?}, `config.json` says {want:?}", path.display())]
    TensorShape {
        /// The safetensors file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// Found.
        got: Vec<usize>,
        /// Expected.
        want: Vec<usize>,
    },
    /// A weight is NaN or infinite.
    #[error("{}: tensor `{name}` holds {value} at index {index}; the file is damaged or training diverged", path.display())]
    NonFinite {
        /// The safetensors file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// Position in the flat tensor.
        index: usize,
        /// The value.
        value: f32,
    },
}

/// The result of describing or loading a backbone.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;
