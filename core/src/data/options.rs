use super::{Error, Result};
use crate::preprocess::Limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How the images of a data set are read, and what happens to those that can't be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataOptions {
    /// The folder that a CSV's paths are relative to; without it, the CSV's own folder.
    pub root: Option<PathBuf>,
    /// Whether the images are read when the splits are made.
    pub content: Content,
    /// What happens to an image that can't be decoded.
    pub on_bad_image: OnBadImage,
    /// What happens to copies with different labels, and to copies (or groups) that a given split pulls apart.
    pub on_conflict: OnConflict,
    /// The search for near-duplicates.
    pub near: NearOptions,
    /// An image of more pixels than this is a bad image: a small file may otherwise fill the memory.
    pub max_pixels: u64,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            root: None,
            content: Content::Digest,
            on_bad_image: OnBadImage::Fail,
            on_conflict: OnConflict::Fail,
            near: NearOptions::default(),
            max_pixels: Limits::default().max_pixels,
        }
    }
}

/// Whether splits know the content of the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Every image is read: its digest is recorded, and duplicates and near-duplicates stay in one split.
    #[default]
    Digest,
    /// No image is opened, nor looked for: nothing is known about duplicates, and a missing file is found when it is
    /// read. For lists too long to read beforehand.
    None,
}

/// What happens to an image that can't be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadImage {
    /// The run stops with the images' paths.
    #[default]
    Fail,
    /// They are left out, and counted in the splits' warnings.
    Skip,
}

/// What happens to rows that contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// The run stops with the rows' paths.
    #[default]
    Fail,
    /// Copies with different labels are all left out: which label is right is unknown. Of what a given split pulls
    /// apart, the rows in the most protected split stay (val_test, then val_calib, val_select, train): the certificate
    /// and its verdict need those rows as a sample of the target, training only loses a few rows. Both are counted
    /// in the splits' warnings.
    Drop,
}

/// The search for near-duplicates: pairs that a hash proposes and that pixels confirm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NearOptions {
    /// Whether they are searched for (with `content: digest` only).
    pub enabled: bool,
    /// Images whose small normalised grey versions correlate at least this much are near-duplicates.
    pub correlation: f64,
    /// A warning when one cluster holds more than this share of the images.
    pub warn_share: f64,
    /// A refusal when one cluster holds more than this share of the images.
    pub refuse_share: f64,
    /// Accept clusters above `refuse_share` (with a warning).
    pub allow_large_clusters: bool,
}

impl Default for NearOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            correlation: 0.98,
            warn_share: 0.01,
            refuse_share: 0.10,
            allow_large_clusters: false,
        }
    }
}

impl NearOptions {
    /// Numbers that mean something.
    pub(super) fn check(&self) -> Result<()> {
        let checks = [
            (
                "near.correlation",
                self.correlation,
                self.correlation > 0.0,
                "a number above 0, at most 1",
            ),
            (
                "near.warn_share",
                self.warn_share,
                self.warn_share >= 0.0,
                "a share from 0 to 1",
            ),
            (
                "near.refuse_share",
                self.refuse_share,
                self.refuse_share >= 0.0,
                "a share from 0 to 1",
            ),
        ];
        let wrong = checks
            .into_iter()
            .find(|(_, got, above, _)| !(*above && *got <= 1.0));
        wrong.map_or(Ok(()), |(option, got, _, expected)| {
            Err(Error::Option {
                option,
                got,
                expected,
            })
        })
    }
}
