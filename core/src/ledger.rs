//! What was done with val_calib and val_test, in files that only grow.
//!
//! A ledger lies beside `splits.json` and is keyed by its digest, so that a new run directory doesn't reset it.

use crate::artifact::Digest;
use serde::{Deserialize, Serialize};

/// Which ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Attempts on val_calib.
    Calib,
    /// Openings of val_test.
    Test,
}

/// What is known of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum LedgerState {
    /// All its entries are there.
    Known {
        /// How many.
        entries: u64,
        /// The digest of the last one (of nothing but the splits' digest, if there is none).
        head: Digest,
    },
    /// Entries are missing or were changed: how often the split was used can't be told.
    Unknown {
        /// What is wrong with it.
        reason: String,
    },
}
