//! Which layers can be adapted and what PEFT calls them, and adapters as PEFT saves them.

use super::{Part, Target, WRAPPER, linear_layers, renamed};
use crate::{
    artifact::{self, Digest, atomic, tensors},
    model::{BackboneSpec, BlockRole, Role, VitFamily, VitSpec},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};

/// A linear layer of a block that can be adapted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptableLayer {
    /// Its module in the model that PEFT wraps.
    pub module: String,
    /// The block that it belongs to, from 0.
    pub block: usize,
    /// The weight that holds it.
    pub role: BlockRole,
    /// Its first row in that weight.
    pub first_row: usize,
    /// `[out, in]`.
    pub shape: [usize; 2],
}

/// What transformers calls modules: it depends on its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// transformers 5.
    Transformers5,
    /// transformers 4.
    Transformers4,
}

impl BackboneSpec {
    /// The linear layers of the blocks in the order of use; none for a backbone that isn't a vision transformer.
    pub fn adaptable_layers(&self, naming: Naming) -> Vec<AdaptableLayer> {
        let Self::Vit(vit) = self else {
            return Vec::new();
        };
        let prefix = prefix(vit.family, naming);
        let layer = |(name, target): (String, Target)| {
            let Role::Block(block, role) = target.role else {
                return None;
            };
            let (_, place) = name.split_once("layer.")?;
            Some(AdaptableLayer {
                module: format!("{prefix}.{place}"),
                block,
                role,
                first_row: target.first_row,
                shape: target.shape,
            })
        };
        modules(self, vit, naming)
            .into_iter()
            .filter_map(layer)
            .collect()
    }
}

fn prefix(family: VitFamily, naming: Naming) -> &'static str {
    match (family, naming) {
        (VitFamily::Dinov3Vit, Naming::Transformers5) => "model.layer",
        (VitFamily::Dinov3Vit, Naming::Transformers4) => "layer",
        (VitFamily::Dinov2 | VitFamily::Dinov2WithRegisters, _) => "encoder.layer",
    }
}

/// The linear layers, called as the modules are.
fn modules(spec: &BackboneSpec, vit: &VitSpec, naming: Naming) -> Vec<(String, Target)> {
    match naming {
        Naming::Transformers4 => linear_layers(spec).collect(),
        Naming::Transformers5 => renamed(vit).collect(),
    }
}

/// An adapter to be saved.
#[derive(Debug, Clone, PartialEq)]
pub struct NewAdapter {
    /// `target_modules`: names, or what names end in.
    pub target_modules: Vec<String>,
    /// `r` of the layers that don't say otherwise.
    pub rank: usize,
    /// `lora_alpha` of the layers that don't say otherwise.
    pub alpha: f64,
    /// `use_rslora`.
    pub rank_stabilised: bool,
    /// `use_dora`.
    pub dora: bool,
    /// `lora_dropout`, which matters only when the adapter is trained further.
    pub dropout: f64,
    /// The digest of the `splits.json` that chose the images which it was trained on: kept in the tensors' file, where PEFT
    /// leaves it alone and copies of the folder have it.
    pub splits_digest: Option<Digest>,
    /// The changes, by module.
    pub layers: BTreeMap<String, NewLayer>,
}

/// The change of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct NewLayer {
    /// Its rank.
    pub rank: usize,
    /// Its alpha.
    pub alpha: f64,
    /// `[rank, in]`.
    pub down: tensors::Tensor,
    /// `[out, rank]`.
    pub up: tensors::Tensor,
    /// `[out]`, for DoRA.
    pub magnitude: Option<tensors::Tensor>,
}

/// The name of PEFT's configuration in an adapter's folder.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The name of the tensors in an adapter's folder.
pub const ADAPTER_TENSORS: &str = "adapter_model.safetensors";

/// Where the tensors' file says which splits chose the images.
pub(super) const SPLITS: &str = "splits_digest";

impl NewAdapter {
    /// Writes PEFT's two files into the folder `dir`; returns their digests by name.
    ///
    /// # Errors
    /// [`artifact::Error::Io`].
    pub fn save(&self, dir: &Path) -> artifact::Result<BTreeMap<String, Digest>> {
        let mut config = serde_json::to_vec_pretty(&self.config()).expect("a JSON value");
        config.push(b'\n');
        atomic::write_bytes(&dir.join(ADAPTER_CONFIG), &config)?;
        let origin = self
            .splits_digest
            .map(|d| (SPLITS.to_owned(), d.to_string()));
        let tensors = tensors::save(
            &dir.join(ADAPTER_TENSORS),
            &self.tensors(),
            &origin.into_iter().collect(),
        )?;
        Ok(BTreeMap::from([
            (ADAPTER_CONFIG.to_owned(), Digest::of_bytes(&config)),
            (ADAPTER_TENSORS.to_owned(), tensors),
        ]))
    }

    fn config(&self) -> Value {
        json!({
            "alpha_pattern": self.pattern(|layer| (layer.alpha.to_bits() != self.alpha.to_bits()).then(|| number(layer.alpha))),
            "base_model_name_or_path": null,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "lora_alpha": number(self.alpha),
            "lora_dropout": self.dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": self.pattern(|layer| (layer.rank != self.rank).then(|| layer.rank.into())),
            "revision": null,
            "target_modules": self.target_modules,
            "task_type": null,
            "use_dora": self.dora,
            "use_rslora": self.rank_stabilised,
        })
    }

    /// The layers whose value differs from the general one, by their whole names: no pattern can name another one as well.
    fn pattern(&self, differs: impl Fn(&NewLayer) -> Option<Value>) -> Value {
        let layers = self.layers.iter();
        layers
            .filter_map(|(module, layer)| Some((module.clone(), differs(layer)?)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    fn tensors(&self) -> BTreeMap<String, tensors::Tensor> {
        let mut tensors = BTreeMap::new();
        for (module, layer) in &self.layers {
            let name = |part: Part| format!("{WRAPPER}{module}.{}", part.name());
            tensors.insert(name(Part::Down), layer.down.clone());
            tensors.insert(name(Part::Up), layer.up.clone());
            if let Some(magnitude) = &layer.magnitude {
                tensors.insert(name(Part::Magnitude), magnitude.clone());
            }
        }
        tensors
    }
}

/// A whole number without a point, as PEFT writes it.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return json!(value as i64);
    }
    json!(value)
}
