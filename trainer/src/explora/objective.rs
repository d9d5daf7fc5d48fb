//! The gradient of a batch: the student, who sees all parts and not the hidden patches, learns to answer as the teacher, who
//! sees the large parts whole.

use super::{
    guard::{BATCH_ENTROPY, FEATURE_DEVIATION, SAMPLE_ENTROPY},
    layout::{Layout, Network},
    loss,
    mask::{Grid, Masks},
    views::Crops,
};
use crate::{
    backbone::{Backbone, Masked, Pass, Places},
    random::Draw,
};
use stage1_core::{
    config::{ExploraConfig, Precision},
    model::{self, Role, Weights},
};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor, no_grad};

/// What is trained, and on what.
pub(crate) struct Objective<'a> {
    config: &'a ExploraConfig,
    precision: Precision,
    seed: u64,
    layout: &'a Layout,
    frozen: BTreeMap<Role, Tensor>,
    size: (usize, usize),
    local_size: (usize, usize),
    grid: Grid,
    prefix: i64,
    global: Places,
    local: Places,
    device: Device,
}

/// Where a batch is, and what depends on that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// From 1.
    pub(crate) epoch: usize,
    /// The teacher's temperature.
    pub(crate) temperature: f64,
}

/// What a batch says.
pub(crate) struct Lesson {
    /// The gradient of the loss.
    pub(crate) gradient: Tensor,
    /// Losses and measures by name, `loss` among them.
    pub(crate) measures: BTreeMap<String, f64>,
}

/// A large part's tokens after the final norm.
pub(super) struct Tokens {
    /// `[n, D]`.
    pub(super) class: Tensor,
    /// `[n · HW, D]`.
    pub(super) patches: Tensor,
}

impl<'a> Objective<'a> {
    /// For a model of this size, from `weights`.
    ///
    /// # Errors
    /// [`model::ModelError::ImageSize`] when a size is no whole number of patches.
    pub(crate) fn new(
        config: &'a ExploraConfig,
        precision: Precision,
        seed: u64,
        layout: &'a Layout,
        weights: &Weights,
        size: (usize, usize),
        device: Device,
    ) -> model::Result<Self> {
        let spec = weights.spec();
        let local_size = config.local_size(size, spec.patch());
        let (rows, columns) = spec.grid(size.0, size.1)?;
        Ok(Self {
            frozen: Backbone::tensors_of(weights, device),
            global: Places::new(weights, size, device)?,
            local: Places::new(weights, local_size, device)?,
            grid: Grid { rows, columns },
            prefix: spec.prefix_tokens() as i64,
            config,
            precision,
            seed,
            layout,
            size,
            local_size,
            device,
        })
    }

    /// The network of some parameters, ready for passes in the configured precision.
    pub(super) fn network(&self, flat: &Tensor) -> Network {
        let mut network = self.layout.network(flat, &self.frozen);
        if self.precision == Precision::Bf16 {
            network.keep_half();
        }
        network
    }

    /// The loss of one pass over `crops`, its gradient with respect to the student's parameters, and what is measured. The
    /// teacher's parameters have no part in the graph.
    pub(crate) fn learn(
        &self,
        student: &Tensor,
        teacher: &Tensor,
        crops: &Crops,
        at: Moment,
    ) -> Lesson {
        let images = crops.images;
        let global = self.tensor(&crops.global, self.size);
        let mut numbers = Draw::Mask {
            epoch: at.epoch,
            place: crops.place,
        }
        .numbers(self.seed);
        let masks = Masks::draw(&self.config.mask, self.grid, 2 * images, &mut numbers);
        let (places, weights) = masks.places();
        let hidden = Tensor::from_slice(&masks.hidden.concat()).reshape([2 * images as i64, -1]);
        let hidden = hidden.to_device(self.device);
        let places = Tensor::from_slice(&places).to_device(self.device);
        let weights = Tensor::from_slice(&weights).to_device(self.device);

        let answers = self.teach(teacher, &global, &places, at.temperature);
        let network = self.network(student);
        let temperature = self.config.student_temperature;
        let seen = self.look(&network, &global, Some(&hidden));
        let mut parts = network.of_class(&seen.class).chunk(2, 0);
        if !crops.local.is_empty() {
            let local = self.tensor(&crops.local, self.local_size);
            let tokens = self.tokens(&network, &local, &self.local, None);
            let cosines = network.of_class(&tokens.select(1, 0));
            parts.extend(cosines.split(images as i64, 0));
        }
        let dino = loss::dino(&parts, &answers.class, temperature);
        let ibot = match &answers.patches {
            Some(targets) => {
                let tokens = seen.patches.index_select(0, &places);
                let cosines = network.of_patches(&tokens);
                loss::ibot(&cosines, targets, &weights, 2 * images, temperature)
            }
            None => dino.zeros_like(),
        };
        // Of each large part by itself: two parts of one picture are not to be driven apart.
        let large = seen.class.chunk(2, 0);
        let koleo = loss::koleo(&large[0]) + loss::koleo(&large[1]);
        let counts = &self.config.loss;
        let total = &dino * counts.dino + &ibot * counts.ibot + &koleo * counts.koleo;
        let gradient = Tensor::run_backward(&[&total], &[student], false, false).remove(0);
        let number = |tensor: &Tensor| tensor.double_value(&[]);
        let mut measures = answers.measures;
        measures.extend([
            ("loss", number(&total)),
            ("dino", number(&dino)),
            ("ibot", number(&ibot)),
            ("koleo", number(&koleo) / 2.0),
            ("divergence", number(&dino) - answers.entropy),
        ]);
        let named = measures.into_iter();
        Lesson {
            gradient,
            measures: named
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }

    /// What the teacher says of the large parts, and how far it is from having collapsed.
    pub(super) fn teach(
        &self,
        teacher: &Tensor,
        global: &Tensor,
        places: &Tensor,
        temperature: f64,
    ) -> Answers {
        no_grad(|| {
            let network = self.network(&teacher.detach());
            let seen = self.look(&network, global, None);
            let cosines = network.of_class(&seen.class);
            let rounds = self.config.sinkhorn_iterations;
            let targets = loss::sinkhorn_knopp(&cosines, temperature, rounds);
            let patches = (places.numel() > 0).then(|| {
                let tokens = seen.patches.index_select(0, places);
                loss::sinkhorn_knopp(&network.of_patches(&tokens), temperature, rounds)
            });
            let largest = (cosines.size()[1] as f64).ln();
            let entropy = loss::entropy(&targets).mean(Kind::Double).double_value(&[]);
            // Without centring, which would hide that all go to one prototype.
            let plain = loss::sinkhorn_knopp(&cosines, temperature, 0);
            let mean = plain.mean_dim(0, true, Kind::Float);
            let of_mean = loss::entropy(&mean).double_value(&[0]);
            let mut class = targets.chunk(2, 0).into_iter();
            let mut next = || class.next().expect("two large parts");
            Answers {
                class: [next(), next()],
                patches,
                entropy,
                measures: BTreeMap::from([
                    (BATCH_ENTROPY, of_mean / largest),
                    (SAMPLE_ENTROPY, entropy / largest),
                    (FEATURE_DEVIATION, loss::deviation(&seen.class)),
                ]),
            }
        })
    }

    pub(super) fn look(
        &self,
        network: &Network,
        pixels: &Tensor,
        hidden: Option<&Tensor>,
    ) -> Tokens {
        let tokens = self.tokens(network, pixels, &self.global, hidden);
        Tokens {
            class: tokens.select(1, 0),
            patches: tokens.slice(1, self.prefix, None, 1).flatten(0, 1),
        }
    }

    /// All tokens after the final norm, `[n, T, D]`.
    pub(super) fn tokens(
        &self,
        network: &Network,
        pixels: &Tensor,
        places: &Places,
        hidden: Option<&Tensor>,
    ) -> Tensor {
        let vit = network
            .backbone
            .vit()
            .expect("a layout is of a transformer");
        let masked = hidden.map(|patches| Masked {
            patches,
            token: &network.mask_token,
        });
        let mut tokens = vit.embed_masked(pixels, places, masked);
        for (block, changes) in network.changes.iter().enumerate() {
            let pass = Pass {
                changes: Some(changes),
                precision: self.precision,
                dropout: 0.0,
            };
            tokens = vit.block(block, &tokens, places, pass);
        }
        vit.finish(&tokens)
    }

    pub(super) fn tensor(&self, pixels: &[f32], (height, width): (usize, usize)) -> Tensor {
        Tensor::from_slice(pixels)
            .reshape([-1, 3, height as i64, width as i64])
            .to_device(self.device)
    }
}

/// What the teacher says of a batch.
pub(super) struct Answers {
    /// Of each large part, `[n, K]`.
    pub(super) class: [Tensor; 2],
    /// Of the hidden patches, if any.
    pub(super) patches: Option<Tensor>,
    /// The mean entropy of the targets in nats.
    entropy: f64,
    measures: BTreeMap<&'static str, f64>,
}
