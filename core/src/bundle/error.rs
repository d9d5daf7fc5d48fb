use crate::artifact::{self, Digest};
use std::path::PathBuf;

/// What can be wrong with a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is missing, damaged, or not of its form.
    #[error(transparent)]
    Artifact(#[from] artifact::Error),
    /// The folder has no `bundle.json`.
    #[error("{}: not a bundle: it has no bundle.json; `stage1 export` makes one, and an interrupted export is finished by running it again", dir.display())]
    NotABundle {
        /// The folder.
        dir: PathBuf,
    },
    /// A listed file lies outside the bundle, through a link.
    #[error("{}: `{path}` leads out of the bundle, to {}; a bundle holds its own files", dir.display(), target.display())]
    Escapes {
        /// The bundle.
        dir: PathBuf,
        /// As listed.
        path: String,
        /// Where it leads.
        target: PathBuf,
    },
    /// The bundle has no such variant.
    #[error("{}: no variant `{name}`; it has {}", dir.display(), known.join(", "))]
    UnknownVariant {
        /// The bundle.
        dir: PathBuf,
        /// As asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Two parts of the bundle contradict each other.
    #[error("{}: variant `{variant}`: {field} is {got}, expected {want}; calibrate this bundle again", dir.display())]
    Inconsistent {
        /// The bundle.
        dir: PathBuf,
        /// The variant.
        variant: String,
        /// Which field of which file.
        field: &'static str,
        /// Found.
        got: String,
        /// Expected.
        want: String,
    },
    /// A certificate of a further session, of a variant that no session was certified of.
    #[error("{}: variant `{variant}` has no policy that another session could be certified with; `stage1 calibrate` makes one", dir.display())]
    NoPolicy {
        /// The bundle.
        dir: PathBuf,
        /// The variant.
        variant: String,
    },
    /// A certificate without the fingerprint of a session can't certify a bundle.
    #[error("{}: variant `{variant}`: the certificate names no session (it was made from logits alone); calibrate the bundle itself", dir.display())]
    NoFingerprint {
        /// The bundle.
        dir: PathBuf,
        /// The variant.
        variant: String,
    },
    /// A bundle is there already.
    #[error("{}: a bundle is there already (digest {digest}); pass --overwrite to replace it", dir.display())]
    Exists {
        /// The bundle.
        dir: PathBuf,
        /// Its digest.
        digest: Digest,
    },
}

/// The result of opening or writing a bundle.
pub type Result<T, E = Error> = std::result::Result<T, E>;
