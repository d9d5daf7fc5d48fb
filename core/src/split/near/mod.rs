//! Near-duplicates: a hash proposes pairs, pixels confirm them.
//!
//! An image is reduced to 32 × 32 grey values ([`Signature`]). Two images are near-duplicates when these correlate at
//! least as much as asked for: brightness, contrast, size and compression don't matter then, another picture of the same
//! kind does. Which pairs are compared is decided by the signs of random projections ([`cluster`]).

mod cluster;
mod signature;

pub(super) use cluster::{Clusters, cluster, near_to};
pub(super) use signature::Signature;
#[cfg(test)]
pub(super) use signature::tests::picture;
