use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Which units were seen: hashes of their names, eight bytes each. Two names of one hash would cost a row, not validity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Units(BTreeSet<u64>);

impl Units {
    /// Whether a row of it was seen.
    pub fn contains(&self, unit: u64) -> bool {
        self.0.contains(&unit)
    }

    /// Whether this is the first row of its unit; rows without a unit are their own.
    pub fn is_first(&mut self, unit: Option<u64>) -> bool {
        unit.is_none_or(|unit| self.0.insert(unit))
    }
}
