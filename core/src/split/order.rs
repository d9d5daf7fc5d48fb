//! Order by seeded hash: the same for the same ids, whatever order they come in.

use crate::artifact::Hasher;
use std::collections::BTreeMap;

/// What a hash is for. Hashes for different uses are independent: the row that is the first of its unit when one row is
/// kept is not the first when rows are put in order, so that large units don't come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// The order of rows, and of units by the first of their ids.
    Order,
    /// Which row of a unit stands for it.
    Keep,
    /// How the remainders of a class are rounded.
    Round,
}

impl Use {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Order => b"stage1 order",
            Self::Keep => b"stage1 keep",
            Self::Round => b"stage1 round",
        }
    }
}

/// A number that depends on nothing but the seed, the use and the id. Sort by it, then by id.
pub fn seeded_hash(seed: u64, what: Use, id: &str) -> u64 {
    let mut hasher = Hasher::new();
    hasher
        .field(what.name())
        .field(&seed.to_be_bytes())
        .field(id.as_bytes());
    hasher.finish().as_u64()
}

/// Rows in canonical order: by the seeded hash of their id, never by score, loss, size or place in a file.
pub fn canonical_order<T>(
    rows: impl IntoIterator<Item = T>,
    seed: u64,
    id: impl Fn(&T) -> &str,
) -> Vec<T> {
    let mut rows: Vec<T> = rows.into_iter().collect();
    rows.sort_by_cached_key(|row| {
        let id = id(row);
        (seeded_hash(seed, Use::Order, id), id.to_owned())
    });
    rows
}

/// One row of each unit, drawn by seeded hash over all its rows, in canonical order.
///
/// Call it before looking at scores or labels.
pub fn one_row_per_unit<T>(
    rows: impl IntoIterator<Item = T>,
    seed: u64,
    id: impl Fn(&T) -> &str,
    unit: impl Fn(&T) -> u64,
) -> Vec<T> {
    let mut kept: BTreeMap<u64, (u64, T)> = BTreeMap::new();
    for row in rows {
        let hash = seeded_hash(seed, Use::Keep, id(&row));
        let unit = unit(&row);
        let better = kept
            .get(&unit)
            .is_none_or(|(best, other)| (hash, id(&row)) < (*best, id(other)));
        if better {
            kept.insert(unit, (hash, row));
        }
    }
    canonical_order(kept.into_values().map(|(_, row)| row), seed, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let rows: Vec<(String, u64)> = (0..200).map(|i| (format!("r{i}"), i / 7)).collect();
        let mut reversed = rows.clone();
        reversed.reverse();
        let keep = |rows: Vec<(String, u64)>, seed| one_row_per_unit(rows, seed, |r| &r.0, |r| r.1);
        let kept = keep(rows.clone(), 1);
        assert_eq!(kept, keep(reversed.clone(), 1));
        assert_ne!(kept, keep(rows.clone(), 2));
        assert_eq!(kept.len(), 29);
        let order = |rows, seed| canonical_order(rows, seed, |r: &(String, u64)| &r.0);
        assert_eq!(order(rows.clone(), 1), order(reversed, 1));
        assert_ne!(order(rows.clone(), 1), order(rows, 2));
    }

    #[test]
    fn large_units_do_not_come_first() {
        // 500 units of one row and 500 of twenty: their mean places are both about the middle.
        let sizes = (0..1000u64).map(|unit| (unit, if unit < 500 { 1 } else { 20 }));
        let rows =
            sizes.flat_map(|(unit, size)| (0..size).map(move |i| (format!("{unit}/{i}"), unit)));
        let kept = one_row_per_unit(rows, 3, |r| &r.0, |r| r.1);
        let places = kept
            .iter()
            .enumerate()
            .filter(|(_, row)| row.1 < 500)
            .map(|(place, _)| place);
        let mean = places.sum::<usize>() as f64 / 500.0;
        // The mean of 500 of 1000 places has a standard deviation of 9.1.
        assert!((mean - 499.5).abs() < 46.0, "{mean}");
    }
}
