use crate::data;

/// Why splits can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The data set itself is at fault.
    #[error(transparent)]
    Data(#[from] data::Error),
}

/// The result of making splits.
pub type Result<T, E = Error> = std::result::Result<T, E>;
