//! Fills the cache: threads decode the next images while libtorch computes the features of the last.

use super::{FeatureCache, Image, ImageReader};
use crate::{
    Error, Result,
    backbone::{Backbone, Places},
    events::Events,
    head::values,
};
use stage1_core::{artifact::Digest, data::Listing};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};
use tch::{Kind, Tensor, no_grad};

/// Images of a shard, rounded to whole batches.
const SHARD: usize = 512;
/// Decoded batches that may wait for libtorch: they bound the memory.
const WAITING: usize = 2;

/// What is needed to compute features.
pub struct Extractor<'a> {
    /// The frozen backbone.
    pub backbone: &'a Backbone,
    /// The places of the patches in images of the reader's size.
    pub places: &'a Places,
    /// Where its weights come from, for messages.
    pub backbone_path: PathBuf,
    /// From files to pixels.
    pub reader: &'a ImageReader,
    /// Images per forward pass.
    pub batch_size: usize,
    /// Whether an image that can't be decoded is left out, with a warning, instead of ending the run.
    pub skip_bad: bool,
    /// Who is told.
    pub events: &'a dyn Events,
}

/// Where the features go that a backbone of so many blocks computes.
pub struct Target<'a> {
    /// The number of blocks.
    pub depth: usize,
    /// The cache of that backbone.
    pub cache: &'a mut FeatureCache,
}

/// What a [`Extractor::fill`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Images whose features were computed; the others were in the cache.
    pub computed: usize,
    /// Images that can't be decoded.
    pub bad: BTreeSet<Digest>,
}

/// Images of one forward pass, as far as they could be read.
#[derive(Default)]
struct Batch {
    images: Vec<Image>,
    pixels: Vec<f32>,
    failures: Vec<(Image, Error)>,
}

impl Extractor<'_> {
    /// Computes the features of those of `images` that `cache` lacks.
    ///
    /// The missing ones are taken in order, in shards of whole batches: a run that was killed and continues forms the same
    /// batches as one that wasn't, and so gets the same bits.
    ///
    /// # Errors
    /// The first image that can't be used, unless bad ones are to be skipped; or the cache's.
    pub fn fill(&self, cache: &mut FeatureCache, images: &[Image]) -> Result<Found> {
        let depth = self.backbone.depth();
        self.fill_depths(&mut [Target { depth, cache }], images)
    }

    /// As [`Extractor::fill`], of several depths in one pass: an image that one of the caches lacks is computed for all of
    /// them. In memory there is a shard for each depth.
    ///
    /// # Errors
    /// As [`Extractor::fill`].
    pub fn fill_depths(&self, targets: &mut [Target<'_>], images: &[Image]) -> Result<Found> {
        let missing = missing(targets, images);
        let mut found = Found {
            computed: 0,
            bad: BTreeSet::new(),
        };
        if missing.is_empty() {
            return Ok(found);
        }
        self.events.start("features", missing.len() as u64);
        thread::scope(|scope| {
            let (sender, receiver) = sync_channel(WAITING);
            // Not `self`: libtorch's tensors stay in this thread.
            let (reader, batch_size, missing) = (self.reader, self.batch_size, &missing);
            scope.spawn(move || decode(reader, missing, batch_size, &sender));
            self.compute(targets, &receiver, &mut found)
        })?;
        self.events.finish();
        Ok(found)
    }

    /// `pixel_values` `[n, 3, H, W]` of images.
    ///
    /// # Errors
    /// The first image that can't be used.
    pub fn pixel_values(&self, images: &[Image]) -> Result<Tensor> {
        let rows = self
            .reader
            .read(images)
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        Ok(self.tensor(&rows.concat()))
    }

    fn tensor(&self, pixels: &[f32]) -> Tensor {
        let (height, width) = self.reader.size();
        let flat = Tensor::from_slice(pixels);
        flat.reshape([-1, 3, height as i64, width as i64])
            .to_device(self.backbone.device())
    }

    fn compute(
        &self,
        targets: &mut [Target<'_>],
        batches: &Receiver<Batch>,
        found: &mut Found,
    ) -> Result<()> {
        let batches_per_shard = (SHARD / self.batch_size).max(1);
        let depths: Vec<_> = targets.iter().map(|target| target.depth).collect();
        let (mut shard, mut left_out) = (Shard::new(depths), Listing::default());
        for (n, batch) in batches.iter().enumerate() {
            let done = batch.images.len() + batch.failures.len();
            found.computed += batch.images.len();
            self.note_failures(batch.failures, found, &mut left_out)?;
            self.forward(&batch.images, &batch.pixels, &mut shard)?;
            if (n + 1) % batches_per_shard == 0 {
                shard.store(targets)?;
            }
            self.events.advance(done as u64);
        }
        if let Some(images) = left_out.non_empty() {
            self.events.warning(&format!(
                "{} image(s) can't be decoded and were left out of the training: {images}",
                images.count
            ));
        }
        shard.store(targets)
    }

    fn note_failures(
        &self,
        failures: Vec<(Image, Error)>,
        found: &mut Found,
        left_out: &mut Listing,
    ) -> Result<()> {
        for (image, error) in failures {
            if !(self.skip_bad && error.is_bad_image()) {
                return Err(error);
            }
            found.bad.insert(image.digest);
            left_out.push(error.fault());
        }
        Ok(())
    }

    fn forward(&self, images: &[Image], pixels: &[f32], shard: &mut Shard) -> Result<()> {
        if images.is_empty() {
            return Ok(());
        }
        let pixels = self.tensor(pixels);
        let all = no_grad(|| {
            self.backbone
                .features_at(&pixels, self.places, &shard.depths)
        });
        for (features, rows) in all.iter().zip(&mut shard.rows) {
            let sums =
                (&features.class + &features.patch_mean).sum_dim_intlist(1, false, Kind::Float);
            if let Some(row) = values(&sums).iter().position(|sum| !sum.is_finite()) {
                return Err(Error::NonFiniteFeatures {
                    path: images[row].path.clone(),
                    backbone: self.backbone_path.clone(),
                });
            }
            rows.class.extend(values(&features.class));
            rows.patch_mean.extend(values(&features.patch_mean));
        }
        shard.images.extend(images.iter().map(|image| image.digest));
        Ok(())
    }
}

/// Sends the images as batches, until all are sent or the receiver is gone because it has met an error.
fn decode(reader: &ImageReader, images: &[Image], batch_size: usize, batches: &SyncSender<Batch>) {
    for images in images.chunks(batch_size) {
        if batches.send(Batch::read(reader, images)).is_err() {
            return;
        }
    }
}

impl Batch {
    fn read(reader: &ImageReader, images: &[Image]) -> Self {
        let mut batch = Self::default();
        for (image, read) in images.iter().zip(reader.read(images)) {
            match read {
                Ok(pixels) => {
                    batch.pixels.extend(pixels);
                    batch.images.push(image.clone());
                }
                Err(error) => batch.failures.push((image.clone(), error)),
            }
        }
        batch
    }
}

/// Features that wait for their shard to be full.
struct Shard {
    images: Vec<Digest>,
    depths: Vec<usize>,
    /// Of each depth.
    rows: Vec<Rows>,
}

/// Features of one depth.
#[derive(Default)]
struct Rows {
    class: Vec<f32>,
    patch_mean: Vec<f32>,
}

impl Shard {
    fn new(depths: Vec<usize>) -> Self {
        Self {
            images: Vec::new(),
            rows: depths.iter().map(|_| Rows::default()).collect(),
            depths,
        }
    }

    fn store(&mut self, targets: &mut [Target<'_>]) -> Result<()> {
        let images = std::mem::take(&mut self.images);
        if images.is_empty() {
            return Ok(());
        }
        for (rows, target) in self.rows.iter_mut().zip(targets) {
            let rows = std::mem::take(rows);
            if images.iter().any(|image| !target.cache.contains(*image)) {
                target.cache.store(&images, rows.class, rows.patch_mean)?;
            }
        }
        Ok(())
    }
}

/// What one of the caches lacks, each content once, in the order of `images`.
fn missing(targets: &[Target<'_>], images: &[Image]) -> Vec<Image> {
    let mut seen = BTreeSet::new();
    let lacks = |image: &&Image| {
        let lacking = |target: &Target<'_>| !target.cache.contains(image.digest);
        targets.iter().any(lacking) && seen.insert(image.digest)
    };
    images.iter().filter(lacks).cloned().collect()
}
