use super::Split;
use crate::data::Listing;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the reader of the splits should know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Warning {
    /// The images weren't read.
    ContentUnknown,
    /// Images that can't be decoded were left out.
    BadImages {
        /// They, with the reasons.
        images: Listing,
    },
    /// Copies with different labels were left out.
    LabelConflicts {
        /// Rows left out.
        rows: u64,
        /// The copies of each image.
        sets: Listing,
    },
    /// Near-duplicates have different labels: at least one of them is likely to be wrong.
    NearLabels {
        /// The near-duplicates of each image.
        sets: Listing,
    },
    /// Of images that belong together, those in the less protected splits were left out.
    SplitConflicts {
        /// Rows left out.
        rows: u64,
        /// The images of each set.
        sets: Listing,
    },
    /// Many images are near-duplicates of one.
    LargeCluster {
        /// Images in the cluster.
        images: u64,
        /// Their share.
        share: f64,
        /// The image that represents it.
        example: String,
    },
    /// Not all that may be near-duplicates was compared.
    CrowdedHash {
        /// Images for which that holds.
        images: u64,
    },
    /// A given split lacks classes.
    MissingClasses {
        /// The split.
        split: Split,
        /// The classes.
        labels: Listing,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ContentUnknown => write!(
                f,
                "`content: none`: duplicates and near-duplicates are unknown, and may lie in different splits"
            ),
            Self::BadImages { images } => {
                write!(
                    f,
                    "{} image(s) can't be decoded and were left out: {images}",
                    images.count
                )
            }
            Self::LabelConflicts { rows, sets } => {
                write!(
                    f,
                    "{rows} row(s) were left out: copies with different labels: {sets}"
                )
            }
            Self::NearLabels { sets } => write!(
                f,
                "{} set(s) of near-duplicates have different labels; look at them: {sets}",
                sets.count
            ),
            Self::SplitConflicts { rows, sets } => write!(
                f,
                "{rows} row(s) were left out: they belong together with rows of a more protected split: {sets}"
            ),
            Self::LargeCluster {
                images,
                share,
                example,
            } => write!(
                f,
                "{images} images ({:.1} % of all) are near-duplicates of `{example}`, and one unit of one split",
                share * 100.0
            ),
            Self::CrowdedHash { images } => write!(
                f,
                "{images} image(s) look like so many others that not all were compared; some near-duplicates may lie in different splits"
            ),
            Self::MissingClasses { split, labels } => {
                write!(
                    f,
                    "no image in {split} has the label(s) {labels}; nothing is known about them there"
                )
            }
        }
    }
}
