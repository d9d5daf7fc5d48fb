//! Which rows select and which certify.

use crate::{output::Output, tables};
use anyhow::{Context, bail, ensure};
use serde::Serialize;
use stage1_calibration::rows::divide;
use stage1_core::{
    artifact::{Digest, Hasher},
    logits::LogitSet,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// How the rows were divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub(crate) enum How {
    /// The file's `split` column.
    SplitColumn,
    /// `--select` names the file of the others.
    TwoFiles,
    /// A seeded hash of the units, 1:2.
    SeededHash { seed: u64 },
}

/// The rows of a calibration.
pub(crate) struct Division {
    pub(crate) select: LogitSet,
    pub(crate) calib: LogitSet,
    pub(super) how: How,
}

impl Division {
    /// Divides the rows of `logits` by its `split` column, by `select` as the other file, or by a seeded hash.
    pub(crate) fn read(
        logits: &Path,
        select: Option<&Path>,
        seed: u64,
        output: Output,
    ) -> anyhow::Result<Self> {
        let set = read(logits, output)?;
        let division = match (select, &set.split) {
            (Some(path), _) => {
                let select = rows_of(path, &read(path, output)?, "val_select")?;
                Self::given(How::TwoFiles, select, rows_of(logits, &set, "val_calib")?)
            }
            (None, Some(_)) => {
                let select = rows_of(logits, &set, "val_select")?;
                Self::given(
                    How::SplitColumn,
                    select,
                    rows_of(logits, &set, "val_calib")?,
                )
            }
            (None, None) => Self::hashed(&set, seed, output)?,
        };
        division.check_apart()?;
        if matches!(division.how, How::TwoFiles) {
            division.check_other_rows()?;
        }
        Ok(division)
    }

    fn given(how: How, select: LogitSet, calib: LogitSet) -> Self {
        Self { select, calib, how }
    }

    fn hashed(set: &LogitSet, seed: u64, output: Output) -> anyhow::Result<Self> {
        let (select, calib) = divide(set, seed)?;
        output.note(&format!(
            "no `split` column and no --select: a hash seeded with {seed} divides the rows 1:2, {} to select and {} to certify",
            select.len(),
            calib.len()
        ));
        Ok(Self {
            select: set.subset(&select),
            calib: set.subset(&calib),
            how: How::SeededHash { seed },
        })
    }

    /// Two files whose rows have no ids could hold the same rows.
    fn check_other_rows(&self) -> anyhow::Result<()> {
        let (select, calib) = (&self.select, &self.calib);
        match (select.ids.is_empty(), calib.ids.is_empty()) {
            (false, false) => Ok(()),
            (true, true) => {
                let (fewer, more) = match select.n() < calib.n() {
                    true => (select, calib),
                    false => (calib, select),
                };
                ensure!(
                    !holds_all(more, fewer),
                    "every row of one of the two files is in the other, too: the rows that select and those that certify \
                     must be different ones (an `id` column in both files shows which is which)"
                );
                Ok(())
            }
            _ => bail!(
                "only one of the two files has ids: without ids in both it can't be seen that no row is in both"
            ),
        }
    }

    /// Copies of one image are one draw: without groups nobody can see which rows are.
    pub(super) fn tell_of_equal_rows(&self, output: Output) {
        let calib = &self.calib;
        if calib.units.is_some() {
            return;
        }
        let outputs: BTreeSet<Vec<u32>> = (0..calib.n())
            .map(|i| calib.row(i).iter().map(|z| z.to_bits()).collect())
            .collect();
        let equal = calib.n() - outputs.len();
        if equal > 0 {
            output.note(&format!(
                "{equal} of the {} rows that certify have the very logits of another one; rows of copies of an image belong in one \
                 group (a `group` column): they aren't independent, and the certificate would take them for it",
                calib.n()
            ));
        }
    }

    /// The certifying rows through another session: the rows of `path` with the same ids.
    pub(super) fn through(&self, path: &Path, output: Output) -> anyhow::Result<LogitSet> {
        ensure!(
            !self.calib.ids.is_empty(),
            "--joint needs an `id` column: the sessions' rows are matched by it"
        );
        let set = read(path, output)?;
        let places: BTreeMap<_, _> = set.ids.iter().enumerate().map(|(i, id)| (id, i)).collect();
        let place = |id: &String| {
            let found = places.get(id).copied();
            found.with_context(|| format!("{}: no row `{id}`, which certifies", path.display()))
        };
        let rows = self
            .calib
            .ids
            .iter()
            .map(place)
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut set = set.subset(&rows);
        ensure!(
            set.labels == self.calib.labels,
            "{}: labels differ from those of the first session's rows",
            path.display()
        );
        set.units = self.calib.units.clone();
        Ok(set)
    }

    /// A row that selects the threshold can't certify it.
    fn check_apart(&self) -> anyhow::Result<()> {
        ensure!(
            self.select.units.is_some() == self.calib.units.is_some(),
            "only one of the two files has a `group` column: without groups in both it can't be seen that no group is in both"
        );
        let ids: BTreeSet<_> = self.select.ids.iter().collect();
        if let Some(id) = self.calib.ids.iter().find(|id| ids.contains(id)) {
            bail!(
                "row `{id}` is both among those that select and those that certify: a row can be used for one of them"
            );
        }
        let units: BTreeSet<_> = self.select.units.iter().flatten().collect();
        let row = self
            .calib
            .units
            .iter()
            .flatten()
            .position(|unit| units.contains(unit));
        if let Some(row) = row {
            let id = self.calib.ids.get(row).map_or_else(
                || format!("{row} of those that certify"),
                |id| format!("`{id}`"),
            );
            bail!(
                "row {id}: its group is also among the rows that select: a group goes to one of them as a whole"
            );
        }
        Ok(())
    }
}

pub(crate) fn read(path: &Path, output: Output) -> anyhow::Result<LogitSet> {
    let table = tables::read(path)?;
    table.notes.iter().for_each(|note| output.note(note));
    Ok(table.set)
}

/// The rows of one split; all of them if the file doesn't name splits.
pub(crate) fn rows_of(path: &Path, set: &LogitSet, split: &str) -> anyhow::Result<LogitSet> {
    let Some(splits) = &set.split else {
        return Ok(set.clone());
    };
    let rows: Vec<_> = (0..set.n()).filter(|i| splits[*i] == split).collect();
    let mut counts = BTreeMap::<_, usize>::new();
    splits
        .iter()
        .for_each(|split| *counts.entry(split).or_default() += 1);
    let found: Vec<_> = counts
        .iter()
        .map(|(split, n)| format!("{split} ({n} rows)"))
        .collect();
    ensure!(
        !rows.is_empty(),
        "{}: no rows of split {split}; it holds {}",
        path.display(),
        found.join(", ")
    );
    Ok(set.subset(&rows))
}

/// What a model says of the rows and what they are called, whatever their order.
pub(crate) fn contents_of(set: &LogitSet) -> Digest {
    let mut rows: Vec<_> = (0..set.n()).map(|i| named_contents(set, i)).collect();
    rows.sort_unstable();
    Digest::of_json(&rows)
}

/// Whether `more` holds every row of `fewer`, each as often.
fn holds_all(more: &LogitSet, fewer: &LogitSet) -> bool {
    let mut counts = BTreeMap::<_, usize>::new();
    (0..more.n()).for_each(|i| *counts.entry(contents(more, i)).or_default() += 1);
    (0..fewer.n()).all(|i| match counts.get_mut(&contents(fewer, i)) {
        Some(left @ 1..) => {
            *left -= 1;
            true
        }
        _ => false,
    })
}

fn named_contents(set: &LogitSet, i: usize) -> Digest {
    let mut hasher = hasher(set, i);
    if let Some(id) = set.ids.get(i) {
        hasher.field(id.as_bytes());
    }
    hasher.finish()
}

/// What a model says of a row, and its label.
fn contents(set: &LogitSet, i: usize) -> Digest {
    hasher(set, i).finish()
}

fn hasher(set: &LogitSet, i: usize) -> Hasher {
    let bytes: Vec<u8> = set.row(i).iter().flat_map(|z| z.to_be_bytes()).collect();
    let mut hasher = Hasher::new();
    hasher.field(&bytes).field(&set.labels[i].to_be_bytes());
    hasher
}
