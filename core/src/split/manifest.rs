use super::{Ratios, Split};
use crate::{
    artifact::{Digest, Document},
    data::Content,
};
use serde::{Deserialize, Serialize, Serializer, ser::Error as _};
use std::{collections::BTreeMap, path::Path};

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
    /// The shares that were asked for; none where the CSV gives all four splits.
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

/// What the reader of the splits should know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Warning {
    /// The images weren't read.
    ContentUnknown,
}

/// A million rows stay readable, and small, with one row to the line.
fn one_per_line<S: Serializer>(samples: &[SplitSample], serializer: S) -> Result<S::Ok, S::Error> {
    let rows = samples.iter().map(serde_json::value::to_raw_value);
    let rows: Vec<_> = rows.collect::<Result<_, _>>().map_err(S::Error::custom)?;
    serializer.collect_seq(rows)
}

impl Document for SplitManifest {
    const KIND: &'static str = "splits.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

impl SplitManifest {
    /// The images of one split, in path order.
    pub fn of(&self, split: Split) -> impl Iterator<Item = &SplitSample> {
        self.samples
            .iter()
            .filter(move |sample| sample.split == split)
    }

    /// Where the file of `sample` is, below the data root.
    pub fn path_of(&self, root: &Path, sample: &SplitSample) -> std::path::PathBuf {
        root.join(&sample.path)
    }
}
