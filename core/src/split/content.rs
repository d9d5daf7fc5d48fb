//! The images, read once: digests, signatures, and what can't be read.

use super::{Error, Result, near::Signature};
use crate::{
    artifact::{Digest, Hasher},
    data::{Content, Dataset, Listing, OnBadImage, Sample},
    preprocess::{self, Limits},
    progress::Progress,
};
use rayon::prelude::*;
use std::fs;

/// One image that was read.
pub(super) struct Image {
    pub(super) digest: Digest,
    /// With the search for near-duplicates only.
    pub(super) signature: Option<Signature>,
}

/// The rows that can be used, and what they show.
pub(super) struct Contents<'a> {
    pub(super) samples: Vec<&'a Sample>,
    /// As many as `samples`; none with [`Content::None`].
    pub(super) images: Option<Vec<Image>>,
    pub(super) inputs_digest: Digest,
    /// Left out by [`OnBadImage::Skip`].
    pub(super) bad: Listing,
}

/// An image that can't be used.
struct Bad {
    /// If the file could be read at all.
    digest: Option<Digest>,
    reason: String,
}

pub(super) fn read<'a>(
    dataset: &'a Dataset,
    options: &impl serde::Serialize,
    progress: &dyn Progress,
) -> Result<Contents<'a>> {
    if dataset.options.content == Content::None {
        return Ok(Contents {
            samples: dataset.samples.iter().collect(),
            images: None,
            inputs_digest: digest_inputs(dataset, options, |_| None),
            bad: Listing::default(),
        });
    }
    let read = in_parallel(dataset, "reading images", progress, |sample| {
        read_image(dataset, sample)
    });
    let inputs_digest = digest_inputs(dataset, options, |row| match &read[row] {
        Ok(image) => Some(image.digest),
        Err(bad) => bad.digest,
    });
    let mut bad = Listing::default();
    let (mut samples, mut images) = (Vec::new(), Vec::new());
    for (sample, read) in dataset.samples.iter().zip(read) {
        match read {
            Ok(image) => {
                samples.push(sample);
                images.push(image);
            }
            Err(Bad { reason, .. }) => bad.push(format!("{}: {reason}", sample.id)),
        }
    }
    if dataset.options.on_bad_image == OnBadImage::Fail && !bad.is_empty() {
        return Err(Error::BadImages {
            root: dataset.root.clone(),
            images: bad,
        });
    }
    Ok(Contents {
        samples,
        images: Some(images),
        inputs_digest,
        bad,
    })
}

/// The digest of everything that the splits of `dataset` depend on, as [`super::SplitManifest::inputs_digest`] records it:
/// the files are read, but not decoded. If it is unchanged, so are the splits.
pub(super) fn inputs_digest(
    dataset: &Dataset,
    options: &impl serde::Serialize,
    progress: &dyn Progress,
) -> Digest {
    if dataset.options.content == Content::None {
        return digest_inputs(dataset, options, |_| None);
    }
    let digests = in_parallel(dataset, "checking images", progress, |sample| {
        Digest::of_file(&dataset.path(sample)).ok()
    });
    digest_inputs(dataset, options, |row| digests[row])
}

fn in_parallel<T: Send>(
    dataset: &Dataset,
    what: &str,
    progress: &dyn Progress,
    read: impl Fn(&Sample) -> T + Sync,
) -> Vec<T> {
    progress.start(what, dataset.samples.len() as u64);
    let one = |sample| {
        let result = read(sample);
        progress.advance(1);
        result
    };
    let results = dataset.samples.par_iter().map(one).collect();
    progress.finish();
    results
}

fn read_image(dataset: &Dataset, sample: &Sample) -> Result<Image, Bad> {
    let limits = Limits {
        max_pixels: dataset.options.max_pixels,
        ..Limits::default()
    };
    let path = dataset.path(sample);
    let unread = |reason: String| Bad {
        digest: None,
        reason,
    };
    let size = fs::metadata(&path)
        .map_err(|error| unread(error.to_string()))?
        .len();
    if size > limits.max_bytes {
        // Too large to hold, not to identify.
        let digest = Digest::of_file(&path).ok();
        let reason = format!(
            "the file has {size} bytes, the limit is {}",
            limits.max_bytes
        );
        return Err(Bad { digest, reason });
    }
    let bytes = fs::read(&path).map_err(|error| unread(error.to_string()))?;
    let digest = Digest::of_bytes(&bytes);
    let image = preprocess::decode(&bytes, limits).map_err(|error| Bad {
        digest: Some(digest),
        reason: error.to_string(),
    })?;
    let signature = dataset.options.near.enabled.then(|| Signature::of(&image));
    Ok(Image { digest, signature })
}

fn digest_inputs(
    dataset: &Dataset,
    options: &impl serde::Serialize,
    content: impl Fn(usize) -> Option<Digest>,
) -> Digest {
    let mut hasher = Hasher::new();
    // The data may be moved: where they are is no part of what they are.
    let mut data = dataset.options.clone();
    data.root = None;
    let mut json = |value: Digest| {
        hasher.field(&value.0);
    };
    json(Digest::of_json(&(
        "stage1 splits",
        super::manifest::VERSION,
    )));
    json(Digest::of_json(&data));
    json(Digest::of_json(options));
    json(Digest::of_json(&dataset.labels));
    for (row, sample) in dataset.samples.iter().enumerate() {
        let given = sample.given.map_or("", crate::data::GivenSplit::name);
        hasher.field(sample.id.as_bytes());
        hasher.field(&(sample.label as u64).to_be_bytes());
        hasher.field(&[u8::from(sample.group.is_some())]);
        hasher.field(sample.group.as_deref().unwrap_or_default().as_bytes());
        hasher.field(given.as_bytes());
        hasher.field(content(row).as_ref().map_or(&[], |digest| &digest.0));
    }
    hasher.finish()
}
