//! Which layers are adapted, by Hugging Face PEFT's rules, and where their parameters lie in a flat buffer.

use crate::{
    Error, Result,
    backbone::{BlockChanges, Change},
    head::values,
    random::Draw,
};
use regex::Regex;
use stage1_core::{
    artifact::{Digest, tensors::Tensor as StoredTensor},
    config::{PeftConfig, TargetModules},
    model::{AdaptableLayer, Adapter, BackboneSpec, Naming, NewAdapter, NewLayer, Role, Weights},
};
use std::collections::{BTreeMap, BTreeSet};
use tch::{Device, Kind, Tensor};

/// The adapted layers, in the order of use.
#[derive(Debug, Clone)]
pub struct Adapters {
    config: PeftConfig,
    layers: Vec<Adapted>,
    blocks: usize,
}

#[derive(Debug, Clone)]
struct Adapted {
    layer: AdaptableLayer,
    rank: usize,
    alpha: f64,
    scale: f64,
}

/// A tensor of an adapted layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Down,
    Up,
    Magnitude,
}

impl Adapters {
    /// The layers of a backbone that `config` names.
    ///
    /// Names are those of transformers 5, or of transformers 4 where the backbone's layers were renamed since and all
    /// names of the list are old ones; the adapter is saved under the same.
    ///
    /// # Errors
    /// [`Error::Targets`] for a name, pattern or block that there isn't, with what there is.
    pub fn choose(spec: &BackboneSpec, config: &PeftConfig) -> Result<Self> {
        let current = spec.adaptable_layers(Naming::Transformers5);
        let Some(last) = current.last() else {
            return Err(targets(
                "peft.target_modules",
                format!(
                    "a {} backbone can't be adapted: only vision transformers can",
                    spec.model_type()
                ),
            ));
        };
        let blocks = last.block + 1;
        let former = spec.adaptable_layers(Naming::Transformers4);
        let chosen = match named(&former, config)? {
            Named::Layers(old) => match named(&current, config)? {
                Named::Layers(new) => new,
                Named::Missing(_) => old,
            },
            Named::Missing(_) => match named(&current, config)? {
                Named::Layers(new) => new,
                Named::Missing(name) => return Err(no_such_name(&name, &current, &former)),
            },
        };
        check_blocks(config, blocks)?;
        let within = |layer: &AdaptableLayer| {
            let wanted = config.layers_to_transform.as_ref();
            wanted.is_none_or(|blocks| blocks.contains(&layer.block))
        };
        let ranks = Patterns::new("peft.rank_pattern", config.rank_pattern.keys())?;
        let alphas = Patterns::new("peft.alpha_pattern", config.alpha_pattern.keys())?;
        let layers: Vec<_> = chosen
            .into_iter()
            .filter(within)
            .map(|layer| {
                let rank = ranks
                    .of(&layer.module)
                    .map_or(config.r, |name| config.rank_pattern[name]);
                let alpha = alphas
                    .of(&layer.module)
                    .map_or(config.lora_alpha, |name| config.alpha_pattern[name]);
                let divisor = match config.use_rslora {
                    true => (rank as f64).sqrt(),
                    false => rank as f64,
                };
                Adapted {
                    layer,
                    rank,
                    alpha,
                    scale: alpha / divisor,
                }
            })
            .collect();
        ranks.check_used(&layers)?;
        alphas.check_used(&layers)?;
        Ok(Self {
            config: config.clone(),
            layers,
            blocks,
        })
    }

    /// The first block that has an adapted layer.
    pub fn first_block(&self) -> usize {
        self.layers[0].layer.block
    }

    /// The names of the adapted layers, with their numbers of parameters.
    pub fn modules(&self) -> impl Iterator<Item = (&str, usize)> {
        self.layers.iter().map(|adapted| {
            let count = self
                .parts_of(adapted)
                .map(|(_, shape)| product(&shape))
                .sum::<i64>();
            (adapted.layer.module.as_str(), count.unsigned_abs() as usize)
        })
    }

    /// The block and the number of parameters of each adapted layer, in the order of the buffer.
    pub fn counts(&self) -> impl Iterator<Item = (usize, usize)> {
        let blocks = self.layers.iter().map(|adapted| adapted.layer.block);
        blocks.zip(self.modules().map(|(_, count)| count))
    }

    /// The number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.modules().map(|(_, count)| count).sum()
    }

    /// The first parameters: A as PEFT draws it (uniform within ±1/√in), B 0, lengths those of the rows of `weights`.
    pub fn initial(&self, weights: &Weights, seed: u64) -> Tensor {
        Draw::Initialise.seed_libtorch(seed);
        let mut flat = Vec::new();
        for adapted in &self.layers {
            let [_, inputs] = adapted.layer.shape;
            for (part, shape) in self.parts_of(adapted) {
                let zeros = Tensor::zeros([product(&shape)], (Kind::Float, Device::Cpu));
                flat.push(match part {
                    Part::Down => {
                        let bound = 1.0 / (inputs as f64).sqrt();
                        zeros.uniform(-bound, bound)
                    }
                    Part::Up => zeros,
                    Part::Magnitude => Tensor::from_slice(&row_lengths(&adapted.layer, weights)),
                });
            }
        }
        Tensor::cat(&flat, 0)
    }

    /// Weight decay of each parameter: none for lengths.
    pub fn decay(&self) -> Tensor {
        self.fill(|part| match part {
            Part::Down | Part::Up => self.config.weight_decay,
            Part::Magnitude => 0.0,
        })
    }

    /// What the learning rate of each parameter is multiplied with, if that of A is `base`: LoRA+ (Hayou et al., arXiv
    /// 2402.12354).
    pub fn rates(&self, base: f64) -> Tensor {
        self.fill(|part| match part {
            Part::Down => base,
            Part::Up | Part::Magnitude => base * self.config.lora_plus_ratio,
        })
    }

    fn fill(&self, value: impl Fn(Part) -> f64) -> Tensor {
        let parts = self
            .layers
            .iter()
            .flat_map(|adapted| self.parts_of(adapted));
        let parts: Vec<_> = parts
            .map(|(part, shape)| {
                Tensor::full([product(&shape)], value(part), (Kind::Float, Device::Cpu))
            })
            .collect();
        Tensor::cat(&parts, 0)
    }

    /// The changes of each block, as views of a flat buffer with its graph.
    pub fn changes(&self, flat: &Tensor) -> Vec<BlockChanges> {
        let mut blocks: Vec<BlockChanges> = (0..self.blocks).map(|_| BTreeMap::new()).collect();
        let mut views = self.views(flat).into_iter();
        for adapted in &self.layers {
            let mut next = || views.next().expect("a view for each part");
            let change = Change {
                first_row: adapted.layer.first_row as i64,
                scale: adapted.scale,
                down: next(),
                up: next(),
                magnitude: self.config.use_dora.then(next),
            };
            let block = &mut blocks[adapted.layer.block];
            block.entry(adapted.layer.role).or_default().push(change);
        }
        blocks
    }

    fn views(&self, flat: &Tensor) -> Vec<Tensor> {
        let parts: Vec<_> = self
            .layers
            .iter()
            .flat_map(|adapted| self.parts_of(adapted))
            .collect();
        let sizes: Vec<_> = parts.iter().map(|(_, shape)| product(shape)).collect();
        let views = flat.split_with_sizes(sizes, 0);
        let shaped = views.iter().zip(&parts);
        shaped
            .map(|(view, (_, shape))| view.view(shape.as_slice()))
            .collect()
    }

    /// The tensors of a layer with their shapes, in the order of the buffer.
    fn parts_of(&self, adapted: &Adapted) -> impl Iterator<Item = (Part, Vec<i64>)> + use<> {
        let [outputs, inputs] = adapted.layer.shape.map(|n| n as i64);
        let rank = adapted.rank as i64;
        let magnitude = self
            .config
            .use_dora
            .then(|| (Part::Magnitude, vec![outputs]));
        [
            (Part::Down, vec![rank, inputs]),
            (Part::Up, vec![outputs, rank]),
        ]
        .into_iter()
        .chain(magnitude)
    }

    /// The adapter that a flat buffer holds, as PEFT saves it, with the digest of the splits that chose its images.
    pub fn to_files(&self, flat: &Tensor, splits_digest: Option<Digest>) -> NewAdapter {
        let mut views = self.views(flat).into_iter();
        let layers = self.layers.iter().map(|adapted| {
            let mut next = || {
                let view = views.next().expect("a view for each part");
                let shape: Vec<_> = view
                    .size()
                    .iter()
                    .map(|&n| n.unsigned_abs() as usize)
                    .collect();
                StoredTensor::f32(shape, values(&view))
            };
            let layer = NewLayer {
                rank: adapted.rank,
                alpha: adapted.alpha,
                down: next(),
                up: next(),
                magnitude: self.config.use_dora.then(next),
            };
            (adapted.layer.module.clone(), layer)
        });
        NewAdapter {
            layers: layers.collect(),
            target_modules: self.target_modules(),
            rank: self.config.r,
            alpha: self.config.lora_alpha,
            rank_stabilised: self.config.use_rslora,
            dora: self.config.use_dora,
            dropout: self.config.lora_dropout,
            splits_digest,
        }
    }

    /// The list of the configuration, or whole names where it says less than was adapted.
    fn target_modules(&self) -> Vec<String> {
        match (
            &self.config.target_modules,
            &self.config.layers_to_transform,
        ) {
            (TargetModules::List(names), None) => names.clone(),
            _ => self
                .layers
                .iter()
                .map(|adapted| adapted.layer.module.clone())
                .collect(),
        }
    }

    /// The flat buffer that holds `adapter`; none when it adapts other layers, or with other ranks or scales.
    pub fn load(&self, adapter: &Adapter) -> Option<Tensor> {
        let mut flat = Vec::new();
        for adapted in &self.layers {
            let change = adapter.change(&adapted.layer.module)?;
            let [outputs, inputs] = adapted.layer.shape;
            let fits = change.rank == adapted.rank
                && change.down.len() == adapted.rank * inputs
                && change.up.len() == outputs * adapted.rank
                && (change.scale - adapted.scale).abs() <= 1e-12 * adapted.scale
                && change.magnitude.is_some() == self.config.use_dora;
            if !fits {
                return None;
            }
            flat.extend_from_slice(change.down);
            flat.extend_from_slice(change.up);
            flat.extend_from_slice(change.magnitude.unwrap_or_default());
        }
        let same = adapter.modules().count() == self.layers.len();
        same.then(|| Tensor::from_slice(&flat))
    }
}

/// What a configuration names among some layers.
enum Named {
    Layers(Vec<AdaptableLayer>),
    /// The first name or pattern that none of them has.
    Missing(String),
}

fn named(layers: &[AdaptableLayer], config: &PeftConfig) -> Result<Named> {
    let select = |wanted: &dyn Fn(&str) -> bool| -> Vec<AdaptableLayer> {
        layers
            .iter()
            .filter(|layer| wanted(&layer.module))
            .cloned()
            .collect()
    };
    Ok(match &config.target_modules {
        TargetModules::Pattern(pattern) if pattern == "all-linear" => {
            Named::Layers(layers.to_vec())
        }
        TargetModules::Pattern(pattern) => {
            let whole = compile("peft.target_modules", &format!("^(?:{pattern})$"))?;
            match select(&|module| whole.is_match(module)) {
                found if found.is_empty() => Named::Missing(pattern.clone()),
                found => Named::Layers(found),
            }
        }
        TargetModules::List(names) => {
            let missing = names
                .iter()
                .find(|name| !layers.iter().any(|layer| is_named(&layer.module, name)));
            match missing {
                Some(name) => Named::Missing(name.clone()),
                None => Named::Layers(select(&|module| {
                    names.iter().any(|name| is_named(module, name))
                })),
            }
        }
    })
}

/// PEFT's rule for lists: the whole name, or what it ends in after a dot.
fn is_named(module: &str, name: &str) -> bool {
    let rest = module.strip_suffix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn no_such_name(name: &str, current: &[AdaptableLayer], former: &[AdaptableLayer]) -> Error {
    let last = |layer: &AdaptableLayer| {
        let (_, last) = layer.module.rsplit_once('.').unwrap_or(("", &layer.module));
        last.to_owned()
    };
    let names = |layers: &[AdaptableLayer]| {
        let mut seen = BTreeSet::new();
        let names = layers
            .iter()
            .map(last)
            .filter(|name| seen.insert(name.clone()));
        names.collect::<Vec<_>>().join(", ")
    };
    let (new, old) = (names(current), names(former));
    let or = if new == old {
        String::new()
    } else {
        format!("; or all by transformers 4's names: {old}")
    };
    targets(
        "peft.target_modules",
        format!(
            "`{name}` names no linear layer of this backbone; its blocks have {new}{or} (e.g. {})",
            current[0].module
        ),
    )
}

fn check_blocks(config: &PeftConfig, blocks: usize) -> Result<()> {
    let wanted = config.layers_to_transform.iter().flatten();
    match wanted.copied().find(|&block| block >= blocks) {
        None => Ok(()),
        Some(block) => Err(targets(
            "peft.layers_to_transform",
            format!(
                "there is no block {block}; the backbone has the blocks 0 to {}",
                blocks - 1
            ),
        )),
    }
}

/// Names with values of their own: PEFT matches each as a regular expression for the end of a module's name.
struct Patterns<'a> {
    key: &'static str,
    patterns: Vec<(&'a String, Regex)>,
}

impl<'a> Patterns<'a> {
    fn new(key: &'static str, names: impl Iterator<Item = &'a String>) -> Result<Self> {
        let patterns = names
            .map(|name| Ok((name, compile(key, &format!(r"^(?:.*\.)?(?:{name})$"))?)))
            .collect::<Result<_>>()?;
        Ok(Self { key, patterns })
    }

    fn of(&self, module: &str) -> Option<&'a String> {
        let found = self
            .patterns
            .iter()
            .find(|(_, pattern)| pattern.is_match(module));
        found.map(|(name, _)| *name)
    }

    fn check_used(&self, layers: &[Adapted]) -> Result<()> {
        let is_used = |pattern: &Regex| layers.iter().any(|l| pattern.is_match(&l.layer.module));
        match self.patterns.iter().find(|(_, pattern)| !is_used(pattern)) {
            None => Ok(()),
            Some((name, _)) => Err(targets(
                self.key,
                format!(
                    "`{name}` names none of the adapted layers (e.g. {})",
                    layers[0].layer.module
                ),
            )),
        }
    }
}

fn compile(key: &'static str, pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|error| targets(key, format!("not a regular expression: {error}")))
}

fn targets(key: &'static str, reason: String) -> Error {
    Error::Targets { key, reason }
}

/// The length of each row of a layer's weight.
fn row_lengths(layer: &AdaptableLayer, weights: &Weights) -> Vec<f32> {
    let [outputs, inputs] = layer.shape;
    let weight = weights.get(Role::Block(layer.block, layer.role));
    let rows = weight
        .chunks_exact(inputs)
        .skip(layer.first_row)
        .take(outputs);
    let length = |row: &[f32]| {
        let sum: f64 = row.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        sum.sqrt() as f32
    };
    rows.map(length).collect()
}

fn product(shape: &[i64]) -> i64 {
    shape.iter().product()
}
