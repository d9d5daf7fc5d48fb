//! Serves certified bundles: the Open Inference Protocol (KServe v2) over HTTP and gRPC, and image bytes over HTTP.
//!
//! ```no_run
//! use stage1_server::{Options, Server};
//!
//! # async fn example() -> Result<(), stage1_server::Error> {
//! let server = Server::start(Options::new("boots", "runs/demo/bundle")).await?;
//! println!("listening on {}", server.http());
//! let ended = server.until_signal().await?; // SIGHUP loads new bundles, SIGTERM ends
//! println!("{ended:?}");
//! # Ok(())
//! # }
//! ```
//!
//! The way of a request: its body is read within limits of size, time and memory (`http::body`); images are decoded on a few
//! threads; rows wait in a bounded queue (`model::queue`) for one of the bundle's threads, which takes as many as there are, up to
//! a batch. A request that is refused, or whose client has gone, holds nothing. `README.md` in this folder lists addresses, statuses,
//! metrics and options.

mod auth;
mod budget;
mod connection;
mod decision_log;
mod describe;
mod engine;
mod error;
mod failure;
mod grpc;
mod http;
mod infer;
mod metrics;
mod model;
mod options;
mod registry;
mod server;
mod service;
mod stream;
mod tls;
mod trace;

pub use error::Error;
pub use options::{Access, Batching, BundleSource, Drain, Limits, Options, TlsFiles};
pub use server::{Ended, Server};
