//! Training images, varied: a random part, colours, blur, a policy of random operations, mirrored; then mixed with each
//! other. All of it is a function of the seed and of the image's place in the epoch, whatever thread it runs on.

mod colour;
mod mix;
mod policy;
mod shape;

pub use mix::{Mixed, Mixer};

use crate::{Error, Result, random::SplitMix};
use stage1_core::{
    config::{AugmentConfig, RandomCrop},
    preprocess::{self, PreprocessSpec, Preprocessor, Resize, RgbImage},
};

/// Varies pictures and brings them to the model's input. Keep one per thread (it is `Clone`).
#[derive(Clone)]
pub struct Augmenter {
    config: AugmentConfig,
    /// The whole picture, as in deployment.
    whole: Preprocessor,
    /// A part, to the model's size.
    part: Preprocessor,
}

impl Augmenter {
    /// For models that take what `spec` makes.
    ///
    /// # Errors
    /// [`Error::Preprocess`] for a contradictory `spec`.
    pub fn new(config: &AugmentConfig, spec: &PreprocessSpec) -> Result<Self> {
        let (height, width) = spec.output_size();
        let exact = PreprocessSpec {
            resize: Resize::Exact {
                height: height as u32,
                width: width as u32,
            },
            crop: None,
            ..spec.clone()
        };
        let new =
            |spec: &PreprocessSpec| Preprocessor::new(spec.clone()).map_err(Error::Preprocess);
        Ok(Self {
            config: config.clone(),
            whole: new(spec)?,
            part: new(&exact)?,
        })
    }

    /// The model's input, `[3, H, W]`, of a variation of `image` that `numbers` draws.
    ///
    /// # Errors
    /// As [`Preprocessor::run`].
    pub fn run(
        &mut self,
        image: &RgbImage,
        numbers: &mut SplitMix,
    ) -> Result<Vec<f32>, preprocess::Error> {
        let cut = self
            .config
            .crop
            .as_ref()
            .map(|crop| random_part(image, crop, numbers));
        let mirrored = numbers.chance(self.config.flip);
        let mut values = match (self.changes_colours(), &cut) {
            (false, Some(part)) => self.part.run(part)?,
            (false, None) => self.whole.run(image)?,
            (true, cut) => {
                let mut picture = match cut {
                    Some(part) => self.part.resized_u8(part)?,
                    None => self.whole.resized_u8(image)?,
                };
                self.colours(&mut picture, numbers);
                // Of the model's size already: it is only normalised.
                self.part.run(&picture)?
            }
        };
        if mirrored {
            let (_, width) = self.part.spec().output_size();
            values.chunks_exact_mut(width).for_each(<[f32]>::reverse);
        }
        Ok(values)
    }

    /// Whether anything works on whole grey levels.
    fn changes_colours(&self) -> bool {
        let config = &self.config;
        let probabilities = [
            config.colour.probability,
            config.grey,
            config.blur.probability,
            config.solarise.probability,
        ];
        config.policy.operations > 0 || probabilities.iter().any(|&p| p > 0.0)
    }

    fn colours(&self, picture: &mut RgbImage, numbers: &mut SplitMix) {
        let config = &self.config;
        policy::apply(picture, &config.policy, numbers);
        if numbers.chance(config.colour.probability) {
            colour::jitter(picture, &config.colour, numbers);
        }
        if numbers.chance(config.grey) {
            colour::saturate(picture, 0.0);
        }
        if numbers.chance(config.blur.probability) {
            let [low, high] = config.blur.sigma;
            shape::blur(picture, numbers.between(low, high));
        }
        if numbers.chance(config.solarise.probability) {
            colour::solarise(picture, config.solarise.threshold);
        }
    }
}

/// A part of random area and aspect ratio, as torchvision's `RandomResizedCrop` draws it: ten attempts, then the largest
/// part in the middle whose ratio is allowed.
fn random_part(image: &RgbImage, crop: &RandomCrop, numbers: &mut SplitMix) -> RgbImage {
    let (width, height) = image.dimensions();
    let area = f64::from(width) * f64::from(height);
    for _ in 0..10 {
        let part = area * numbers.between(crop.area[0], crop.area[1]);
        let ratio = numbers
            .between(crop.ratio[0].ln(), crop.ratio[1].ln())
            .exp();
        let w = (part * ratio).sqrt().round() as u32;
        let h = (part / ratio).sqrt().round() as u32;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let x = numbers.below((width - w) as usize + 1) as u32;
            let y = numbers.below((height - h) as usize + 1) as u32;
            return shape::cut(image, (x, y), (w, h));
        }
    }
    let ratio = f64::from(width) / f64::from(height);
    let (w, h) = if ratio < crop.ratio[0] {
        (width, (f64::from(width) / crop.ratio[0]).round() as u32)
    } else if ratio > crop.ratio[1] {
        ((f64::from(height) * crop.ratio[1]).round() as u32, height)
    } else {
        (width, height)
    };
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    shape::cut(image, ((width - w) / 2, (height - h) / 2), (w, h))
}

#[cfg(test)]
mod tests;
