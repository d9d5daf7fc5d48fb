//! Which rows selected and certified a policy, where no splits keep rows apart: `used-rows.safetensors` beside it.

use super::calibrate_logits::division::contents;
use crate::output::Output;
use anyhow::{Context, bail, ensure};
use stage1_core::{
    artifact::{
        Digest,
        tensors::{self, Tensor, TensorFile},
    },
    logits::LogitSet,
};
use std::{collections::BTreeMap, path::Path};

pub(super) const FILE: &str = "used-rows.safetensors";
const ROWS: &str = "rows";
const NAMED_ROWS: &str = "named_rows";
/// More rows than this share (and than share each other's logits) can't be like others by chance.
const CHANCE: f64 = 0.1;

/// Rows by the first 64 bits of what the model says of them and their label, and of that with their id; sorted.
#[derive(PartialEq)]
pub(super) struct UsedRows {
    rows: Vec<i64>,
    /// Of those that have an id.
    named_rows: Vec<i64>,
}

impl UsedRows {
    pub(super) fn of<'a>(sets: impl IntoIterator<Item = &'a LogitSet>) -> Self {
        let (mut rows, mut named_rows) = (Vec::new(), Vec::new());
        for set in sets {
            for i in 0..set.n() {
                let row = contents(set, i);
                rows.push(key(row));
                named_rows.extend(set.ids.get(i).map(|id| named_key(row, id)));
            }
        }
        rows.sort_unstable();
        named_rows.sort_unstable();
        Self { rows, named_rows }
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
        let tensor = |keys: &[i64]| Tensor::i64([keys.len()], keys.to_vec());
        BTreeMap::from([
            (ROWS.to_owned(), tensor(&self.rows)),
            (NAMED_ROWS.to_owned(), tensor(&self.named_rows)),
        ])
    }

    /// The file in `folder` that a certificate tells of.
    pub(super) fn open(folder: &Path, digest: Digest) -> anyhow::Result<Self> {
        let file = TensorFile::open_verified(&folder.join(FILE), digest).context(
            "it shows which rows chose and certified the policy; it comes with certificate.json, from the same calibration",
        )?;
        let (_, rows) = file.i64(ROWS)?;
        let (_, named_rows) = file.i64(NAMED_ROWS)?;
        Ok(Self { rows, named_rows })
    }

    /// Whether any row is among both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.rows.iter().any(|row| is_in(&other.rows, *row))
    }

    /// Fails where rows of `test` chose or certified the policy; rows that are like one of those by chance, or as copies of
    /// an image are, are told of.
    pub(super) fn check_other(&self, test: &LogitSet, output: Output) -> anyhow::Result<()> {
        let mut alike = 0_usize;
        for i in 0..test.n() {
            let row = contents(test, i);
            alike += usize::from(is_in(&self.rows, key(row)));
            if let Some(id) = test.ids.get(i)
                && is_in(&self.named_rows, named_key(row, id))
            {
                bail!(
                    "row `{id}` of val_test is among the rows that the policy was chosen or certified on: they say nothing new; \
                     val_test must be other rows"
                );
            }
        }
        let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
        let by_chance = CHANCE + share(self.repeated(), self.rows.len());
        ensure!(
            share(alike, test.n()) <= by_chance,
            "{alike} of the {} rows of val_test have label and logits of rows that the policy was chosen or certified on: they say \
             nothing new; val_test must be other rows",
            test.n()
        );
        if alike > 0 {
            output.warn(&format!(
                "{alike} of the {} rows of val_test have the very label and logits of a row that chose or certified the policy: \
                 copies of an image belong on one side",
                test.n()
            ));
        }
        Ok(())
    }

    /// How many are like another.
    fn repeated(&self) -> usize {
        let groups = self.rows.chunk_by(|a, b| a == b);
        groups.map(<[i64]>::len).filter(|n| *n > 1).sum()
    }
}

fn is_in(sorted: &[i64], key: i64) -> bool {
    sorted.binary_search(&key).is_ok()
}

fn key(row: Digest) -> i64 {
    let bytes = row.as_bytes().first_chunk();
    i64::from_be_bytes(*bytes.expect("a digest has 32 bytes"))
}

fn named_key(row: Digest, id: &str) -> i64 {
    key(Digest::of_json(&(row, id)))
}
