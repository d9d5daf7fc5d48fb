//! The gradient of a batch through the adapted blocks.

use super::Adapters;
use crate::{
    Rates, Result,
    augment::Mixer,
    backbone::{Backbone, BlockChanges, Pass, Places, Vit},
    events::Metrics,
    features::{Batches, Wanted},
    fit::{Gradient, Objective, Step},
    head::{Head, Mode, Standardisation},
    loss::{Loss, Targets},
    random::Draw,
    selection,
};
use stage1_core::{
    config::{Config, Precision, TrainConfig},
    model::HeadSpec,
};
use std::{collections::BTreeMap, sync::mpsc::Receiver};
use tch::{Device, Tensor, no_grad};

/// What a training through the backbone is made of.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) backbone: &'a Backbone,
    pub(crate) places: &'a Places,
    pub(crate) adapters: &'a Adapters,
    pub(crate) head: &'a Head,
    /// What the head reads.
    pub(crate) spec: HeadSpec,
    /// Of the frozen backbone's features: it keeps the head's inputs at a scale that trains well.
    pub(crate) standard: &'a Standardisation,
    pub(crate) size: (usize, usize),
    pub(crate) train: Batches,
    pub(crate) train_labels: &'a [usize],
    pub(crate) select: Batches,
    pub(crate) select_labels: &'a [usize],
    /// Adapters', then the head's for standardised features.
    pub(crate) start: Tensor,
}

/// Adapters and a head, trained through the backbone. Its parameters are the adapters', then the head's.
pub(crate) struct Adapting<'a> {
    parts: Parts<'a>,
    vit: &'a Vit,
    loss: Loss,
    mixer: Option<Mixer>,
    incoming: Option<Receiver<Result<Vec<f32>>>>,
}

/// One part of a batch, forward and back.
struct Portion<'a> {
    pixels: &'a Tensor,
    targets: &'a Targets,
    /// The weight of the whole batch.
    weight: f64,
    epoch: usize,
    step: usize,
    part: usize,
}

impl<'a> Adapting<'a> {
    /// # Panics
    /// When the backbone isn't a transformer: [`Adapters::choose`] refuses that.
    pub(crate) fn new(parts: Parts<'a>) -> Self {
        let config = parts.config;
        let classes = parts.head.classes();
        Self {
            vit: parts.backbone.vit().expect("adapters are for transformers"),
            loss: Loss::new(
                &config.train,
                parts.train_labels,
                classes,
                parts.backbone.device(),
            ),
            mixer: Mixer::new(&config.augment, config.seed, parts.size, classes),
            parts,
            incoming: None,
        }
    }

    fn split(&self, parameters: &Tensor) -> (Tensor, Tensor) {
        let adapters = self.parts.adapters.parameter_count() as i64;
        let mut parts =
            parameters.split_with_sizes([adapters, parameters.numel() as i64 - adapters], 0);
        let head = parts.pop().expect("two parts");
        (parts.remove(0), head)
    }

    fn device(&self) -> Device {
        self.parts.backbone.device()
    }

    fn tensor(&self, pixels: &[f32]) -> Tensor {
        let (height, width) = self.parts.size;
        let flat = Tensor::from_slice(pixels);
        flat.reshape([-1, 3, height as i64, width as i64])
            .to_device(self.device())
    }

    /// Whether the head reads the tokens after so many blocks.
    fn reads(&self, depth: usize) -> bool {
        self.parts.spec.blocks.of(self.vit.depth()).contains(&depth)
    }

    /// Tokens before the first adapted block, without a graph, and those below that the head reads.
    fn frozen(&self, pixels: &Tensor, precision: Precision) -> (Vec<Tensor>, Tensor) {
        let pass = Pass {
            changes: None,
            precision,
            dropout: 0.0,
        };
        no_grad(|| {
            let mut tokens = self.vit.embed(pixels, self.parts.places);
            let mut read = Vec::new();
            for block in 0..self.parts.adapters.first_block() {
                tokens = self.vit.block(block, &tokens, self.parts.places, pass);
                if self.reads(block + 1) {
                    read.push(tokens.shallow_clone());
                }
            }
            (read, tokens)
        })
    }

    /// Logits of tokens after each block that the head reads.
    fn logits(&self, read: &[Tensor], head: &Tensor, mode: Mode) -> Tensor {
        let features = read.iter().map(|tokens| {
            let pooled = self.parts.backbone.pool(&self.vit.finish(tokens));
            pooled.select(self.parts.spec.features)
        });
        let features = Tensor::cat(&features.collect::<Vec<_>>(), 1);
        let features = self.parts.standard.apply(&features);
        self.parts.head.logits(head, &features, mode)
    }

    /// One block in training, whose draws are its own, so that it can be run again.
    fn block(
        &self,
        index: usize,
        tokens: &Tensor,
        changes: &BlockChanges,
        at: &Portion<'_>,
    ) -> Tensor {
        let dropout = self.parts.config.peft.lora_dropout;
        if dropout > 0.0 {
            let draw = Draw::Block {
                epoch: at.epoch,
                step: at.step,
                part: at.part,
                block: index,
            };
            draw.seed_libtorch(self.parts.config.seed);
        }
        let pass = Pass {
            changes: Some(changes),
            precision: self.parts.config.train.precision,
            dropout,
        };
        self.vit.block(index, tokens, self.parts.places, pass)
    }

    /// The share of the batch's loss that a portion adds: a scalar with a graph from the tokens on that are `read`.
    fn loss(&self, read: &[Tensor], head: &Tensor, at: &Portion<'_>) -> Tensor {
        let (epoch, step) = (at.epoch, at.step);
        // Another draw for each portion: they would drop the same units.
        let draw = match at.part {
            0 => Draw::Step { epoch, step },
            part => Draw::Block {
                epoch,
                step,
                part,
                block: self.vit.depth(),
            },
        };
        draw.seed_libtorch(self.parts.config.seed);
        let logits = self.logits(read, head, Mode::Train);
        self.loss.sum(&logits, at.targets) / at.weight
    }

    /// The portion's loss and gradient with the whole graph in memory.
    fn at_once(&self, parameters: &Tensor, at: &Portion<'_>) -> (f64, Tensor) {
        let (adapters, head) = self.split(parameters);
        let changes = self.parts.adapters.changes(&adapters);
        let (mut read, mut tokens) = self.frozen(at.pixels, self.parts.config.train.precision);
        let first = self.parts.adapters.first_block();
        for (index, changes) in changes.iter().enumerate().skip(first) {
            tokens = self.block(index, &tokens, changes, at);
            if self.reads(index + 1) {
                read.push(tokens.shallow_clone());
            }
        }
        let loss = self.loss(&read, &head, at);
        let gradient = Tensor::run_backward(&[&loss], &[parameters], false, false).remove(0);
        (loss.double_value(&[]), gradient)
    }

    /// The same, block by block: only what goes into each block is kept, and each block's graph is made when its gradient is
    /// due. A block's gradient is that of the sum of its outputs times theirs, which is the same to the last bit. Outputs that the
    /// head reads have a gradient from there, too.
    fn by_block(&self, parameters: &Tensor, at: &Portion<'_>) -> (f64, Tensor) {
        let first = self.parts.adapters.first_block();
        let (mut read, tokens) = self.frozen(at.pixels, self.parts.config.train.precision);
        let mut inputs = vec![tokens];
        no_grad(|| {
            let (adapters, _) = self.split(parameters);
            let changes = self.parts.adapters.changes(&adapters);
            for index in first..self.vit.depth() {
                let tokens = self.block(index, &inputs[index - first], &changes[index], at);
                inputs.push(tokens);
            }
        });
        let leaf = |tokens: Tensor| tokens.detach().set_requires_grad(true);
        let depths: Vec<_> = (first + 1..=self.vit.depth())
            .filter(|depth| self.reads(*depth))
            .collect();
        let outputs = depths
            .iter()
            .map(|depth| leaf(inputs[depth - first].shallow_clone()));
        let outputs: Vec<_> = outputs.collect();
        inputs.pop();
        read.extend(outputs.iter().map(Tensor::shallow_clone));
        let (_, head) = self.split(parameters);
        let loss = self.loss(&read, &head, at);
        drop(read);
        let of: Vec<_> = outputs.iter().chain([parameters]).collect();
        let mut gradients = Tensor::run_backward(&[&loss], &of, false, false);
        let mut total = gradients.pop().expect("the parameters' gradient");
        let mut outer = gradients.pop().expect("the last block is read");
        let mut of_read: BTreeMap<usize, Tensor> = depths.into_iter().zip(gradients).collect();
        for index in (first..self.vit.depth()).rev() {
            let input = leaf(inputs.pop().expect("one input to each block"));
            let (adapters, _) = self.split(parameters);
            let changes = self.parts.adapters.changes(&adapters);
            let output = self.block(index, &input, &changes[index], at);
            let mut product = (output * outer.detach()).sum(tch::Kind::Float);
            // What the head takes from there comes last, and so its gradient first, as in the whole graph: sums are the same bits.
            if let Some(gradient) = of_read.remove(&index) {
                product += (&input * gradient).sum(tch::Kind::Float);
            }
            if changes[index].is_empty() {
                outer = Tensor::run_backward(&[&product], &[&input], false, false).remove(0);
                continue;
            }
            let mut gradients =
                Tensor::run_backward(&[&product], &[&input, parameters], false, false);
            total += gradients.pop().expect("two gradients");
            outer = gradients.remove(0);
        }
        (loss.double_value(&[]), total)
    }

    fn next_pixels(&self) -> Result<Vec<f32>> {
        let incoming = self.incoming.as_ref().expect("an epoch has begun");
        let received = incoming.recv();
        // The reading thread ends only after its last batch, or by a panic of its own.
        received.unwrap_or_else(|_| panic!("the thread that reads images has ended"))
    }
}

impl Objective for Adapting<'_> {
    fn initial(&mut self) -> Tensor {
        self.parts.start.copy().to_device(self.device())
    }

    fn decay(&self) -> Tensor {
        let head = self
            .parts
            .head
            .on_weights(self.parts.config.train.weight_decay, Device::Cpu);
        Tensor::cat(&[self.parts.adapters.decay(), head], 0).to_device(self.device())
    }

    fn rates(&self) -> Option<Tensor> {
        let config = self.parts.config;
        let base = config.peft.learning_rate / config.train.learning_rate;
        let count = self.parts.head.parameter_count() as i64;
        let head = Tensor::ones([count], (tch::Kind::Float, Device::Cpu));
        let rates = Tensor::cat(&[self.parts.adapters.rates(base), head], 0);
        Some(rates.to_device(self.device()))
    }

    fn rate_keys(&self, config: &TrainConfig) -> Rates {
        Rates(vec![
            ("peft.learning_rate", self.parts.config.peft.learning_rate),
            ("train.learning_rate", config.learning_rate),
        ])
    }

    fn begin(&mut self, epoch: usize, first: usize, batches: &[&[i64]]) {
        let size = self.parts.config.train.batch_size;
        let wanted = batches.iter().enumerate().map(|(i, rows)| Wanted {
            rows: rows.to_vec(),
            first: (first + i) * size,
        });
        self.incoming = Some(self.parts.train.start(epoch, wanted.collect()));
    }

    fn step(&mut self, parameters: &Tensor, at: Step<'_>) -> Result<Gradient> {
        let Step { epoch, step, rows } = at;
        let mut pixels = self.next_pixels()?;
        let labels: Vec<_> = rows
            .iter()
            .map(|&row| self.parts.train_labels[row as usize])
            .collect();
        let targets = match &self.mixer {
            None => Targets::classes(&labels, self.device()),
            Some(mixer) => {
                let mixed = mixer.mix(epoch, step, &pixels, &labels);
                pixels = mixed.pixels;
                let shares = Tensor::from_slice(&mixed.shares).reshape([labels.len() as i64, -1]);
                Targets::Shares(shares.to_device(self.device()))
            }
        };
        let (pixels, weight) = (self.tensor(&pixels), self.loss.weight(&targets));
        let size = self
            .parts
            .config
            .train
            .micro_batch_size
            .unwrap_or(rows.len()) as i64;
        let (mut loss, mut gradient) = (0.0, Tensor::zeros_like(parameters));
        for (part, first) in (0..rows.len() as i64).step_by(size as usize).enumerate() {
            let portion = Portion {
                pixels: &pixels.slice(0, first, first + size, 1),
                targets: &targets.slice(first, first + size),
                weight,
                epoch,
                step,
                part,
            };
            let (share, change) = match self.parts.config.peft.checkpoint_blocks {
                true => self.by_block(parameters, &portion),
                false => self.at_once(parameters, &portion),
            };
            loss += share;
            gradient += change;
        }
        Ok(Gradient { loss, gradient })
    }

    fn evaluate(&mut self, parameters: &Tensor) -> Result<Metrics> {
        let count = self.parts.select_labels.len();
        let rows: Vec<i64> = (0..count as i64).collect();
        let size = self.parts.config.train.feature_batch_size;
        let wanted = rows.chunks(size).map(|rows| Wanted {
            rows: rows.to_vec(),
            first: 0,
        });
        let incoming = self.parts.select.start(1, wanted.collect());
        let mut logits = Vec::new();
        for pixels in incoming {
            let pixels = self.tensor(&pixels?);
            logits.push(no_grad(|| self.answer(parameters, &pixels)));
        }
        Ok(selection::metrics(
            &Tensor::cat(&logits, 0),
            self.parts.select_labels,
        ))
    }
}

impl Adapting<'_> {
    /// Logits `[n, K]` as the exported model computes them: in float32, nothing dropped.
    pub(crate) fn answer(&self, parameters: &Tensor, pixels: &Tensor) -> Tensor {
        let (adapters, head) = self.split(parameters);
        let changes = self.parts.adapters.changes(&adapters);
        let (mut read, mut tokens) = self.frozen(pixels, Precision::Fp32);
        for (index, changes) in changes
            .iter()
            .enumerate()
            .skip(self.parts.adapters.first_block())
        {
            let pass = Pass {
                changes: Some(changes),
                precision: Precision::Fp32,
                dropout: 0.0,
            };
            tokens = self.vit.block(index, &tokens, self.parts.places, pass);
            if self.reads(index + 1) {
                read.push(tokens.shallow_clone());
            }
        }
        self.logits(&read, &head, Mode::Evaluate)
    }
}
