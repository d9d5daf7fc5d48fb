//! The parts of pictures that student and teacher see: two large ones and some small ones, each cut and varied on its own.

use crate::{
    Error, Result,
    augment::Augmenter,
    features::{Image, ImageReader, Wanted},
    random::Draw,
};
use rayon::prelude::*;
use stage1_core::{
    config::{AugmentConfig, Blur, ExploraConfig, RandomCrop, Solarise},
    preprocess::{PreprocessSpec, Resize},
};
use std::{
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

/// Batches that may wait: they bound the memory.
const WAITING: usize = 2;

/// The parts of a batch's pictures.
pub(crate) struct Crops {
    /// How many pictures.
    pub(crate) images: usize,
    /// The place of the first one in the epoch's order.
    pub(crate) place: usize,
    /// Pixels of the first large part of each, then of the second of each: `[2n, 3, H, W]`.
    pub(crate) global: Vec<f32>,
    /// Pixels of the first small part of each, then of the second, …: `[count · n, 3, h, w]`.
    pub(crate) local: Vec<f32>,
}

/// How pictures become parts.
#[derive(Clone)]
pub(crate) struct Views {
    reader: Arc<ImageReader>,
    images: Arc<Vec<Image>>,
    seed: u64,
    /// Large parts first.
    augmenters: Vec<Augmenter>,
}

impl Views {
    /// Of `images`, for a model that takes what `spec` makes; small parts are of the size `local`.
    ///
    /// # Errors
    /// [`Error::Preprocess`].
    pub(crate) fn new(
        reader: Arc<ImageReader>,
        images: Vec<Image>,
        spec: &PreprocessSpec,
        local: (usize, usize),
        config: &ExploraConfig,
        seed: u64,
    ) -> Result<Self> {
        let (small, views) = (&config.local_crops, &config.views);
        let look = |area: [f64; 2], blur: f64, solarise: f64| AugmentConfig {
            crop: Some(RandomCrop {
                area,
                ..RandomCrop::default()
            }),
            flip: views.flip,
            colour: views.colour.clone(),
            grey: views.grey,
            blur: Blur {
                probability: blur,
                ..Blur::default()
            },
            solarise: Solarise {
                probability: solarise,
                ..Solarise::default()
            },
            ..AugmentConfig::default()
        };
        let large = config.global_crops.area;
        let [first, second, others] = views.blur;
        let (height, width) = local;
        let local = PreprocessSpec {
            resize: Resize::Exact {
                height: height as u32,
                width: width as u32,
            },
            crop: None,
            ..spec.clone()
        };
        let mut augmenters = vec![
            Augmenter::new(&look(large, first, 0.0), spec)?,
            Augmenter::new(&look(large, second, views.solarise), spec)?,
        ];
        let one = Augmenter::new(&look(small.area, others, 0.0), &local)?;
        augmenters.extend(std::iter::repeat_n(one, small.count));
        Ok(Self {
            reader,
            images: Arc::new(images),
            seed,
            augmenters,
        })
    }

    /// Reads the batches of an epoch (from 1) one after the other. Reading stops when the receiver is dropped.
    pub(crate) fn start(&self, epoch: usize, wanted: Vec<Wanted>) -> Receiver<Result<Crops>> {
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

    fn read(&self, epoch: usize, wanted: &Wanted) -> Result<Crops> {
        let one_per_thread = || self.augmenters.clone();
        let read = |augmenters: &mut Vec<Augmenter>, (i, row): (usize, &i64)| {
            let image = &self.images[usize::try_from(*row).expect("a row's number")];
            let picture = self.reader.decode(image)?;
            let place = wanted.first + i;
            let part = |(view, augmenter): (usize, &mut Augmenter)| {
                let mut numbers = Draw::View { epoch, place, view }.numbers(self.seed);
                let values = augmenter.run(&picture, &mut numbers);
                values.map_err(|source| Error::PreprocessImage {
                    path: image.path.clone(),
                    source,
                })
            };
            augmenters.iter_mut().enumerate().map(part).collect()
        };
        let rows = wanted.rows.par_iter().enumerate();
        let read: Vec<Result<Vec<Vec<f32>>>> = rows.map_init(one_per_thread, read).collect();
        // In order, so that of several faults the same one is reported each time.
        let pictures = read.into_iter().collect::<Result<Vec<_>>>()?;
        let of_view = |view: usize| pictures.iter().flat_map(move |parts| &parts[view]).copied();
        Ok(Crops {
            images: pictures.len(),
            place: wanted.first,
            global: (0..2).flat_map(of_view).collect(),
            local: (2..self.augmenters.len()).flat_map(of_view).collect(),
        })
    }
}
