//! What a training would do: parameters, steps, and a rough estimate of its memory: `benches/README.md` has it beside what was
//! measured.

use crate::{
    explora::{Layout, steps},
    peft::Adapters,
};
use stage1_core::{
    config::{Config, Phase, Precision},
    events::{Plan, PlannedModule},
    model::{BackboneSpec, GateSpec, HeadSpec, Role},
};
use std::collections::BTreeMap;

/// Bytes of a float32.
const FLOAT: u64 = 4;
/// The program with libtorch, before it reads anything.
const PROGRAM: u64 = 115 << 20;
/// Copies of the backbone: as it was read, and libtorch's.
const BACKBONES: u64 = 2;
/// Copies of each trained parameter: itself, its gradient, two moments, the average and the best average.
const COPIES: u64 = 6;
/// Decoded batches in memory at once: two that wait, one that is read, one that is trained on.
const BATCHES: u64 = 4;

/// What is known before anything is computed.
pub(crate) struct Known<'a> {
    pub(crate) config: &'a Config,
    pub(crate) spec: &'a BackboneSpec,
    pub(crate) head: &'a HeadSpec,
    pub(crate) adapters: Option<&'a Adapters>,
    pub(crate) train_images: usize,
    pub(crate) select_images: usize,
    pub(crate) continues_at: Option<(usize, usize)>,
    pub(crate) done: bool,
}

impl Known<'_> {
    pub(crate) fn plan(&self) -> Plan {
        let train = &self.config.train;
        let batch = train.batch_size.min(self.train_images);
        Plan {
            phase: self.config.phase.to_string(),
            backbone: self.spec.to_string(),
            modules: self.modules(),
            train_images: self.train_images,
            select_images: self.select_images,
            epochs: train.epochs,
            steps_per_epoch: self.train_images.div_ceil(train.batch_size),
            batch_size: batch,
            micro_batch_size: train.micro_batch_size.unwrap_or(batch).min(batch),
            memory: self.memory(batch),
            continues_at: self.continues_at,
            done: self.done,
            before: None,
        }
    }

    fn modules(&self) -> Vec<PlannedModule> {
        let mut modules: Vec<PlannedModule> = Vec::new();
        let mut add = |name: String, parameters, trainable| match modules.last_mut() {
            Some(last) if last.name == name => last.parameters += parameters,
            _ => modules.push(PlannedModule {
                name,
                parameters,
                trainable,
            }),
        };
        for tensor in self.spec.tensors() {
            add(module(tensor.role), tensor.shape.iter().product(), false);
        }
        for (module, parameters) in self.adapters.iter().flat_map(|adapters| adapters.modules()) {
            add(format!("adapter of {module}"), parameters, true);
        }
        add("head".to_owned(), self.head_parameters(), true);
        if self.config.phase == Phase::Gate {
            add("gate".to_owned(), self.gate_parameters(), true);
        }
        modules
    }

    fn head_parameters(&self) -> usize {
        let tensors = self.head.tensors(self.spec.hidden());
        tensors
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }

    fn gate_parameters(&self) -> usize {
        let gate = GateSpec {
            hidden: self.config.gate.hidden,
        };
        let tensors = gate.tensors(self.head.trunk().unwrap_or(0));
        tensors
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }

    fn memory(&self, batch: usize) -> BTreeMap<String, u64> {
        let (train, spec) = (&self.config.train, self.spec);
        let weights = weights(spec, train.precision);
        let adapters = self.adapters.map_or(0, Adapters::parameter_count);
        let trained = (adapters + self.head_parameters()) as u64 * FLOAT * COPIES;
        let images = (self.train_images + self.select_images) as u64;
        let features = images * self.head.width(spec.hidden()) as u64 * FLOAT;
        let (height, width) = self.config.preprocess.output_size();
        let pixels = (3 * height * width) as u64 * FLOAT;
        let (batch, passes) = match self.config.adapts() {
            false => (
                train.feature_batch_size,
                self.passing(train.feature_batch_size),
            ),
            true => {
                let micro = train.micro_batch_size.unwrap_or(batch).min(batch);
                (
                    batch,
                    self.through_blocks(micro)
                        .max(self.passing(train.feature_batch_size)),
                )
            }
        };
        [
            ("program", PROGRAM),
            ("weights", weights),
            ("trained parameters", trained),
            ("features", 2 * features),
            ("decoded images", BATCHES * batch as u64 * pixels),
            ("activations", passes),
        ]
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .into()
    }

    fn tokens(&self) -> u64 {
        let (height, width) = self.config.preprocess.output_size();
        self.spec.token_count(height, width).unwrap_or(0) as u64
    }

    fn per_token(&self) -> u64 {
        per_token(self.spec)
    }

    /// Of a forward pass without gradients: one block at a time.
    fn passing(&self, images: usize) -> u64 {
        images as u64 * self.tokens() * self.per_token() * FLOAT
    }

    /// Of a pass with gradients through the adapted blocks.
    fn through_blocks(&self, images: usize) -> u64 {
        let BackboneSpec::Vit(vit) = self.spec else {
            return 0;
        };
        let blocks = (vit.layers - self.adapters.map_or(0, Adapters::first_block)) as u64;
        let inside = match self.config.peft.checkpoint_blocks {
            true => self.per_token() + blocks * vit.hidden as u64,
            false => blocks * self.per_token(),
        };
        images as u64 * self.tokens() * inside * activation(self.config.train.precision)
    }
}

/// All copies of the backbone.
fn weights(spec: &BackboneSpec, precision: Precision) -> u64 {
    let half = match precision {
        Precision::Fp32 => 0,
        Precision::Bf16 => FLOAT / 2,
    };
    spec.parameter_count() as u64 * (BACKBONES * FLOAT + half)
}

/// Bytes of what is kept for a gradient: with bfloat16, most of it is in that.
fn activation(precision: Precision) -> u64 {
    match precision {
        Precision::Fp32 => FLOAT,
        Precision::Bf16 => FLOAT / 2,
    }
}

/// The part of the network that a tensor belongs to.
fn module(role: Role) -> String {
    match role {
        Role::Block(block, _) => format!("block {block}"),
        Role::Stage(stage, _) | Role::Layer(stage, _, _) => format!("stage {stage}"),
        Role::NormWeight | Role::NormBias => "final norm".to_owned(),
        _ => "embeddings".to_owned(),
    }
}

/// What one block leaves for its gradient, per token: the inputs of norms, linear layers and attention.
fn per_token(spec: &BackboneSpec) -> u64 {
    match spec {
        BackboneSpec::Vit(vit) => (9 * vit.hidden + 3 * vit.ffn_hidden) as u64,
        BackboneSpec::ConvNext(convnext) => 10 * convnext.hidden() as u64,
    }
}

/// Copies of each parameter in self-supervised training: student, teacher, gradient, two moments.
const PRETRAINING_COPIES: u64 = 5;

/// What is known of a self-supervised training before it.
pub(crate) struct Pretraining<'a> {
    pub(crate) config: &'a Config,
    pub(crate) layout: &'a Layout,
    pub(crate) spec: &'a BackboneSpec,
    /// At most: copies of held-out images aren't known yet.
    pub(crate) images: usize,
    pub(crate) continues_at: Option<(usize, usize)>,
    pub(crate) done: bool,
}

impl Pretraining<'_> {
    pub(crate) fn plan(&self) -> Plan {
        let explora = &self.config.explora;
        let (batch, steps) = steps(explora, self.images);
        let micro = explora.micro_batch_size.unwrap_or(batch).min(batch);
        Plan {
            phase: format!("{}, self-supervised part", self.config.phase),
            backbone: self.spec.to_string(),
            modules: self.modules(),
            train_images: self.images,
            select_images: 0,
            epochs: explora.epochs,
            steps_per_epoch: steps,
            batch_size: batch,
            micro_batch_size: micro,
            memory: self.memory(batch, micro),
            continues_at: self.continues_at,
            done: self.done,
            before: None,
        }
    }

    /// What stays as it is, block by block; then what is trained.
    fn modules(&self) -> Vec<PlannedModule> {
        let mut modules: Vec<PlannedModule> = Vec::new();
        let mut add = |name: String, parameters, trainable| match modules
            .iter_mut()
            .find(|module| module.name == name && module.trainable == trainable)
        {
            Some(module) => module.parameters += parameters,
            None => modules.push(PlannedModule {
                name,
                parameters,
                trainable,
            }),
        };
        let tensors = self.spec.tensors().into_iter();
        for tensor in tensors.filter(|tensor| !self.layout.trains(tensor.role)) {
            add(module(tensor.role), tensor.shape.iter().product(), false);
        }
        for (name, parameters) in self.layout.modules() {
            add(name, parameters, true);
        }
        let auxiliary = "projection heads and mask token".to_owned();
        add(auxiliary, self.layout.auxiliary(), true);
        modules
    }

    fn memory(&self, batch: usize, micro: usize) -> BTreeMap<String, u64> {
        let explora = &self.config.explora;
        let size = self.config.preprocess.output_size();
        let local = explora.local_size(size, self.spec.patch());
        let count = explora.local_crops.count as u64;
        let pixels = |(height, width): (usize, usize)| (3 * height * width) as u64 * FLOAT;
        let tokens = |(height, width)| self.spec.token_count(height, width).unwrap_or(0) as u64;
        let pictures = 2 * pixels(size) + count * pixels(local);
        let blocks = match self.spec {
            BackboneSpec::Vit(vit) => vit.layers as u64,
            BackboneSpec::ConvNext(_) => 0,
        };
        let seen = 2 * tokens(size) + count * tokens(local);
        let precision = self.config.train.precision;
        let inside = micro as u64 * seen * blocks * per_token(self.spec) * activation(precision);
        [
            ("program", PROGRAM),
            ("weights", weights(self.spec, precision)),
            (
                "trained parameters",
                self.layout.count() as u64 * FLOAT * PRETRAINING_COPIES,
            ),
            ("decoded images", BATCHES * batch as u64 * pictures),
            ("activations", inside),
        ]
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .into()
    }
}
