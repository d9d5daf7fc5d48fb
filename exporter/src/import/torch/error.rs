use std::io;

/// Why a file of PyTorch's can't be read. The caller knows which file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TorchError {
    /// The file system refused.
    #[error("cannot read: {source}")]
    Read {
        /// The system's reason.
        source: io::Error,
    },
    /// The archive, or the sequence of pickles, isn't what `torch.save` writes.
    #[error("not a file of torch.save: {reason}")]
    Container {
        /// What is wrong.
        reason: String,
    },
    /// The pickle does something that a dictionary of tensors doesn't need.
    #[error(
        "refused at byte {position} of the pickle: {what}; only dictionaries of tensors are read, and nothing is executed"
    )]
    Refused {
        /// Offset in `data.pkl`, or in an old file as a whole.
        position: u64,
        /// The name of the function, the instruction, or what is wrong with its operands.
        what: String,
    },
    /// An entry of the dictionary isn't a tensor.
    #[error("entry `{name}` is {got}, expected a tensor; save the state_dict alone")]
    NotATensor {
        /// Its name.
        name: String,
        /// What it is.
        got: &'static str,
    },
    /// A tensor's elements aren't weights.
    #[error("tensor `{name}` holds {got}, expected float32, float16 or bfloat16")]
    Element {
        /// Its name.
        name: String,
        /// Its type.
        got: &'static str,
    },
}

pub(super) type Result<T, E = TorchError> = std::result::Result<T, E>;
