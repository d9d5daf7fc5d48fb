//! How long work tells what it does; the command line draws it.

/// A sink for progress. Calls may come from several threads.
pub trait Progress: Sync {
    /// A step of `total` items begins (0: unknown); it replaces the step before.
    fn start(&self, what: &str, total: u64);
    /// `n` more items are done.
    fn advance(&self, n: u64);
    /// The step has ended.
    fn finish(&self);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}
