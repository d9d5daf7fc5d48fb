//! LoRA, rsLoRA and DoRA adapters in Hugging Face PEFT's own layout (`adapter_config.json`,
//! `adapter_model.safetensors`), merged into a backbone's weights.
//!
//! - LoRA (Hu et al., arXiv 2106.09685): W + s B A with s = α / r;
//! - rsLoRA (Kalajdzievski, arXiv 2312.03732): the same with s = α / √r;
//! - DoRA (Liu et al., arXiv 2402.09353): diag(m / ‖W + s B A‖) (W + s B A), the norm taken per row (output).
//!
//! A merged backbone computes what PEFT computes with the adapter active (in evaluation, where nothing is dropped), up to
//! float32 rounding.

mod config;
mod error;
mod layout;
#[cfg(test)]
mod tests;

pub use error::AdapterError;
pub use layout::{ADAPTER_CONFIG, ADAPTER_TENSORS, AdaptableLayer, Naming, NewAdapter, NewLayer};

use super::{BackboneSpec, Result, Role, VitSpec, Weights};
use crate::artifact::{Digest, tensors::TensorFile};
use config::Config;
use error::AdapterError as E;
use layout::SPLITS;
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

/// What PEFT puts before the names of the wrapped model.
const WRAPPER: &str = "base_model.model.";

/// An adapter: low-rank changes of linear layers, not yet matched with a backbone.
#[derive(Debug, Clone)]
pub struct Adapter {
    path: PathBuf,
    splits_digest: Option<Digest>,
    /// By the adapted module's name in the wrapped model.
    changes: BTreeMap<String, Change>,
}

/// The change of one linear layer.
#[derive(Debug, Clone)]
struct Change {
    scale: f64,
    rank: usize,
    /// `[rank, in]`.
    down: Vec<f32>,
    /// `[out, rank]`.
    up: Vec<f32>,
    /// DoRA's length of each row of the result, `[out]`.
    magnitude: Option<Vec<f32>>,
}

/// The change of one linear layer, as an adapter holds it.
#[derive(Debug, Clone, Copy)]
pub struct AdapterChange<'a> {
    /// What B A is multiplied with.
    pub scale: f64,
    /// The inner width.
    pub rank: usize,
    /// A: `[rank, in]`.
    pub down: &'a [f32],
    /// B: `[out, rank]`.
    pub up: &'a [f32],
    /// DoRA's length of each row, `[out]`.
    pub magnitude: Option<&'a [f32]>,
}

impl Adapter {
    /// Reads the folder `dir`.
    ///
    /// # Errors
    /// [`AdapterError`] names the configuration key or the tensor that isn't understood, is missing, or has another shape
    /// than the others imply.
    pub fn open(dir: &Path) -> Result<Self> {
        let config = Config::read(&dir.join(ADAPTER_CONFIG))?;
        let file = TensorFile::open(&dir.join(ADAPTER_TENSORS))?;
        let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
        for name in file.shapes()?.into_keys() {
            let Some(inside) = name.strip_prefix(WRAPPER) else {
                return Err(unknown(&file, name))?;
            };
            if config.is_saved_whole(inside) {
                continue;
            }
            let Some((module, part)) = Part::of(inside) else {
                return Err(unknown(&file, name))?;
            };
            modules
                .entry(module.to_owned())
                .or_default()
                .insert(part, name);
        }
        let changes = modules
            .into_iter()
            .map(|(module, parts)| {
                let change = parts.read(&file, &config, &module)?;
                Ok((module, change))
            })
            .collect::<Result<BTreeMap<_, _>>>()?;
        if changes.is_empty() {
            return Err(E::Empty {
                path: file.path().to_owned(),
            })?;
        }
        Ok(Self {
            splits_digest: splits_digest(&file)?,
            path: file.path().to_owned(),
            changes,
        })
    }

    /// The digest of the `splits.json` that chose the images which it was trained on; none where it doesn't say.
    pub fn splits_digest(&self) -> Option<Digest> {
        self.splits_digest
    }

    /// The change of the layer `module`, if it is adapted.
    pub fn change(&self, module: &str) -> Option<AdapterChange<'_>> {
        let change = self.changes.get(module)?;
        Some(AdapterChange {
            scale: change.scale,
            rank: change.rank,
            down: &change.down,
            up: &change.up,
            magnitude: change.magnitude.as_deref(),
        })
    }

    /// The names of the adapted modules in the model that PEFT wrapped, sorted.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.changes.keys().map(String::as_str)
    }
}

fn splits_digest(file: &TensorFile) -> Result<Option<Digest>> {
    let metadata = file.metadata()?;
    let Some(text) = metadata.get(SPLITS) else {
        return Ok(None);
    };
    let digest = text.parse().map_err(|_| E::InvalidValue {
        path: file.path().to_owned(),
        key: SPLITS.to_owned(),
        got: format!("`{text}`"),
        want: "the SHA-256 of a splits.json",
    })?;
    Ok(Some(digest))
}

impl Weights {
    /// The weights with the adapter merged into them; sums are formed in double precision.
    ///
    /// # Errors
    /// [`AdapterError`] names the module that the backbone doesn't have, or whose shape is another.
    pub fn merged(mut self, adapter: &Adapter) -> Result<Self> {
        let layers = targets(self.spec());
        let mut merged: Vec<(&Target, &String)> = Vec::new();
        for (module, change) in &adapter.changes {
            let Some(target) = find(&layers, module) else {
                return Err(E::NoSuchLayer {
                    path: adapter.path.clone(),
                    module: module.clone(),
                    model_type: self.spec().model_type(),
                })?;
            };
            if change.shape() != target.shape {
                return Err(E::LayerShape {
                    path: adapter.path.clone(),
                    module: module.clone(),
                    got: change.shape(),
                    want: target.shape,
                })?;
            }
            if let Some((_, first)) = merged.iter().find(|(other, _)| other.overlaps(target)) {
                return Err(E::AdaptedTwice {
                    path: adapter.path.clone(),
                    first: (*first).clone(),
                    second: module.clone(),
                })?;
            }
            change.apply_to(&mut self.values_mut(target.role)[target.range()]);
            merged.push((target, module));
        }
        Ok(self)
    }
}

/// A linear layer that an adapter can change: a weight, or some of its rows.
struct Target {
    role: Role,
    first_row: usize,
    /// `[out, in]`.
    shape: [usize; 2],
}

impl Target {
    /// None for what isn't a linear layer's weight.
    fn new(role: Role, first_row: usize, shape: &[usize]) -> Option<Self> {
        let &[rows, columns] = shape else {
            return None;
        };
        Some(Self {
            role,
            first_row,
            shape: [rows, columns],
        })
    }

    /// Its values in the weight.
    fn range(&self) -> Range<usize> {
        let [rows, columns] = self.shape;
        self.first_row * columns..(self.first_row + rows) * columns
    }

    fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.range(), other.range());
        self.role == other.role && a.start < b.end && b.start < a.end
    }
}

/// The linear layers by their module's name: that of Hugging Face's files, and where transformers 5 renamed the modules of
/// DINOv2 without renaming what it saves, that of the modules, which PEFT sees.
fn targets(spec: &BackboneSpec) -> BTreeMap<String, Target> {
    let mut targets: BTreeMap<_, _> = linear_layers(spec).collect();
    if let BackboneSpec::Vit(vit) = spec {
        for (name, target) in renamed(vit) {
            targets.entry(name).or_insert(target);
        }
    }
    targets
}

/// The linear layers by the names of their modules in transformers 5.
fn renamed(vit: &VitSpec) -> impl Iterator<Item = (String, Target)> {
    vit.in_transformers5().into_iter().filter_map(|tensor| {
        let target = Target::new(tensor.role, tensor.first_row, &tensor.shape)?;
        Some((module(&tensor.name)?, target))
    })
}

fn linear_layers(spec: &BackboneSpec) -> impl Iterator<Item = (String, Target)> + use<> {
    spec.tensors().into_iter().filter_map(|tensor| {
        let target = Target::new(tensor.role, 0, &tensor.shape)?;
        Some((module(&tensor.name)?, target))
    })
}

/// The module that has this weight.
fn module(weight: &str) -> Option<String> {
    weight.strip_suffix(".weight").map(str::to_owned)
}

/// The layer that a module's name ends in: what precedes it is the path of the backbone inside the wrapped model.
fn find<'a>(layers: &'a BTreeMap<String, Target>, module: &str) -> Option<&'a Target> {
    let mut rest = Some(module);
    while let Some(name) = rest {
        if let Some(found) = layers.get(name) {
            return Some(found);
        }
        rest = name.split_once('.').map(|(_, rest)| rest);
    }
    None
}

impl Change {
    /// `[out, in]`.
    fn shape(&self) -> [usize; 2] {
        [self.up.len() / self.rank, self.down.len() / self.rank]
    }

    /// Changes a weight of this shape.
    fn apply_to(&self, weight: &mut [f32]) {
        let [_, inputs] = self.shape();
        for (out, row) in weight.chunks_exact_mut(inputs).enumerate() {
            let mut sum: Vec<f64> = row.iter().map(|w| f64::from(*w)).collect();
            let up = &self.up[out * self.rank..][..self.rank];
            for (b, a) in up.iter().zip(self.down.chunks_exact(inputs)) {
                let factor = self.scale * f64::from(*b);
                sum.iter_mut()
                    .zip(a)
                    .for_each(|(sum, a)| *sum += factor * f64::from(*a));
            }
            let stretch = self.magnitude.as_ref().map_or(1.0, |magnitude| {
                let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
                f64::from(magnitude[out]) / norm
            });
            row.iter_mut()
                .zip(sum)
                .for_each(|(value, sum)| *value = (sum * stretch) as f32);
        }
    }
}

/// What a tensor of an adapted module is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Down,
    Up,
    Magnitude,
}

impl Part {
    /// A tensor's name as module and part.
    fn of(name: &str) -> Option<(&str, Self)> {
        let suffixes = [
            (".lora_A.weight", Self::Down),
            (".lora_B.weight", Self::Up),
            (".lora_magnitude_vector", Self::Magnitude),
            // As some versions of PEFT saved it.
            (".lora_magnitude_vector.weight", Self::Magnitude),
        ];
        suffixes
            .into_iter()
            .find_map(|(suffix, part)| Some((name.strip_suffix(suffix)?, part)))
    }
}

/// The names of one module's tensors in the file.
#[derive(Default)]
struct Parts(BTreeMap<Part, String>);

impl Parts {
    fn insert(&mut self, part: Part, name: String) {
        self.0.insert(part, name);
    }

    fn read(&self, file: &TensorFile, config: &Config, module: &str) -> Result<Change> {
        config.check_target(module)?;
        let (rank, scale) = config.rank_and_scale(module)?;
        let (down_name, down_shape, down) = self.tensor(file, Part::Down, module)?;
        let (up_name, up_shape, up) = self.tensor(file, Part::Up, module)?;
        let (&[got_rank, _], &[_, up_rank]) = (&down_shape[..], &up_shape[..]) else {
            return Err(shape(file, down_name, &down_shape, "two axes"))?;
        };
        if got_rank != rank {
            let want = format!("[{rank}, in]: `r` or `rank_pattern` says so");
            return Err(shape(file, down_name, &down_shape, want))?;
        }
        if up_rank != rank {
            let want = format!("[out, {rank}]");
            return Err(shape(file, up_name, &up_shape, want))?;
        }
        let change = Change {
            scale,
            rank,
            magnitude: self.magnitude(file, config, module, up_shape[0])?,
            down,
            up,
        };
        change.check_finite(file, module)?;
        Ok(change)
    }

    fn tensor(
        &self,
        file: &TensorFile,
        part: Part,
        module: &str,
    ) -> Result<(&str, Vec<usize>, Vec<f32>)> {
        let Some(name) = self.0.get(&part) else {
            return Err(E::MissingPart {
                path: file.path().to_owned(),
                module: module.to_owned(),
                part: part.name(),
            })?;
        };
        let (shape, values) = file.f32(name)?;
        Ok((name, shape, values))
    }

    fn magnitude(
        &self,
        file: &TensorFile,
        config: &Config,
        module: &str,
        outputs: usize,
    ) -> Result<Option<Vec<f32>>> {
        match (config.use_dora(), self.0.get(&Part::Magnitude)) {
            (false, None) => Ok(None),
            (false, Some(name)) => Err(unknown(file, name.clone()))?,
            (true, _) => {
                let (name, got, values) = self.tensor(file, Part::Magnitude, module)?;
                if got != [outputs] {
                    return Err(shape(file, name, &got, format!("[{outputs}]")))?;
                }
                Ok(Some(values))
            }
        }
    }
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Down => "lora_A.weight",
            Self::Up => "lora_B.weight",
            Self::Magnitude => "lora_magnitude_vector",
        }
    }
}

impl Change {
    fn check_finite(&self, file: &TensorFile, module: &str) -> Result<()> {
        let all = [Some(&self.down), Some(&self.up), self.magnitude.as_ref()];
        let bad = all
            .into_iter()
            .flatten()
            .flatten()
            .find(|value| !value.is_finite());
        match bad {
            None => Ok(()),
            Some(value) => Err(E::NonFinite {
                path: file.path().to_owned(),
                module: module.to_owned(),
                value: *value,
            })?,
        }
    }
}

fn unknown(file: &TensorFile, name: String) -> AdapterError {
    E::UnknownTensor {
        path: file.path().to_owned(),
        name,
    }
}

fn shape(file: &TensorFile, name: &str, got: &[usize], want: impl Into<String>) -> AdapterError {
    E::TensorShape {
        path: file.path().to_owned(),
        name: name.to_owned(),
        got: got.to_vec(),
        want: want.into(),
    }
}
