use super::Split;
use crate::data::{self, Listing};
use std::path::PathBuf;

/// Why splits can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The data set itself is at fault.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// Rows are numbered with 32 bits.
    #[error("{rows} images; this version divides at most {}", u32::MAX)]
    TooManyRows {
        /// Rows found.
        rows: usize,
    },
    /// Images that can't be decoded.
    #[error("{}: {} image(s) can't be used: {images}; repair or remove them, or leave them out with `on_bad_image: skip`", root.display(), images.count)]
    BadImages {
        /// The data root.
        root: PathBuf,
        /// The images, with the reasons.
        images: Listing,
    },
    /// Unlabelled images that can't be used.
    #[error("unlabelled images: {reason}")]
    Unlabelled {
        /// Which, why, and what to do.
        reason: String,
    },
    /// Copies of an image with different labels.
    #[error("{} image(s) are there with different labels: {sets}; remove the wrong copies, or leave all of them out with `on_conflict: drop`", sets.count)]
    LabelConflicts {
        /// The copies of each, with their labels.
        sets: Listing,
    },
    /// The given split pulls images apart that belong together.
    #[error("{} set(s) of images that belong together are in different splits: {sets}; correct the column `split`, or keep those in the most protected split with `on_conflict: drop`", sets.count)]
    SplitConflicts {
        /// The images of each set, with their splits and what they have in common.
        sets: Listing,
    },
    /// Too many images look alike.
    #[error("{images} images ({:.1} % of all, the limit is {:.1} %) are near-duplicates of `{example}` and would go to one split as one unit; look at them, then raise `near.correlation`, switch off `near.enabled`, or accept them with `near.allow_large_clusters: true`", share * 100.0, limit * 100.0)]
    LargeCluster {
        /// Images in the cluster, copies counted once.
        images: u64,
        /// Their share.
        share: f64,
        /// The share that is accepted.
        limit: f64,
        /// The image that represents it.
        example: String,
    },
    /// Classes with fewer units than splits.
    #[error("{classes}; every class needs at least {} units, one for each of {} (a unit is an image with its group, copies and near-duplicates): add images, or remove the class", splits.len(), names(splits))]
    SmallClasses {
        /// The classes, with their images and units.
        classes: Listing,
        /// The splits.
        splits: Vec<Split>,
    },
    /// A split without images.
    #[error("the split {split} is empty; give it images, in the column `split`")]
    EmptySplit {
        /// The split.
        split: Split,
    },
    /// Classes that couldn't be learnt.
    #[error(
        "no image in train has the label(s) {labels}; give each class some, in the column `split`"
    )]
    UntrainedClasses {
        /// The classes.
        labels: Listing,
    },
}

/// The result of making splits.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn names(splits: &[Split]) -> String {
    splits
        .iter()
        .map(|split| split.name())
        .collect::<Vec<_>>()
        .join(", ")
}
