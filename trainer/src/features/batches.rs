//! Batches of decoded images ahead of their use: a thread keeps the cores at it while libtorch computes.

use super::{Image, ImageReader};
use crate::{Result, augment::Augmenter};
use std::{
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

/// Decoded batches that may wait: they bound the memory.
const WAITING: usize = 2;

/// Images of one split, read in batches.
#[derive(Clone)]
pub struct Batches {
    /// From files to pixels.
    pub reader: Arc<ImageReader>,
    /// The images.
    pub images: Arc<Vec<Image>>,
    /// How they are varied, and by which seed; none: as in deployment.
    pub varied: Option<(Augmenter, u64)>,
}

/// The rows of a batch, and the place of the first in the epoch's order.
pub struct Wanted {
    /// Images, by number.
    pub rows: Vec<i64>,
    /// A place, from 0.
    pub first: usize,
}

impl Batches {
    /// Reads the batches of an epoch (from 1) one after the other; each comes as its images' pixels, `[n, 3, H, W]`, or the
    /// first error. Reading stops when the receiver is dropped.
    pub fn start(&self, epoch: usize, wanted: Vec<Wanted>) -> Receiver<Result<Vec<f32>>> {
        let (sender, receiver) = sync_channel(WAITING);
        let this = self.clone();
        thread::spawn(move || {
            for batch in wanted {
                if sender.send(this.read(epoch, &batch)).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    fn read(&self, epoch: usize, wanted: &Wanted) -> Result<Vec<f32>> {
        let row = |&row: &i64| self.images[usize::try_from(row).expect("a row's number")].clone();
        let images: Vec<_> = wanted.rows.iter().map(row).collect();
        let read = match &self.varied {
            Some((augmenter, seed)) => {
                self.reader
                    .read_varied(&images, augmenter, *seed, epoch, wanted.first)
            }
            None => self.reader.read(&images),
        };
        Ok(read.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stage1_core::{
        artifact::Digest,
        config::{AugmentConfig, AugmentPolicy, RandomCrop},
        preprocess::{Limits, PreprocessSpec},
    };

    #[test]
    fn pixels_do_not_depend_on_the_number_of_threads() {
        let dir = tempfile::tempdir().unwrap();
        let image = |n: u32| {
            let path = dir.path().join(format!("{n}.png"));
            image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * n) as u8, y as u8, n as u8]))
                .save(&path)
                .unwrap();
            let digest = Digest::of_file(&path).unwrap();
            Image { path, digest }
        };
        let spec = PreprocessSpec::dinov3(16, 16);
        let config = AugmentConfig {
            crop: Some(RandomCrop::default()),
            flip: 0.5,
            policy: AugmentPolicy {
                operations: 2,
                magnitude: 9.0,
            },
            ..AugmentConfig::default()
        };
        let batches = Batches {
            reader: Arc::new(ImageReader::new(&spec, Limits::default()).unwrap()),
            images: Arc::new((0..20).map(image).collect()),
            varied: Some((Augmenter::new(&config, &spec).unwrap(), 3)),
        };
        let wanted = Wanted {
            rows: (0..20).rev().collect(),
            first: 40,
        };
        let read = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| batches.read(2, &wanted).unwrap())
        };
        let one = read(1);
        assert_eq!(one.len(), 20 * 3 * 16 * 16);
        for threads in [2, 5] {
            assert_eq!(read(threads), one, "{threads} threads");
        }
        // The same image at another place is another variation.
        let again = Wanted {
            rows: (0..20).rev().collect(),
            first: 41,
        };
        assert_ne!(batches.read(2, &again).unwrap(), one);
    }
}
