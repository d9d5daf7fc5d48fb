//! What is trained, and where each of its tensors lies in the flat buffer: adapters of q and v, unfrozen tensors of the
//! backbone, the mask token, and the projection heads.

use super::head::{self, Projection};
use crate::{
    Error, Result,
    backbone::{Backbone, BlockChanges},
    head::values,
    peft::Adapters,
};
use stage1_core::{
    config::{ExploraConfig, PeftConfig, TargetModules},
    model::{BackboneSpec, BlockRole, Naming, Role, TensorSpec, VitSpec, Weights},
};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// What is trained of a backbone.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    spec: BackboneSpec,
    blocks: usize,
    unfrozen: Vec<usize>,
    adapters: Option<Adapters>,
    trained: Vec<TensorSpec>,
    heads: Vec<[Vec<i64>; 7]>,
}

/// What the flat buffer holds, as views with its graph.
pub(crate) struct Network {
    /// The backbone with what is trained of it.
    pub(crate) backbone: Backbone,
    /// Changes of blocks that aren't trained whole.
    pub(crate) changes: Vec<BlockChanges>,
    /// What the student sees in place of hidden patches, `[D]`.
    pub(crate) mask_token: Tensor,
    heads: Vec<Projection>,
}

impl Network {
    /// The cosines of class tokens `[n, D]` with the prototypes.
    pub(crate) fn of_class(&self, tokens: &Tensor) -> Tensor {
        self.heads[0].cosines(tokens)
    }

    /// The same of patch tokens.
    pub(crate) fn of_patches(&self, tokens: &Tensor) -> Tensor {
        let last = self.heads.last();
        last.expect("at least one head").cosines(tokens)
    }

    /// Makes copies of the blocks' linear layers in bfloat16, with their graph.
    pub(crate) fn keep_half(&mut self) {
        if let Some(vit) = self.backbone.vit_mut() {
            vit.keep_half();
        }
    }
}

impl Layout {
    /// # Errors
    /// [`Error::Targets`] for a backbone that isn't a vision transformer, and for a block that there isn't.
    pub(crate) fn new(spec: &BackboneSpec, config: &ExploraConfig) -> Result<Self> {
        let BackboneSpec::Vit(vit) = spec else {
            return Err(Error::Targets {
                key: "phase",
                reason: format!(
                    "a {} backbone can't be pre-trained this way: ExPLoRA unfreezes blocks of a vision transformer, changes \
                     their q and v, and hides patch tokens, and a convolutional network has none of these; use a ViT, or \
                     `phase: baseline`",
                    spec.model_type()
                ),
            });
        };
        let unfrozen = unfrozen(vit, config)?;
        Ok(Self {
            adapters: adapters(spec, config, &unfrozen)?,
            trained: trained(spec, config, &unfrozen),
            heads: vec![
                head::shapes(&config.head, vit.hidden);
                1 + usize::from(config.head.separate_for_patches)
            ],
            blocks: vit.layers,
            spec: spec.clone(),
            unfrozen,
        })
    }

    /// Blocks that are trained whole.
    pub(crate) fn unfrozen(&self) -> &[usize] {
        &self.unfrozen
    }

    /// Layers that are changed by LoRA.
    pub(crate) fn adapted(&self) -> Vec<String> {
        let modules = self.adapters.iter().flat_map(Adapters::modules);
        modules.map(|(name, _)| name.to_owned()).collect()
    }

    /// What is trained of the backbone, with its number of parameters: LoRA by layer, then tensors by their roles.
    pub(crate) fn modules(&self) -> impl Iterator<Item = (String, usize)> {
        let adapters = self.adapters.iter().flat_map(Adapters::modules);
        let adapters = adapters.map(|(name, count)| (format!("LoRA of {name}"), count));
        let tensors = self.trained.iter().map(|tensor| {
            let name = match tensor.role {
                Role::Block(block, _) if self.unfrozen.contains(&block) => format!("block {block}"),
                Role::Block(..) | Role::NormWeight | Role::NormBias => "norms".to_owned(),
                _ => "class token".to_owned(),
            };
            (name, size(&tensor.shape))
        });
        adapters.chain(tensors)
    }

    /// Whether the tensor of this role is trained itself.
    pub(crate) fn trains(&self, role: Role) -> bool {
        self.trained.iter().any(|tensor| tensor.role == role)
    }

    /// Parameters of the projection heads and the mask token, which aren't kept.
    pub(crate) fn auxiliary(&self) -> usize {
        let heads = self.heads.iter().flatten();
        let heads: i64 = heads.map(|shape| shape.iter().product::<i64>()).sum();
        heads.unsigned_abs() as usize + self.spec.hidden()
    }

    /// All parameters.
    pub(crate) fn count(&self) -> usize {
        self.modules().map(|(_, count)| count).sum::<usize>() + self.auxiliary()
    }

    /// The first parameters: adapters that change nothing, the backbone's own values, its mask token (0 where it has none),
    /// and heads that `seed` draws.
    pub(crate) fn initial(
        &self,
        weights: &Weights,
        mask_token: Option<Vec<f32>>,
        seed: u64,
    ) -> Tensor {
        let mut parts = Vec::new();
        parts.extend(self.adapters.iter().map(|a| a.initial(weights, seed)));
        let tensors = self.trained.iter();
        parts.extend(tensors.map(|tensor| Tensor::from_slice(weights.get(tensor.role))));
        let blank = || vec![0.0; self.spec.hidden()];
        parts.push(Tensor::from_slice(&mask_token.unwrap_or_else(blank)));
        for (number, shapes) in self.heads.iter().enumerate() {
            parts.extend(head::initial(shapes, seed, number));
        }
        Tensor::cat(&parts, 0)
    }

    /// Which values are those of matrices, 1 or 0: only they decay.
    pub(crate) fn matrices(&self) -> Tensor {
        let adapters = self.adapters.iter().map(Adapters::parameter_count);
        let adapters = adapters.map(|count| (count, true));
        let tensors = self.trained.iter();
        let tensors = tensors.map(|tensor| {
            let is_matrix = matches!(tensor.role, Role::Block(..)) && tensor.shape.len() > 1;
            (size(&tensor.shape), is_matrix)
        });
        let mask = [(self.spec.hidden(), false)];
        let heads = self.heads.iter().flatten();
        let heads = heads.map(|shape| (product(shape), shape.len() > 1));
        marks(adapters.chain(tensors).chain(mask).chain(heads))
    }

    /// What the learning rate of each value is multiplied with, if each block learns at `decay` of the next one's rate:
    /// the published training's rule, where the final norm and the heads come after the last block, and the tokens that
    /// are put in before the first one.
    pub(crate) fn rates(&self, decay: f64) -> Tensor {
        let after = self.blocks + 1;
        let rate = |place: usize| decay.powi((after - place) as i32);
        let adapters = self.adapters.iter().flat_map(Adapters::counts);
        let adapters = adapters.map(|(block, count)| (count, rate(block + 1)));
        let tensors = self.trained.iter().map(|tensor| {
            let place = match tensor.role {
                Role::Block(block, _) => block + 1,
                Role::NormWeight | Role::NormBias => after,
                _ => 0,
            };
            (size(&tensor.shape), rate(place))
        });
        let mask = [(self.spec.hidden(), rate(0))];
        let heads = self.heads.iter().flatten();
        let heads = heads.map(|shape| (product(shape), 1.0));
        fill(adapters.chain(tensors).chain(mask).chain(heads))
    }

    /// Which values are not those of prototypes, 1 or 0.
    pub(crate) fn not_prototypes(&self) -> Tensor {
        let backbone = self.modules().map(|(_, count)| count).sum::<usize>() + self.spec.hidden();
        let heads = self
            .heads
            .iter()
            .flat_map(|shapes| shapes.iter().enumerate());
        let heads = heads.map(|(at, shape)| (product(shape), at < 6));
        marks(std::iter::once((backbone, true)).chain(heads))
    }

    /// The network of a flat buffer, on top of `frozen`: the backbone's tensors as they were.
    pub(crate) fn network(&self, flat: &Tensor, frozen: &BTreeMap<Role, Tensor>) -> Network {
        let mut views = self.views(flat).into_iter();
        let changes = match &self.adapters {
            Some(adapters) => adapters.changes(&views.next().expect("the adapters' part")),
            None => (0..self.blocks).map(|_| BlockChanges::new()).collect(),
        };
        let share = |(role, tensor): (&Role, &Tensor)| (*role, tensor.shallow_clone());
        let mut tensors: BTreeMap<_, _> = frozen.iter().map(share).collect();
        for tensor in &self.trained {
            tensors.insert(tensor.role, views.next().expect("a view for each tensor"));
        }
        let mask_token = views.next().expect("the mask token's part");
        let heads = self.heads.iter().map(|shapes| {
            let tensors = shapes
                .iter()
                .map(|_| views.next().expect("a view for each"));
            Projection(tensors.collect())
        });
        Network {
            heads: heads.collect(),
            backbone: Backbone::of(&self.spec, &tensors),
            changes,
            mask_token,
        }
    }

    /// The parts of the buffer in its order, in their shapes.
    fn views(&self, flat: &Tensor) -> Vec<Tensor> {
        let signed = |shape: &[usize]| shape.iter().map(|&n| n as i64).collect::<Vec<_>>();
        let adapters = self
            .adapters
            .iter()
            .map(|a| vec![a.parameter_count() as i64]);
        let tensors = self.trained.iter().map(|tensor| signed(&tensor.shape));
        let shapes: Vec<Vec<i64>> = adapters
            .chain(tensors)
            .chain([vec![self.spec.hidden() as i64]])
            .chain(self.heads.iter().flatten().cloned())
            .collect();
        let sizes: Vec<i64> = shapes.iter().map(|shape| shape.iter().product()).collect();
        let parts = flat.split_with_sizes(sizes, 0);
        let parts = parts.iter().zip(&shapes);
        parts.map(|(part, shape)| part.view(&shape[..])).collect()
    }

    /// What a flat buffer makes of `weights`: unfrozen tensors in their places, and the adapters merged.
    ///
    /// # Errors
    /// [`Error::BrokenBackbone`] when a value isn't finite; what merging returns.
    pub(crate) fn merged(&self, flat: &Tensor, weights: &Weights) -> Result<Weights> {
        let mut views = self.views(flat).into_iter();
        let adapters = self.adapters.as_ref();
        let adapters =
            adapters.map(|a| a.to_files(&views.next().expect("the adapters' part"), None));
        let mut changed = BTreeMap::new();
        for (tensor, view) in self.trained.iter().zip(views) {
            let values = values(&view);
            if let Some(value) = values.iter().copied().find(|value| !value.is_finite()) {
                let name = tensor.name.clone();
                return Err(Error::BrokenBackbone { name, value });
            }
            changed.insert(tensor.role, values);
        }
        let weights = weights.clone().with_values(changed);
        match adapters {
            Some(adapters) => Ok(weights.merged(&crate::train::as_adapter(&adapters)?)?),
            None => Ok(weights),
        }
    }
}

fn unfrozen(vit: &VitSpec, config: &ExploraConfig) -> Result<Vec<usize>> {
    let last = vit.layers - 1;
    let blocks = config.unfreeze_blocks.clone().unwrap_or_else(|| vec![last]);
    match blocks.iter().find(|&&block| block > last) {
        None => Ok(blocks),
        Some(block) => Err(Error::Targets {
            key: "explora.unfreeze_blocks",
            reason: format!("there is no block {block}; the backbone has the blocks 0 to {last}"),
        }),
    }
}

/// LoRA on q and v of the blocks that aren't trained whole.
fn adapters(
    spec: &BackboneSpec,
    config: &ExploraConfig,
    unfrozen: &[usize],
) -> Result<Option<Adapters>> {
    let layers = spec.adaptable_layers(Naming::Transformers5).into_iter();
    let names: Vec<_> = layers
        .filter(|layer| matches!(layer.role, BlockRole::QWeight | BlockRole::VWeight))
        .filter(|layer| !unfrozen.contains(&layer.block))
        .map(|layer| layer.module)
        .collect();
    if names.is_empty() {
        return Ok(None);
    }
    let config = PeftConfig {
        target_modules: TargetModules::List(names),
        r: config.r,
        lora_alpha: config.lora_alpha,
        ..PeftConfig::default()
    };
    Adapters::choose(spec, &config).map(Some)
}

/// The tensors that are trained themselves, in the table's order.
fn trained(spec: &BackboneSpec, config: &ExploraConfig, unfrozen: &[usize]) -> Vec<TensorSpec> {
    use BlockRole as R;
    let is_trained = |role: Role| match role {
        Role::Block(block, part) => {
            let is_norm = matches!(
                part,
                R::Norm1Weight | R::Norm1Bias | R::Norm2Weight | R::Norm2Bias
            );
            unfrozen.contains(&block) || config.norms && is_norm
        }
        Role::NormWeight | Role::NormBias => config.norms,
        Role::ClsToken => config.class_token,
        _ => false,
    };
    let tensors = spec.tensors().into_iter();
    tensors.filter(|tensor| is_trained(tensor.role)).collect()
}

fn size(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn product(shape: &[i64]) -> usize {
    shape.iter().product::<i64>().unsigned_abs() as usize
}

/// So many ones or zeros each.
fn marks(parts: impl Iterator<Item = (usize, bool)>) -> Tensor {
    fill(parts.map(|(count, one)| (count, f64::from(u8::from(one)))))
}

/// A value so many times each.
fn fill(parts: impl Iterator<Item = (usize, f64)>) -> Tensor {
    let part = |(count, value): (usize, f64)| {
        Tensor::full([count as i64], value, (Kind::Float, Device::Cpu))
    };
    Tensor::cat(&parts.map(part).collect::<Vec<_>>(), 0)
}
