use stage1_core::preprocess::Normalisation;
use std::num::NonZero;

/// How a model is laid out: in files, for how many images, and how it takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// The ONNX file's name: weights outside of it lie beside it, in `<file_name>.data`.
    pub file_name: String,
    /// Weights of more bytes go into a file of their own. An ONNX file can't have more than 2 GB.
    pub external_above: usize,
    /// Images per run; none: any number.
    pub batch: Option<NonZero<usize>>,
    /// The input `pixel_values`.
    pub input: Input,
}

/// How a model takes pictures of H x W pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Input {
    /// Normalised planes: float32 [N, 3, H, W].
    Float32,
    /// Grey levels, as decoders deliver them: uint8 [N, H, W, 3]. This normalisation is in the first convolution.
    Uint8(Normalisation),
}

impl Default for Form {
    /// `model.onnx`, in one file up to 1.5 GB of weights, for any number of normalised images.
    fn default() -> Self {
        Self {
            file_name: "model.onnx".to_owned(),
            external_above: 1_500_000_000,
            batch: None,
            input: Input::Float32,
        }
    }
}

impl Form {
    pub(crate) fn data_name(&self) -> String {
        format!("{}.data", self.file_name)
    }
}
