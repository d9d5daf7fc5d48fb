use crate::Error;
use stage1_core::device::{Ladder, ProviderOptions};
use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

/// A bundle and the name that clients call it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleSource {
    /// The model's name in requests: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The bundle's folder.
    pub dir: PathBuf,
}

/// Whose requests are served, over what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The bearer token that every request but those for health must carry; none: everybody may ask.
    pub token: Option<String>,
    /// Certificate and key; none: plain connections.
    pub tls: Option<TlsFiles>,
    /// Serve on other than loopback addresses without a token.
    pub allow_anonymous: bool,
    /// Whether clients may load and unload bundles (`/v2/repository/models/NAME/load`).
    pub model_control: bool,
}

/// PEM files. They are read again with the bundles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those that lead to its authority.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// How requests become batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// Images that go through a model together; fewer where its batch mode or its graph says so.
    pub max_batch: usize,
    /// How long the first image of a batch waits for others.
    pub max_delay: Duration,
    /// Images of one bundle that may be in the server at once: waiting, being decoded or in the model.
    pub queue: usize,
    /// Threads of each bundle that run its model, one batch each.
    pub instances: usize,
    /// Threads of all runs of a bundle's model together, divided among its instances; 0: one per core.
    pub threads: usize,
    /// Images of all bundles that are decoded at the same time; 0: one per core.
    pub decoders: usize,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            max_batch: 8,
            max_delay: Duration::from_millis(2),
            queue: 64,
            instances: 1,
            threads: 0,
            decoders: 0,
        }
    }
}

/// What a client may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one request's body.
    pub max_body: usize,
    /// Bytes of all bodies that are in memory.
    pub max_bodies: usize,
    /// Pixels of one image.
    pub max_pixels: u64,
    /// Connections; further ones wait in the system's backlog.
    pub connections: usize,
    /// Time of a request from its head to its answer, if it doesn't ask for less.
    pub request: Duration,
    /// Time in which a request's head must have arrived; an idle connection is closed after it, too.
    pub header: Duration,
    /// Time in which a request's body must have arrived.
    pub body: Duration,
    /// Time that a client may take none of its answer's bytes.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 32 << 20,
            max_bodies: 256 << 20,
            max_pixels: 1 << 26,
            connections: 256,
            request: Duration::from_secs(30),
            header: Duration::from_secs(60),
            body: Duration::from_secs(20),
            write: Duration::from_secs(20),
        }
    }
}

/// How the server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Time between saying that it isn't ready and closing the doors.
    pub grace: Duration,
    /// Time for what is being worked on then.
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            grace: Duration::ZERO,
            timeout: Duration::from_secs(30),
        }
    }
}

/// Everything that a server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What is served; at least one.
    pub bundles: Vec<BundleSource>,
    /// The variant of each bundle; none means `fp32`, or the only one.
    pub variant: Option<String>,
    /// What models may run on, in the order in which devices are tried.
    pub devices: Ladder,
    /// What the devices' providers are told, by their own options' names.
    pub providers: ProviderOptions,
    /// Serve bundles whose certificate doesn't cover this session; every answer then says so.
    pub allow_uncertified: bool,
    /// Where HTTP is served; port 0 lets the system choose.
    pub http: SocketAddr,
    /// Where gRPC is served, if it is.
    pub grpc: Option<SocketAddr>,
    /// Whose requests are served.
    pub access: Access,
    /// How requests become batches.
    pub batching: Batching,
    /// What a client may cost.
    pub limits: Limits,
    /// How the server ends.
    pub drain: Drain,
    /// How often the bundles' records are looked at, to load those that have changed; none: never.
    pub watch: Option<Duration>,
    /// The folder for decision logs, one file per bundle and version.
    pub decision_log: Option<PathBuf>,
}

impl Options {
    /// One bundle called `name` on loopback ports that the system chooses, and all else as by default.
    pub fn new(name: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        let (name, dir) = (name.into(), dir.into());
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            bundles: vec![BundleSource { name, dir }],
            variant: None,
            devices: Ladder::default(),
            providers: ProviderOptions::default(),
            allow_uncertified: false,
            http: anywhere,
            grpc: Some(anywhere),
            access: Access::default(),
            batching: Batching::default(),
            limits: Limits::default(),
            drain: Drain::default(),
            watch: None,
            decision_log: None,
        }
    }
}

impl Options {
    /// # Errors
    /// [`Error::Option`] for numbers that mean nothing and names that can't be one; [`Error::Exposed`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Self {
            batching, limits, ..
        } = self;
        let at_least_one = [
            ("--max-batch", batching.max_batch),
            ("--queue", batching.queue),
            ("--instances", batching.instances),
            ("--max-body", limits.max_body),
            ("--max-bodies", limits.max_bodies),
            ("--connections", limits.connections),
        ];
        for (option, value) in at_least_one {
            if value == 0 {
                return Err(wrong(option, value, "a whole number ≥ 1"));
            }
        }
        let few = [
            ("--max-batch", batching.max_batch, 1 << 16),
            ("--queue", batching.queue, 1 << 20),
            ("--instances", batching.instances, MAX_THREADS),
            ("--threads", batching.threads, MAX_THREADS),
            ("--decoders", batching.decoders, MAX_THREADS),
            ("--connections", limits.connections, 1 << 20),
        ];
        for (option, value, most) in few {
            if value > most {
                return Err(wrong(option, value, &format!("at most {most}")));
            }
        }
        if limits.max_bodies < limits.max_body {
            return Err(wrong(
                "--max-bodies",
                limits.max_bodies,
                "at least --max-body",
            ));
        }
        self.check_names()?;
        self.check_exposure()
    }

    fn check_names(&self) -> Result<(), Error> {
        if self.bundles.is_empty() {
            return Err(wrong("--bundle", "missing", "at least one"));
        }
        let mut known = BTreeSet::new();
        for BundleSource { name, .. } in &self.bundles {
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty()
                || name.len() > 100
                || !name.chars().all(is_name)
                || name.starts_with('.')
            {
                return Err(wrong(
                    "--bundle",
                    format!("`{name}`"),
                    "a name of letters, digits, `-`, `_` and `.`",
                ));
            }
            if !known.insert(name) {
                return Err(wrong(
                    "--bundle",
                    format!("`{name}`, twice"),
                    "another name for each bundle",
                ));
            }
        }
        Ok(())
    }

    fn check_exposure(&self) -> Result<(), Error> {
        let open = [Some(self.http), self.grpc]
            .into_iter()
            .flatten()
            .find(|address| !address.ip().is_loopback());
        let Some(address) = open else {
            return Ok(());
        };
        match &self.access.token {
            None if !self.access.allow_anonymous => return Err(Error::Exposed { address }),
            None => {
                tracing::warn!(%address, "everybody who reaches this address can use the server")
            }
            Some(_) if self.access.tls.is_none() => {
                tracing::warn!(%address, "without TLS the token can be read on its way; something in front must encrypt");
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// A slip of the finger must not start a hundred thousand threads.
const MAX_THREADS: usize = stage1_core::config::MAX_THREADS;

fn wrong(option: &'static str, got: impl ToString, want: &str) -> Error {
    Error::Option {
        option,
        got: got.to_string(),
        want: want.to_owned(),
    }
}
