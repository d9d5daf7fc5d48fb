//! mixup and CutMix: pairs of a batch's images share their pixels and their labels.

use crate::random::Draw;
use stage1_core::config::AugmentConfig;

/// Mixes the images of batches.
pub struct Mixer {
    mixup: f64,
    cutmix: f64,
    seed: u64,
    /// Height and width.
    size: (usize, usize),
    classes: usize,
}

/// A batch, mixed.
pub struct Mixed {
    /// `[n, 3, H, W]`.
    pub pixels: Vec<f32>,
    /// Shares of the classes, `[n, K]`.
    pub shares: Vec<f32>,
}

/// What images take over from their partners.
enum Recipe {
    /// All pixels, with this weight.
    Blend(f32),
    /// The pixels of a rectangle: rows and columns.
    Paste([usize; 2], [usize; 2]),
}

impl Mixer {
    /// None where nothing is to be mixed.
    pub fn new(
        config: &AugmentConfig,
        seed: u64,
        size: (usize, usize),
        classes: usize,
    ) -> Option<Self> {
        (config.mixup > 0.0 || config.cutmix > 0.0).then_some(Self {
            mixup: config.mixup,
            cutmix: config.cutmix,
            seed,
            size,
            classes,
        })
    }

    /// Each image with a partner of the same batch; a function of the seed and of the step.
    pub fn mix(&self, epoch: usize, step: usize, pixels: &[f32], labels: &[usize]) -> Mixed {
        let mut numbers = Draw::Mix { epoch, step }.numbers(self.seed);
        let mut partners: Vec<usize> = (0..labels.len()).collect();
        numbers.shuffle(&mut partners);
        let blends = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (true, true) => numbers.chance(0.5),
            (mixup, _) => mixup,
        };
        let (recipe, taken) = if blends {
            let taken = 1.0 - numbers.beta(self.mixup);
            (Recipe::Blend(taken as f32), taken)
        } else {
            let side = (1.0 - numbers.beta(self.cutmix)).sqrt();
            let (height, width) = self.size;
            // A rectangle around a random centre, as far as it lies inside.
            let mut range = |n: usize| {
                let half = side * n as f64 / 2.0;
                let centre = numbers.between(0.0, n as f64);
                let end = |at: f64| at.round().clamp(0.0, n as f64) as usize;
                [end(centre - half), end(centre + half)]
            };
            let (rows, columns) = (range(height), range(width));
            let area = (rows[1] - rows[0]) * (columns[1] - columns[0]);
            let taken = area as f64 / (height * width) as f64;
            (Recipe::Paste(rows, columns), taken)
        };
        let image = pixels.len() / labels.len().max(1);
        let mut mixed = Mixed {
            pixels: pixels.to_vec(),
            shares: vec![0.0; labels.len() * self.classes],
        };
        for (i, &partner) in partners.iter().enumerate() {
            let other = &pixels[partner * image..][..image];
            self.take(&recipe, &mut mixed.pixels[i * image..][..image], other);
            let shares = &mut mixed.shares[i * self.classes..][..self.classes];
            shares[labels[i]] += (1.0 - taken) as f32;
            shares[labels[partner]] += taken as f32;
        }
        mixed
    }

    fn take(&self, recipe: &Recipe, image: &mut [f32], other: &[f32]) {
        match recipe {
            Recipe::Blend(taken) => {
                let pairs = image.iter_mut().zip(other);
                pairs.for_each(|(pixel, other)| *pixel += taken * (other - *pixel));
            }
            Recipe::Paste(rows, [left, right]) => {
                let (height, width) = self.size;
                for row in
                    (0..3).flat_map(|plane| (rows[0]..rows[1]).map(move |y| plane * height + y))
                {
                    let part = row * width + left..row * width + right;
                    image[part.clone()].copy_from_slice(&other[part]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four images of one level each: their label.
    fn mixed(config: &AugmentConfig, step: usize) -> Mixed {
        let labels = [0, 1, 2, 3];
        let pixels: Vec<f32> = labels
            .iter()
            .flat_map(|&l| vec![l as f32; 3 * 8 * 10])
            .collect();
        let mixer = Mixer::new(config, 4, (8, 10), 4).unwrap();
        mixer.mix(1, step, &pixels, &labels)
    }

    #[test]
    fn labels_are_shared_as_pixels_are() {
        let mixup = AugmentConfig {
            mixup: 0.8,
            ..AugmentConfig::default()
        };
        let cutmix = AugmentConfig {
            cutmix: 1.0,
            ..AugmentConfig::default()
        };
        let both = AugmentConfig {
            cutmix: 1.0,
            ..mixup.clone()
        };
        for (name, config) in [("mixup", mixup), ("cutmix", cutmix), ("both", both)] {
            let mut moved = 0;
            for step in 0..20 {
                let mixed = mixed(&config, step);
                for (pixels, shares) in mixed.pixels.chunks(240).zip(mixed.shares.chunks(4)) {
                    let mean = pixels.iter().sum::<f32>() / 240.0;
                    let want: f32 = shares.iter().zip(0..4).map(|(s, l)| s * l as f32).sum();
                    assert!((mean - want).abs() < 1e-4, "{name}: {mean} for {shares:?}");
                    assert!((shares.iter().sum::<f32>() - 1.0).abs() < 1e-6);
                    moved += usize::from(shares.iter().all(|&s| s < 0.999));
                }
            }
            assert!(moved > 10, "{name}: {moved}");
        }
        assert!(Mixer::new(&AugmentConfig::default(), 4, (8, 8), 4).is_none());
    }
}
