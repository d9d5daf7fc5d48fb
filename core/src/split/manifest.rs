use super::order::{Use, seeded_hash};
use super::{Ratios, Split, Warning};
use crate::{
    artifact::{Digest, Document},
    data::Content,
};
use serde::{Deserialize, Serialize, Serializer, ser::Error as _};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// The version of `splits.json`.
pub(super) const VERSION: u32 = 1;

/// `splits.json`: every image with its label, its unit and what it is for.
///
/// It holds no times, hosts or absolute paths: the same images, options and seed give the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitManifest {
    /// The format's version.
    pub schema_version: u32,
    /// The digest of everything that the splits depend on: the list, the files' bytes and the options.
    pub inputs_digest: Digest,
    /// The seed.
    pub seed: u64,
    /// The shares that were asked for; none where a CSV gives the splits.
    pub ratios: Option<Ratios>,
    /// Whether the images were read.
    pub content: Content,
    /// The labels; a label's place is its index.
    pub labels: Vec<String>,
    /// Rows per split and label.
    pub counts: BTreeMap<Split, Vec<u64>>,
    /// What the reader of the splits should know.
    pub warnings: Vec<Warning>,
    /// The images, sorted by path.
    #[serde(serialize_with = "one_per_line")]
    pub samples: Vec<SplitSample>,
}

/// One image of a [`SplitManifest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitSample {
    /// The path relative to the data root, with `/` between the parts.
    pub path: String,
    /// The index of its label.
    pub label: usize,
    /// The group that the source names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Images of one unit (same group, same content, near-duplicates) are in one split. Units count from 0, in the
    /// order of their first paths.
    pub unit: u64,
    /// What it is for.
    pub split: Split,
    /// The digest of the file's bytes; none with [`Content::None`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// A million rows stay readable, and small, with one row to the line.
fn one_per_line<S: Serializer>(samples: &[SplitSample], serializer: S) -> Result<S::Ok, S::Error> {
    let rows = samples.iter().map(serde_json::value::to_raw_value);
    let rows: Vec<_> = rows.collect::<Result<_, _>>().map_err(S::Error::custom)?;
    serializer.collect_seq(rows)
}

/// Rows per split and label.
pub(super) fn counts(samples: &[SplitSample], labels: usize) -> BTreeMap<Split, Vec<u64>> {
    let mut counts: BTreeMap<_, _> = Split::ALL.map(|split| (split, vec![0; labels])).into();
    for sample in samples {
        if let Some(count) = counts
            .get_mut(&sample.split)
            .and_then(|row| row.get_mut(sample.label))
        {
            *count += 1;
        }
    }
    counts
}

impl SplitManifest {
    /// The samples of one split in an order that depends on nothing but `seed` and their paths: the first few are a random
    /// sample of them.
    pub fn shuffled(&self, split: Split, seed: u64) -> Vec<&SplitSample> {
        let mut samples: Vec<_> = self.of(split).collect();
        let place = |path: &str| seeded_hash(seed, Use::Sample, path);
        samples.sort_by_cached_key(|sample| (place(&sample.path), sample.path.clone()));
        samples
    }

    /// The images of one split, in path order.
    pub fn of(&self, split: Split) -> impl Iterator<Item = &SplitSample> {
        self.samples
            .iter()
            .filter(move |sample| sample.split == split)
    }

    /// Rows in one split.
    pub fn rows_in(&self, split: Split) -> u64 {
        self.counts
            .get(&split)
            .map_or(0, |counts| counts.iter().sum())
    }

    /// Units in one split.
    pub fn units_in(&self, split: Split) -> u64 {
        self.of(split)
            .map(|sample| sample.unit)
            .collect::<BTreeSet<_>>()
            .len() as u64
    }

    /// Where the file of `sample` is.
    pub fn path_of(&self, root: &Path, sample: &SplitSample) -> PathBuf {
        root.join(&sample.path)
    }

    fn check_sample(&self, sample: &SplitSample) -> Result<(), String> {
        let SplitSample { path, label, .. } = sample;
        let parts_are_names = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !parts_are_names {
            return Err(format!("the path `{path}` isn't relative to the data root"));
        }
        if *label >= self.labels.len() {
            return Err(format!(
                "`{path}` has label {label}, there are {} labels",
                self.labels.len()
            ));
        }
        match (self.content, sample.digest) {
            (Content::Digest, None) => Err(format!("`{path}` has no digest")),
            (Content::None, Some(_)) => Err(format!("`{path}` has a digest, but content is none")),
            _ => Ok(()),
        }
    }

    /// The same unit, digest or group in two rows means the same split, and the same digest or group the same unit.
    fn check_units(&self) -> Result<(), String> {
        let by_unit = self.samples.iter().map(|sample| (sample.unit, sample));
        all_agree(
            by_unit,
            |sample| sample.split,
            |unit| format!("unit {unit}"),
            "splits",
        )?;
        let by_digest = self
            .samples
            .iter()
            .filter_map(|sample| Some((sample.digest?, sample)));
        all_agree(
            by_digest,
            |sample| sample.unit,
            |digest| format!("content {digest}"),
            "units",
        )?;
        let by_group = self
            .samples
            .iter()
            .filter_map(|sample| Some((sample.group.as_deref()?, sample)));
        all_agree(
            by_group,
            |sample| sample.unit,
            |group| format!("group `{group}`"),
            "units",
        )
    }
}

/// Rows with the same key have the same value.
fn all_agree<'a, K: Ord, V: PartialEq>(
    keyed: impl Iterator<Item = (K, &'a SplitSample)>,
    value: impl Fn(&SplitSample) -> V,
    name: impl Fn(&K) -> String,
    values: &str,
) -> Result<(), String> {
    let mut keyed: Vec<_> = keyed.collect();
    keyed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    match keyed
        .windows(2)
        .find(|pair| pair[0].0 == pair[1].0 && value(pair[0].1) != value(pair[1].1))
    {
        None => Ok(()),
        Some(pair) => {
            let (a, b) = (&pair[0].1.path, &pair[1].1.path);
            Err(format!(
                "{} is in two {values}: `{a}` and `{b}`",
                name(&pair[0].0)
            ))
        }
    }
}

impl Document for SplitManifest {
    const KIND: &'static str = "splits.json";
    const SCHEMA_VERSION: u32 = VERSION;

    fn validate(&self) -> Result<(), String> {
        if self.labels.len() < 2 {
            return Err(format!(
                "{} label(s), expected at least two",
                self.labels.len()
            ));
        }
        if self.labels.iter().collect::<BTreeSet<_>>().len() < self.labels.len() {
            return Err("a label is there twice".to_owned());
        }
        if let Some(pair) = self
            .samples
            .windows(2)
            .find(|pair| pair[0].path >= pair[1].path)
        {
            let (a, b) = (&pair[0].path, &pair[1].path);
            return Err(format!(
                "`{a}` comes before `{b}`: paths are sorted, and there once"
            ));
        }
        self.samples
            .iter()
            .try_for_each(|sample| self.check_sample(sample))?;
        if self.counts != counts(&self.samples, self.labels.len()) {
            return Err("`counts` aren't those of the samples".to_owned());
        }
        if let Some(split) = Split::ALL
            .into_iter()
            .find(|split| self.rows_in(*split) == 0)
        {
            return Err(format!("the split {split} is empty"));
        }
        self.check_units()
    }
}
