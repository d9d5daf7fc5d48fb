use std::num::NonZero;

/// How a model is laid out: in files, and for how many images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The ONNX file's name: weights outside of it lie beside it, in `<file_name>.data`.
    pub file_name: String,
    /// Weights of more bytes go into a file of their own. An ONNX file can't have more than 2 GB.
    pub external_above: usize,
    /// Images per run; none: any number.
    pub batch: Option<NonZero<usize>>,
}

impl Default for Form {
    /// `model.onnx`, in one file up to 1.5 GB of weights, for any number of images.
    fn default() -> Self {
        Self {
            file_name: "model.onnx".to_owned(),
            external_above: 1_500_000_000,
            batch: None,
        }
    }
}

impl Form {
    pub(crate) fn data_name(&self) -> String {
        format!("{}.data", self.file_name)
    }
}
