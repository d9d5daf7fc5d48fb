use std::{io, net::SocketAddr, path::PathBuf};

/// Why a server doesn't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that makes no sense.
    #[error("{option} is {got}, expected {want}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Its value.
        got: String,
        /// What it may be.
        want: String,
    },
    /// Everybody who reaches the address could use the server.
    #[error(
        "{address} isn't a loopback address: everybody who reaches it could use the server; give a token (--token-file), or say --allow-anonymous"
    )]
    Exposed {
        /// Where it was to listen.
        address: SocketAddr,
    },
    /// An address is taken, or not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where it was to listen.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// A certificate or key is no good.
    #[error("{}: {reason}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A bundle can't be served.
    #[error("bundle `{name}` in {}: {reason}", dir.display())]
    Bundle {
        /// Its name.
        name: String,
        /// Its folder.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The decision log can't be written.
    #[error("cannot write decision logs into {}: {source}", dir.display())]
    DecisionLog {
        /// The folder.
        dir: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system doesn't tell of signals.
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}
