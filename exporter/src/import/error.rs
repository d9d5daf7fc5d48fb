use std::path::PathBuf;

/// Why an ONNX file can't be turned into a Hugging Face folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The bytes are no ONNX model.
    #[error("{}: not an ONNX file: {source}", path.display())]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: prost::DecodeError,
    },
    /// No backbone, or more than one.
    #[error("{}: {} tensors are named `…{suffix}`, expected one: this is not an export of one DINOv2 by PyTorch", path.display(), found.len())]
    Anchor {
        /// The file.
        path: PathBuf,
        /// The name looked for, after any prefix.
        suffix: &'static str,
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
}
