//! Which rows selected and certified a policy, where no splits keep rows apart: `used-rows.safetensors` beside it.

use crate::output::Output;
use anyhow::{Context, anyhow, bail, ensure};
use stage1_core::{
    artifact::{
        Digest, Hasher,
        tensors::{self, Tensor, TensorFile},
    },
    logits::LogitSet,
};
use std::{collections::BTreeMap, fmt::Write as _, path::Path};

pub(super) const FILE: &str = "used-rows.safetensors";
const ROWS: &str = "rows";
const IDS: &str = "ids";
const GROUPS: &str = "groups";
const REPEATED: &str = "repeated";
/// A larger share of val_test that says what used rows say (and twice the share of used rows that say what another says) isn't by
/// chance.
const CHANCE: f64 = 0.02;

/// What is kept of the rows, each list sorted, in 64 bits each.
pub(super) struct UsedRows {
    /// What the model says of a row, and its label.
    rows: Vec<i64>,
    ids: Vec<i64>,
    groups: Vec<i64>,
    /// How many rows of the first session say what another one says, and how many it has.
    repeated: [i64; 2],
}

impl UsedRows {
    /// Of the rows that selected, and of those that certified, through one session or several.
    pub(super) fn of(select: &LogitSet, calib: &LogitSet, further: &[LogitSet]) -> Self {
        let mut rows: Vec<i64> = [select, calib].into_iter().flat_map(all_said).collect();
        rows.sort_unstable();
        let same = rows.chunk_by(|a, b| a == b).map(<[i64]>::len);
        let repeated = same.filter(|n| *n > 1).sum::<usize>();
        let repeated = [repeated, rows.len()].map(|n| n as i64);
        rows.extend(further.iter().flat_map(all_said));
        let both = || [select, calib].into_iter();
        let ids = both().flat_map(|set| set.ids.iter().map(|id| key_of(id)));
        let groups =
            both().flat_map(|set| set.units.iter().flatten().map(|unit| unit.cast_signed()));
        Self {
            rows: sorted(rows.into_iter()),
            ids: sorted(ids),
            groups: sorted(groups),
            repeated,
        }
    }

    /// Writes the file into `folder`.
    pub(super) fn save(&self, folder: &Path) -> anyhow::Result<()> {
        tensors::save(&folder.join(FILE), &self.tensors(), &BTreeMap::new())?;
        Ok(())
    }

    /// The file's digest.
    pub(super) fn digest(&self) -> Digest {
        Digest::of_bytes(&tensors::to_bytes(&self.tensors(), &BTreeMap::new()))
    }

    fn tensors(&self) -> BTreeMap<String, Tensor> {
        let tensor =
            |name: &str, keys: &[i64]| (name.to_owned(), Tensor::i64([keys.len()], keys.to_vec()));
        BTreeMap::from([
            tensor(ROWS, &self.rows),
            tensor(IDS, &self.ids),
            tensor(GROUPS, &self.groups),
            tensor(REPEATED, &self.repeated),
        ])
    }

    /// The file in `folder` that a certificate tells of.
    pub(super) fn open(folder: &Path, digest: Digest) -> anyhow::Result<Self> {
        let file = TensorFile::open_verified(&folder.join(FILE), digest).context(
            "it shows which rows chose and certified the policy; it comes with certificate.json, from the same calibration",
        )?;
        let keys = |name| anyhow::Ok(file.i64(name)?.1);
        Ok(Self {
            rows: keys(ROWS)?,
            ids: keys(IDS)?,
            groups: keys(GROUPS)?,
            repeated: keys(REPEATED)?
                .try_into()
                .map_err(|got| anyhow!("{FILE}: `{REPEATED}` is {got:?}, expected two numbers"))?,
        })
    }

    /// Whether both have rows in common, more than by chance.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let common = self
            .rows
            .iter()
            .filter(|row| is_in(&other.rows, **row))
            .count();
        common as f64 > other.by_chance() * self.rows.len() as f64
    }

    /// The share of other rows that say what one of these says, although they are others.
    fn by_chance(&self) -> f64 {
        let [repeated, of] = self.repeated.map(|n| n as f64);
        CHANCE + 2.0 * repeated / of.max(1.0)
    }

    /// Fails where rows of `test` chose or certified the policy, or are of a group that did; rows that are like one of those by
    /// chance, or as copies of an image are, are told of.
    pub(super) fn check_other(&self, test: &LogitSet, output: Output) -> anyhow::Result<()> {
        if let Some(id) = test.ids.iter().find(|id| is_in(&self.ids, key_of(id))) {
            bail!(
                "row `{id}` of val_test has the id of a row that the policy was chosen or certified on: those say nothing new; val_test must be \
                 other rows. If these are, give them other ids, or leave the column out: an id names a row"
            );
        }
        let is_used = |unit: &u64| is_in(&self.groups, unit.cast_signed());
        if let Some(row) = test.units.iter().flatten().position(is_used) {
            bail!(
                "row {row} of val_test is of a group that the policy was chosen or certified on: a group goes to one side as a whole"
            );
        }
        let alike = all_said(test).filter(|row| is_in(&self.rows, *row)).count();
        ensure!(
            alike as f64 <= self.by_chance() * test.n() as f64,
            "{alike} of the {} rows of val_test have label and logits of rows that the policy was chosen or certified on: those say \
             nothing new; val_test must be other rows",
            test.n()
        );
        if alike > 0 {
            output.warn(&format!(
                "{alike} of the {} rows of val_test have label and logits of a row that chose or certified the policy: copies of an \
                 image belong on one side",
                test.n()
            ));
        }
        Ok(())
    }
}

fn sorted(keys: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys
}

fn is_in(sorted: &[i64], key: i64) -> bool {
    sorted.binary_search(&key).is_ok()
}

/// Of each row: its label and its logits, to six digits, so that another file's digits make no other row of it.
fn all_said(set: &LogitSet) -> impl Iterator<Item = i64> {
    (0..set.n()).map(|i| {
        let mut text = String::new();
        for z in set.row(i) {
            // Writing to a string can't fail.
            _ = write!(text, "{:.5e} ", z + 0.0);
        }
        let mut hasher = Hasher::new();
        hasher
            .field(text.as_bytes())
            .field(&set.labels[i].to_be_bytes());
        key(hasher.finish())
    })
}

fn key_of(name: &str) -> i64 {
    key(Digest::of_bytes(name.as_bytes()))
}

fn key(digest: Digest) -> i64 {
    let bytes = digest.as_bytes().first_chunk();
    i64::from_be_bytes(*bytes.expect("a digest has 32 bytes"))
}
