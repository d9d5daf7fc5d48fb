use super::TorchError;
use std::path::PathBuf;

/// Why a file can't be turned into a Hugging Face folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The bytes are none of the forms that can be read.
    #[error("{}: neither a file of torch.save, nor safetensors, nor ONNX ({reason})", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// The reason of the ONNX parser, which comes last.
        reason: prost::DecodeError,
    },
    /// No backbone, or more than one.
    #[error("{}: {} tensors are named `…{suffix}`, expected one: a file of one backbone (of ONNX files: PyTorch's export of a DINOv2)", path.display(), found.len())]
    Anchor {
        /// The file.
        path: PathBuf,
        /// The name looked for, after any prefix.
        suffix: String,
        /// The tensors found.
        found: Vec<String>,
    },
    /// A tensor isn't there.
    #[error("{}: tensor `{name}` is missing; expected {expected}", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// Its Hugging Face name, with the file's prefix.
        name: String,
        /// Where it was looked for.
        expected: String,
    },
    /// A tensor has another shape than the rest of the model asks for.
    #[error("{}: tensor `{name}` (stored as `{stored}`) has shape {got:?}, expected {want:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// Its Hugging Face name, with the file's prefix.
        name: String,
        /// Its name in the file.
        stored: String,
        /// Found.
        got: Vec<usize>,
        /// Expected.
        want: Vec<usize>,
    },
    /// A tensor's values can't be read.
    #[error("{}: tensor `{name}` can't be read: {reason}; expected float32 values inside of the file", path.display())]
    TensorValues {
        /// The file.
        path: PathBuf,
        /// Its name in the file.
        name: String,
        /// What is wrong: its type, where it is stored, or its length.
        reason: String,
    },
    /// The computation around a tensor isn't a DINOv2's.
    #[error("{}: near `{near}`: expected {expected}", path.display())]
    Computation {
        /// The file.
        path: PathBuf,
        /// The tensor or operator.
        near: String,
        /// What wasn't found.
        expected: String,
    },
    /// A file of PyTorch's isn't of the expected form, or does more than hold tensors.
    #[error("{}: {reason}", path.display())]
    Torch {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: TorchError,
    },
    /// No published backbone has tensors of these names and shapes.
    #[error("{}: its tensors are not those of exactly one published backbone; name the architecture with --config (a preset or a Hugging Face config.json), presets: {presets}", path.display())]
    NoPreset {
        /// The file.
        path: PathBuf,
        /// The presets' names.
        presets: String,
    },
    /// The file's architecture isn't the one that was named.
    #[error("{}: holds {got}; --config says {want}", path.display())]
    OtherArchitecture {
        /// The file.
        path: PathBuf,
        /// Found.
        got: String,
        /// Expected.
        want: String,
    },
    /// No tensor starts a backbone of this family under any known name.
    #[error("{}: no tensor is named {anchors:?}, alone or after a prefix: this is no {model_type} backbone", path.display())]
    NoBackbone {
        /// The file.
        path: PathBuf,
        /// The names looked for.
        anchors: Vec<String>,
        /// The family's `model_type`.
        model_type: &'static str,
    },
    /// A tensor isn't part of the backbone, and isn't known to be superfluous.
    #[error("{}: tensor `{name}` is not part of this {model_type} backbone", path.display())]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The family's `model_type`.
        model_type: &'static str,
    },
    /// Two tensors are the same part of the backbone.
    #[error("{}: tensors `{first}` and `{second}` are the same part of the backbone", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// Key biases that the architecture doesn't have aren't zero.
    #[error("{}: `{name}` gives the keys a bias, which the architecture doesn't have; name another with --config (key_bias: true)", path.display())]
    KeyBias {
        /// The file.
        path: PathBuf,
        /// The packed bias, or its mask.
        name: String,
    },
}
