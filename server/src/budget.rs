//! How much memory requests' bodies may take together.

use crate::failure::{Failure, Result};
use prometheus_client::metrics::gauge::Gauge;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Bytes of bodies in memory, and how many there may be.
pub(crate) struct Budget {
    limit: usize,
    held: AtomicUsize,
    gauge: Gauge,
}

impl Budget {
    pub(crate) fn new(limit: usize, gauge: Gauge) -> Arc<Self> {
        let held = AtomicUsize::new(0);
        Arc::new(Self { limit, held, gauge })
    }

    /// A lease of nothing yet.
    pub(crate) fn lease(self: &Arc<Self>) -> Lease {
        Lease {
            budget: Arc::clone(self),
            held: 0,
        }
    }
}

/// A body's share, given back when dropped.
pub(crate) struct Lease {
    budget: Arc<Budget>,
    held: usize,
}

impl Lease {
    /// Takes `bytes` more. Only what has arrived is counted, so that a client that promises much and sends nothing
    /// takes nothing from others.
    ///
    /// # Errors
    /// [`Failure::Unavailable`] when all bodies together would be too large.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        let Budget { limit, held, gauge } = &*self.budget;
        let before = held.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > *limit {
            held.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Failure::Unavailable {
                what: format!("requests' bodies take all of the {limit} bytes that they may"),
                after: Duration::from_secs(1),
            });
        }
        self.held += bytes;
        gauge.inc_by(bytes as i64);
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.held, Ordering::Relaxed);
        self.budget.gauge.dec_by(self.held as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_what_there_is() {
        let budget = Budget::new(100, Gauge::default());
        let (mut a, mut b) = (budget.lease(), budget.lease());
        a.grow(60).unwrap();
        b.grow(40).unwrap();
        assert_eq!(b.grow(1).unwrap_err().status(), 503);
        drop(a);
        b.grow(60).unwrap();
        drop(b);
        assert_eq!(
            (budget.held.load(Ordering::Relaxed), budget.gauge.get()),
            (0, 0)
        );
    }
}
