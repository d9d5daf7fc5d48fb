//! The contract of splits, as types: [`SelectRows`] choose, [`CalibRows`] certify, [`TestRows`] validate. A function
//! that takes one can't be given another, and none of them can be made but by the unit rule below.
//!
//! **Unit rule.** Exact binomial tests need independent draws. Rows of one unit (a patient, a video, duplicates) aren't:
//! one row of each unit is kept, by a seeded hash of the row's id (without ids: of its bytes), before any score is
//! computed. The kept rows are then put in the order of that hash, so that permuting the input changes nothing.

use crate::error::Result;
use stage1_core::artifact::{Digest, Hasher};
use stage1_core::certificate::{SampleSize, UnitRule};
use stage1_core::logits::LogitSet;
use std::collections::BTreeMap;

/// Logits `[n, classes]` with labels `[n]`, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a> {
    /// Row-major logits.
    pub logits: &'a [f32],
    /// Number of classes.
    pub classes: usize,
    /// Class indices below `classes`.
    pub labels: &'a [usize],
}

impl<'a> Labelled<'a> {
    /// Number of rows.
    pub fn n(&self) -> usize {
        self.labels.len()
    }

    /// The logits of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.logits[i * self.classes..(i + 1) * self.classes]
    }
}

/// One row of each unit, in canonical order: independent draws, as far as units are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct IndependentRows {
    logits: Vec<f32>,
    labels: Vec<usize>,
    pub(crate) classes: usize,
    pub(crate) seed: u64,
    pub(crate) size: SampleSize,
}

impl IndependentRows {
    /// The only way to make them.
    fn one_per_unit(set: &LogitSet, seed: u64) -> Result<Self> {
        set.validate()?;
        let kept = keep(set, seed);
        let size = SampleSize {
            rule: if kept.len() < set.n() {
                UnitRule::OnePerUnit
            } else {
                UnitRule::Rows
            },
            rows: set.n() as u64,
            units: kept.len() as u64,
        };
        Ok(Self {
            logits: kept.iter().flat_map(|i| set.row(*i)).copied().collect(),
            labels: kept.iter().map(|i| class(set.labels[*i])).collect(),
            classes: set.classes,
            seed,
            size,
        })
    }

    pub(crate) fn labelled(&self) -> Labelled<'_> {
        Labelled {
            logits: &self.logits,
            classes: self.classes,
            labels: &self.labels,
        }
    }
}

/// Validated logit sets have labels in `0..classes`.
pub(crate) fn class(label: i64) -> usize {
    usize::try_from(label).expect("a validated label is a class")
}

/// Indices of the kept rows in canonical order.
fn keep(set: &LogitSet, seed: u64) -> Vec<usize> {
    let keys: Vec<_> = (0..set.n())
        .map(|i| (row_key(set, i, "order", seed), unit(set, i), i))
        .collect();
    let mut kept = match &set.units {
        None => keys,
        Some(_) => smallest_of_each_unit(keys),
    };
    kept.sort_unstable();
    kept.into_iter().map(|(_, _, i)| i).collect()
}

type Key = (Digest, u64, usize);

fn smallest_of_each_unit(keys: Vec<Key>) -> Vec<Key> {
    let mut best: BTreeMap<u64, Key> = BTreeMap::new();
    for key in keys {
        best.entry(key.1)
            .and_modify(|kept| *kept = key.min(*kept))
            .or_insert(key);
    }
    best.into_values().collect()
}

fn unit(set: &LogitSet, i: usize) -> u64 {
    set.units.as_ref().map_or(0, |units| units[i])
}

/// The seeded hash of a row: of its id, or of its bytes (logits and label) if it has none.
fn row_key(set: &LogitSet, i: usize, purpose: &str, seed: u64) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(purpose.as_bytes()).field(&seed.to_be_bytes());
    match set.ids.get(i) {
        Some(id) => hasher.field(b"id").field(id.as_bytes()),
        None => {
            let bytes: Vec<u8> = set.row(i).iter().flat_map(|z| z.to_be_bytes()).collect();
            hasher
                .field(b"row")
                .field(&bytes)
                .field(&set.labels[i].to_be_bytes())
        }
    };
    hasher.finish()
}

/// Divides the rows of a set that names no splits: a third of the units, by seeded hash, to select, the others to
/// certify. Returns row indices in input order.
///
/// # Errors
/// As [`LogitSet::validate`].
pub fn divide(set: &LogitSet, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    set.validate()?;
    let keys = division_keys(set, seed);
    let mut units = keys.clone();
    units.sort_unstable();
    units.dedup();
    let Some(first_calib) = units.get((units.len() + 1) / 3) else {
        return Ok((Vec::new(), Vec::new()));
    };
    Ok((0..set.n()).partition(|i| keys[*i] < *first_calib))
}

/// A seeded hash for each unit; rows without units are told apart by their ids, or else by their bytes and a count among
/// rows of equal bytes. The count matters: were equal rows kept together, logits and label would steer the division, and
/// rows of a model with few distinct outputs would not be divided at random.
fn division_keys(set: &LogitSet, seed: u64) -> Vec<Digest> {
    if let Some(units) = &set.units {
        return units.iter().map(|unit| unit_key(*unit, seed)).collect();
    }
    let mut seen: BTreeMap<Digest, u64> = BTreeMap::new();
    let mut key = |i| {
        let row = row_key(set, i, "divide", seed);
        let count = seen.entry(row).or_default();
        *count += 1;
        let mut hasher = Hasher::new();
        hasher.field(&row.0).field(&count.to_be_bytes());
        hasher.finish()
    };
    (0..set.n()).map(&mut key).collect()
}

fn unit_key(unit: u64, seed: u64) -> Digest {
    let mut hasher = Hasher::new();
    hasher
        .field(b"divide")
        .field(&seed.to_be_bytes())
        .field(b"unit")
        .field(&unit.to_be_bytes());
    hasher.finish()
}

/// How many units a set has: what a plan needs to know of val_calib, without its labels.
pub fn count_units(set: &LogitSet) -> u64 {
    let Some(units) = &set.units else {
        return set.n() as u64;
    };
    let mut units = units.clone();
    units.sort_unstable();
    units.dedup();
    units.len() as u64
}

macro_rules! split_rows {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name(pub(crate) IndependentRows);

        impl $name {
            /// Applies the unit rule with `seed`.
            ///
            /// # Errors
            /// As [`LogitSet::validate`].
            pub fn new(set: &LogitSet, seed: u64) -> Result<Self> {
                IndependentRows::one_per_unit(set, seed).map(Self)
            }

            /// Rows given, units kept, and the rule.
            pub fn size(&self) -> SampleSize {
                self.0.size
            }

            /// Number of classes.
            pub fn classes(&self) -> usize {
                self.0.classes
            }
        }
    };
}

split_rows! {
    /// Rows of val_select: they choose score, thresholds, order and start.
    SelectRows
}
split_rows! {
    /// Rows of val_calib: they certify, and fit the reported probability.
    CalibRows
}
split_rows! {
    /// Rows of val_test: the verdict.
    TestRows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(n: usize, with_ids: bool, units: Option<Vec<u64>>) -> LogitSet {
        LogitSet {
            logits: (0..2 * n).map(|i| (i * 37 % 101) as f32 / 7.0).collect(),
            classes: 2,
            labels: (0..n).map(|i| (i % 2) as i64).collect(),
            ids: if with_ids {
                (0..n).map(|i| format!("{i}.png")).collect()
            } else {
                Vec::new()
            },
            units,
            ..LogitSet::default()
        }
    }

    #[test]
    fn one_row_of_each_unit_is_kept_and_both_numbers_are_told() {
        let rows =
            CalibRows::new(&set(90, true, Some((0..90).map(|i| i / 9).collect())), 1).unwrap();
        assert_eq!(
            rows.size(),
            SampleSize {
                rule: UnitRule::OnePerUnit,
                rows: 90,
                units: 10
            }
        );
        assert_eq!(rows.0.labels.len(), 10);
        let rows = CalibRows::new(&set(90, true, Some((0..90).collect())), 1).unwrap();
        assert_eq!(
            rows.size(),
            SampleSize {
                rule: UnitRule::Rows,
                rows: 90,
                units: 90
            }
        );
    }

    #[test]
    fn the_kept_row_depends_on_the_seed_and_not_on_the_order() {
        for with_ids in [true, false] {
            let straight = set(60, with_ids, Some((0..60).map(|i| i / 6).collect()));
            let backward: Vec<usize> = (0..60).rev().collect();
            let of = |set: &LogitSet, seed| CalibRows::new(set, seed).unwrap();
            assert_eq!(of(&straight, 1), of(&straight.subset(&backward), 1));
            assert_ne!(of(&straight, 1).0.logits, of(&straight, 2).0.logits);
        }
    }

    #[test]
    fn dividing_is_one_to_two_by_unit_and_free_of_order() {
        let plain = set(300, true, None);
        let (select, calib) = divide(&plain, 7).unwrap();
        assert_eq!((select.len(), calib.len()), (100, 200));
        let grouped = set(300, true, Some((0..300).map(|i| i % 30).collect()));
        let (select, calib) = divide(&grouped, 7).unwrap();
        assert_eq!((select.len(), calib.len()), (100, 200));
        assert!(
            select
                .iter()
                .all(|i| calib.iter().all(|j| i % 30 != j % 30)),
            "no unit is in both"
        );
        let backward: Vec<usize> = (0..300).rev().collect();
        let (other, _) = divide(&plain.subset(&backward), 7).unwrap();
        let mut other: Vec<usize> = other.into_iter().map(|i| backward[i]).collect();
        other.sort_unstable();
        assert_eq!(other, divide(&plain, 7).unwrap().0);
        assert_eq!(divide(&set(0, true, None), 7).unwrap(), (vec![], vec![]));
    }

    /// Logits and label must not steer the division: a model of two outputs, without ids, is divided like any other.
    #[test]
    fn rows_that_look_alike_are_divided_at_random() {
        let n = 1200;
        let alike = LogitSet {
            logits: (0..n).flat_map(|i| [0.0, (i % 2) as f32]).collect(),
            classes: 2,
            labels: (0..n).map(|i| (i % 3 == 0).into()).collect(),
            ..LogitSet::default()
        };
        let kind = |i: usize| (i % 2, i % 3 == 0);
        for seed in 0..20 {
            let (select, calib) = divide(&alike, seed).unwrap();
            assert_eq!((select.len(), calib.len()), (400, 800), "seed {seed}");
            for of in [(0, true), (0, false), (1, true), (1, false)] {
                let total = (0..n).filter(|i| kind(*i) == of).count() as f64;
                let selected = select.iter().filter(|i| kind(**i) == of).count() as f64;
                // Five standard deviations of a share of a third.
                let slack = 5.0 * (2.0 / 9.0 / total).sqrt();
                assert!(
                    (selected / total - 1.0 / 3.0).abs() < slack,
                    "seed {seed}, {of:?}: {selected} of {total}"
                );
            }
        }
    }
}
