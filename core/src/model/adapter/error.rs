use std::path::PathBuf;

/// Why an adapter can't be merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A key of the configuration has a value that isn't implemented.
    #[error("{}: `{key}` is {got}, this version understands {want} only", path.display())]
    UnsupportedValue {
        /// The `adapter_config.json`.
        path: PathBuf,
        /// The key.
        key: String,
        /// The value found, as JSON.
        got: String,
        /// What is understood, in words.
        want: String,
    },
    /// A key of the configuration is missing, or isn't of the expected type.
    #[error("{}: `{key}` is {got}, expected {want}", path.display())]
    InvalidValue {
        /// The `adapter_config.json`.
        path: PathBuf,
        /// The key.
        key: String,
        /// The value found, as JSON, or "missing".
        got: String,
        /// What is expected, in words.
        want: &'static str,
    },
    /// The file holds a tensor that isn't part of such an adapter.
    #[error("{}: tensor `{name}` is not understood; expected `base_model.model.<module>.lora_A.weight`, `….lora_B.weight`, and with `use_dora` `….lora_magnitude_vector`", path.display())]
    UnknownTensor {
        /// The safetensors file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// The file adapts a module that the configuration doesn't.
    #[error("{}: adapts `{module}`, which `target_modules` {targets:?} doesn't name", path.display())]
    NotATarget {
        /// The `adapter_config.json`.
        path: PathBuf,
        /// The module.
        module: String,
        /// The configuration's list.
        targets: Vec<String>,
    },
    /// A module's tensors are incomplete.
    #[error("{}: `{module}.{part}` is missing", path.display())]
    MissingPart {
        /// The safetensors file.
        path: PathBuf,
        /// The module.
        module: String,
        /// The rest of the tensor's name.
        part: &'static str,
    },
    /// A tensor's shape doesn't go with the configuration or the other tensors of its module.
    #[error("{}: tensor `{name}` has shape {got:?}, expected {want}", path.display())]
    TensorShape {
        /// The safetensors file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Found.
        got: Vec<usize>,
        /// Expected, in words or as a shape.
        want: String,
    },
    /// There is nothing to merge.
    #[error("{}: holds no adapted module", path.display())]
    Empty {
        /// The safetensors file.
        path: PathBuf,
    },
    /// A value is NaN or infinite.
    #[error("{}: the adapter of `{module}` holds {value}; the file is damaged or training diverged", path.display())]
    NonFinite {
        /// The safetensors file.
        path: PathBuf,
        /// The module.
        module: String,
        /// The value.
        value: f32,
    },
    /// The backbone has no such linear layer.
    #[error("{}: adapts `{module}`, which is no linear layer of this {model_type} backbone; an adapter fits the model that it was trained on", path.display())]
    NoSuchLayer {
        /// The safetensors file.
        path: PathBuf,
        /// The module.
        module: String,
        /// The backbone's `model_type`.
        model_type: &'static str,
    },
    /// The backbone's layer has another shape.
    #[error("{}: the adapter of `{module}` is for a weight of shape {got:?}, the backbone's is {want:?}", path.display())]
    LayerShape {
        /// The safetensors file.
        path: PathBuf,
        /// The module.
        module: String,
        /// `[out, in]` that the adapter's tensors imply.
        got: [usize; 2],
        /// `[out, in]` of the backbone's weight.
        want: [usize; 2],
    },
    /// Two modules of the file are one layer of the backbone.
    #[error("{}: `{first}` and `{second}` adapt the same layer", path.display())]
    AdaptedTwice {
        /// The safetensors file.
        path: PathBuf,
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
}
