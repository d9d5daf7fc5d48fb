//! Rows that contradict each other: copies with different labels, and units that a given split pulls apart.

use super::{Error, Result, make::Row};
use crate::data::{GivenSplit, Listing, OnConflict};
use std::fmt::Display;

/// Rows that were left out, and why.
#[derive(Default)]
pub(super) struct LeftOut {
    pub(super) rows: u64,
    pub(super) sets: Listing,
}

/// Refuses, or leaves out, copies (same digest) with different labels.
pub(super) fn settle_labels(
    rows: &mut Vec<Row<'_>>,
    labels: &[String],
    policy: OnConflict,
) -> Result<LeftOut> {
    let all: Vec<usize> = (0..rows.len()).collect();
    let mut sets = sharing(rows, &all, |row| row.digest, |row| row.sample.label);
    sets.sort_unstable();
    if sets.is_empty() {
        return Ok(LeftOut::default());
    }
    let listing = sets
        .iter()
        .map(|set| told(rows, set, |row| &labels[row.sample.label]));
    let listing: Listing = listing.collect();
    if policy == OnConflict::Fail {
        return Err(Error::LabelConflicts { sets: listing });
    }
    let mut keep = vec![true; rows.len()];
    sets.iter().flatten().for_each(|row| keep[*row] = false);
    let mut keep = keep.into_iter();
    rows.retain(|_| keep.next().unwrap_or(true));
    Ok(LeftOut {
        rows: sets.iter().map(|set| set.len() as u64).sum(),
        sets: listing,
    })
}

/// The sets of near-duplicates (not copies, which [`settle_labels`] settles) with different labels. They stay: that
/// images look alike doesn't say which label is wrong.
pub(super) fn near_labels(rows: &[Row<'_>], labels: &[String]) -> Listing {
    let all: Vec<usize> = (0..rows.len()).collect();
    let mut sets = sharing(rows, &all, |row| row.near, |row| row.sample.label);
    sets.sort_unstable();
    sets.iter()
        .map(|set| told(rows, set, |row| &labels[row.sample.label]))
        .collect()
}

/// Refuses, or leaves out, rows of a unit that a CSV gives to different splits: those in its most protected split stay.
pub(super) fn settle_splits(
    rows: &[Row<'_>],
    units: &mut [Vec<u32>],
    policy: OnConflict,
) -> Result<LeftOut> {
    let mut left_out = LeftOut::default();
    for unit in units {
        let given = |row: &u32| rows[*row as usize].sample.given;
        let most_protected = unit.iter().map(given).max().flatten();
        if unit.iter().all(|row| given(row) == most_protected) {
            continue;
        }
        pulled_apart(rows, unit)
            .into_iter()
            .for_each(|set| left_out.sets.push(set));
        let before = unit.len();
        unit.retain(|row| given(row) == most_protected);
        left_out.rows += (before - unit.len()) as u64;
    }
    if policy == OnConflict::Fail && !left_out.sets.is_empty() {
        return Err(Error::SplitConflicts {
            sets: left_out.sets,
        });
    }
    Ok(left_out)
}

/// What pulls a unit apart: its copies, else its near-duplicates, else its groups in different splits. Links make a unit,
/// so that at least one of them leads from split to split.
fn pulled_apart(rows: &[Row<'_>], unit: &[u32]) -> Vec<String> {
    let unit: Vec<usize> = unit.iter().map(|row| *row as usize).collect();
    let given = |row: &Row<'_>| row.sample.given;
    let mut why = "same content";
    let mut sets = sharing(rows, &unit, |row| row.digest, given);
    if sets.is_empty() {
        why = "near-duplicates";
        sets = sharing(rows, &unit, |row| row.near, given);
    }
    if sets.is_empty() {
        why = "same group";
        sets = sharing(rows, &unit, |row| row.sample.group.as_deref(), given);
    }
    let split = |row: &Row<'_>| given(row).map_or("no split", GivenSplit::name);
    sets.iter()
        .map(|set| format!("{} ({why})", told(rows, set, split)))
        .collect()
}

/// The sets of rows that have a `key` in common and don't have the same `value`.
fn sharing<'a, K: Ord, V: PartialEq>(
    rows: &[Row<'a>],
    among: &[usize],
    key: impl Fn(&Row<'a>) -> Option<K>,
    value: impl Fn(&Row<'a>) -> V,
) -> Vec<Vec<usize>> {
    let keyed = among
        .iter()
        .filter_map(|row| Some((key(&rows[*row])?, *row)));
    let mut keyed: Vec<(K, usize)> = keyed.collect();
    keyed.sort_unstable();
    let sets = keyed.chunk_by(|a, b| a.0 == b.0);
    let sets = sets.filter(|set| {
        let first = value(&rows[set[0].1]);
        set.iter().any(|(_, row)| value(&rows[*row]) != first)
    });
    sets.map(|set| set.iter().map(|(_, row)| *row).collect())
        .collect()
}

/// `a.png [x] = b.png [y]`, at most five.
fn told<'a, D: Display>(rows: &[Row<'a>], set: &[usize], what: impl Fn(&Row<'a>) -> D) -> String {
    let shown = set.iter().take(5).map(|row| {
        let row = &rows[*row];
        format!("{} [{}]", row.sample.id, what(row))
    });
    let mut text = shown.collect::<Vec<_>>().join(" = ");
    if set.len() > 5 {
        text += &format!(" = {} more", set.len() - 5);
    }
    text
}
