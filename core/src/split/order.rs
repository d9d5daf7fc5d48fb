//! Draws by seeded hash: the same for the same ids, whatever order they come in.

use crate::artifact::Hasher;

/// What a hash is for. Hashes for different uses are independent: the row that is the first of its unit when one row is
/// kept is not the first when rows are put in order, so that large units don't come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// The order of rows, and of units by the first of their ids.
    Order,
    /// Which row of a unit stands for it.
    Keep,
    /// How the remainders of a class are rounded.
    Round,
    /// Which training images are looked at, where a few are enough.
    Sample,
    /// Which units of train are kept apart.
    Fold,
}

impl Use {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Order => b"stage1 order",
            Self::Keep => b"stage1 keep",
            Self::Round => b"stage1 round",
            Self::Sample => b"stage1 sample",
            Self::Fold => b"stage1 fold",
        }
    }
}

/// A number that depends on nothing but the seed, the use and the id. Sort by it, then by id.
pub(super) fn seeded_hash(seed: u64, what: Use, id: &str) -> u64 {
    let mut hasher = Hasher::new();
    hasher
        .field(what.name())
        .field(&seed.to_be_bytes())
        .field(id.as_bytes());
    hasher.finish().as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_seed_use_and_id() {
        let all = [
            seeded_hash(1, Use::Order, "a"),
            seeded_hash(2, Use::Order, "a"),
            seeded_hash(1, Use::Keep, "a"),
            seeded_hash(1, Use::Order, "b"),
        ];
        assert_eq!(all[0], seeded_hash(1, Use::Order, "a"));
        let distinct: std::collections::BTreeSet<_> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
