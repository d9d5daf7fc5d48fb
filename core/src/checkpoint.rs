//! What the trainer hands to the exporter: a head, what it was trained on and with, and a few inputs with the outputs
//! that any other implementation must reproduce.
//!
//! A folder of `checkpoint.json` (this module's [`Checkpoint`]), `head.safetensors` (the tensors of
//! [`HeadSpec::tensors`]) and `reference.safetensors` (`pixel_values` [n, 3, H, W], `features` [n, F], `logits` [n, K],
//! with a gate `gate` `[n]`: libtorch's outputs). The backbone's weights are not copied; its digest says which they are. Phase
//! `peft` (and, where it trains adapters, `explora-supervised`) adds the folder `adapter` as Hugging Face PEFT saves it, which
//! is merged into those weights.

use crate::{
    artifact::{
        self, Digest, Document, json,
        tensors::{self, Tensor, TensorFile},
    },
    config::{BackboneConfig, Phase},
    folder,
    model::{
        self, ADAPTER_CONFIG, ADAPTER_TENSORS, Adapter, BackboneSpec, Blocks, GateSpec, HeadSpec,
        NewAdapter, Weights,
    },
    preprocess::PreprocessSpec,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

const DOCUMENT: &str = "checkpoint.json";
const HEAD: &str = "head.safetensors";
const REFERENCE: &str = "reference.safetensors";
const ADAPTER: &str = "adapter";

/// A trained classifier, without its backbone's weights.
///
/// It holds no times, hosts or absolute paths: the same training gives the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The format's version.
    pub schema_version: u32,
    /// The kind of training.
    pub phase: Phase,
    /// The backbone's architecture.
    pub backbone: BackboneSpec,
    /// The digest of the backbone's architecture and weights, after the adapter was merged into them.
    pub backbone_digest: Digest,
    /// The head's architecture.
    pub head: HeadSpec,
    /// The gate's, if there is one; its tensors lie beside the head's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateSpec>,
    /// The classes' names, in the order of the logits.
    pub labels: Vec<String>,
    /// How an image becomes the backbone's input.
    pub preprocess: PreprocessSpec,
    /// The seed of all randomness.
    pub seed: u64,
    /// The number of libtorch's threads, on which the last bits of sums depend.
    pub threads: usize,
    /// The epoch whose head this is, from 1.
    pub epoch: usize,
    /// How many epochs were run before the training ended or was stopped.
    pub epochs_run: usize,
    /// Metrics on val_select at `epoch`, all finite.
    pub metrics: BTreeMap<String, f64>,
    /// The digest of the `splits.json` that chose the images.
    pub splits_digest: Digest,
    /// The digest of the `checkpoint.json` that the training started from, if it did; it was of the same splits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_digest: Option<Digest>,
    /// The digest of everything that the training depended on: the same inputs need no second training.
    pub inputs_digest: Digest,
    /// The digests of the files beside this one, by name.
    pub files: BTreeMap<String, Digest>,
}

impl Document for Checkpoint {
    const KIND: &'static str = "checkpoint.json";
    const SCHEMA_VERSION: u32 = 2;

    fn validate(&self) -> Result<(), String> {
        if self.labels.len() != self.head.classes || self.labels.len() < 2 {
            return Err(format!(
                "{} labels for a head of {} classes (at least 2, one label each)",
                self.labels.len(),
                self.head.classes
            ));
        }
        if self.gate.is_some() && self.head.trunk().is_none() {
            return Err(
                "a gate reads the hidden layer of an mlp head; this head has none".to_owned(),
            );
        }
        let depth = match &self.backbone {
            BackboneSpec::Vit(vit) => Some(vit.layers),
            BackboneSpec::ConvNext(_) => None,
        };
        let read: Vec<usize> = self.head.blocks.into();
        if !read.is_empty() && read.last().copied() != depth {
            return Err(format!(
                "a head that reads the blocks {read:?} of a backbone that ends elsewhere"
            ));
        }
        if let Some((name, value)) = self.metrics.iter().find(|(_, value)| !value.is_finite()) {
            return Err(format!(
                "metric `{name}` is {value}: a checkpoint holds finite metrics only"
            ));
        }
        if self.epoch == 0 || self.epoch > self.epochs_run {
            return Err(format!(
                "epoch {} of {} epochs run",
                self.epoch, self.epochs_run
            ));
        }
        let files: Vec<_> = self.files.keys().cloned().collect();
        let mut want = vec![HEAD.to_owned(), REFERENCE.to_owned()];
        if self.has_adapter() {
            want.splice(0..0, [ADAPTER_CONFIG, ADAPTER_TENSORS].map(in_adapter));
        }
        if files != want {
            return Err(format!("lists the files {files:?}, expected {want:?}"));
        }
        Ok(())
    }
}

impl Checkpoint {
    /// Reads the folder `dir` and checks its files: their digests, the head's tensors against the head's architecture,
    /// and the reference tensors' shapes, which must be finite throughout.
    ///
    /// # Errors
    /// [`artifact::Error`], naming the file and, where there is one, the tensor.
    pub fn load(dir: &Path) -> artifact::Result<Self> {
        let (checkpoint, _): (Self, _) = json::load(&dir.join(DOCUMENT))?;
        let head = checkpoint.head_file(dir)?;
        for (name, shape) in checkpoint.head_tensors() {
            finite(&head, &name, &head.f32_of_shape(&name, &shape)?)?;
        }
        checkpoint.check_reference(&checkpoint.reference_file(dir)?)?;
        for (name, want) in &checkpoint.files {
            let (path, want) = (dir.join(name), *want);
            let got = Digest::of_file(&path)?;
            if got != want {
                return Err(artifact::Error::DigestMismatch { path, want, got });
            }
        }
        Ok(checkpoint)
    }

    /// Names and shapes of the tensors of head and gate.
    pub fn head_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let head = self.head.tensors(self.backbone.hidden());
        head.into_iter().chain(self.gate_tensors()).collect()
    }

    /// Names and shapes of the gate's tensors; none without one.
    pub fn gate_tensors(&self) -> Vec<(String, Vec<usize>)> {
        match (self.gate, self.head.trunk()) {
            (Some(gate), Some(trunk)) => gate.tensors(trunk),
            _ => Vec::new(),
        }
    }

    /// Whether an adapter belongs to it.
    pub fn has_adapter(&self) -> bool {
        match self.phase {
            Phase::Peft => true,
            // There it is optional.
            Phase::ExploraSupervised => self.files.contains_key(&in_adapter(ADAPTER_CONFIG)),
            Phase::Baseline | Phase::Gate | Phase::Explora => false,
        }
    }

    /// The backbone that the head reads: the weights of `backbone`
    /// ([`Config::supervised_backbone`](crate::config::Config::supervised_backbone)), with the checkpoint's adapter merged
    /// into them if it has one.
    ///
    /// # Errors
    /// As [`BackboneConfig::open`], [`Adapter::open`] and [`Weights::merged`].
    pub fn weights(&self, dir: &Path, backbone: &BackboneConfig) -> model::Result<Weights> {
        let weights = backbone.open_blocks(self.blocks(backbone))?;
        match self.has_adapter() {
            true => weights.merged(&Adapter::open(&dir.join(ADAPTER))?),
            false => Ok(weights),
        }
    }

    /// As configured, or as training has chosen.
    fn blocks(&self, backbone: &BackboneConfig) -> Blocks {
        match (backbone.blocks.is_auto(), &self.backbone) {
            (true, BackboneSpec::Vit(vit)) => Blocks::First(vit.layers),
            _ => backbone.blocks.fixed(),
        }
    }

    /// The checkpoint's adapter, if it has one.
    ///
    /// # Errors
    /// As [`Adapter::open`].
    pub fn adapter(&self, dir: &Path) -> model::Result<Option<Adapter>> {
        let open = || Adapter::open(&dir.join(ADAPTER));
        self.has_adapter().then(open).transpose()
    }

    /// The checkpoint that an adapter's folder lies in, if it is one of ours; its files aren't read.
    pub fn around_adapter(adapter: &Path) -> Option<Self> {
        let adapter = adapter.canonicalize().ok()?;
        let dir = adapter
            .parent()
            .filter(|dir| dir.join(ADAPTER) == adapter)?;
        let (checkpoint, _): (Self, _) = json::load(&dir.join(DOCUMENT)).ok()?;
        checkpoint.has_adapter().then_some(checkpoint)
    }

    /// The head's tensors, of the recorded digest.
    ///
    /// # Errors
    /// [`artifact::Error`].
    pub fn head_file(&self, dir: &Path) -> artifact::Result<TensorFile> {
        TensorFile::open_verified(&dir.join(HEAD), self.files[HEAD])
    }

    /// The reference inputs and outputs, of the recorded digest.
    ///
    /// # Errors
    /// [`artifact::Error`].
    pub fn reference_file(&self, dir: &Path) -> artifact::Result<TensorFile> {
        TensorFile::open_verified(&dir.join(REFERENCE), self.files[REFERENCE])
    }

    /// The digest of `checkpoint.json`, and by it of everything in the folder.
    pub fn digest(&self) -> Digest {
        Digest::of_bytes(&json::to_bytes(self))
    }

    /// The width of the features that the head reads.
    pub fn feature_width(&self) -> usize {
        self.head.width(self.backbone.hidden())
    }

    /// Writes the folder `dir` and fills in [`Checkpoint::files`]. What was in `dir` stays until the new folder is
    /// complete beside it, and is then replaced as a whole.
    ///
    /// # Errors
    /// [`artifact::Error`]; `dir` then is what it was before.
    pub fn save(
        &mut self,
        dir: &Path,
        head: &BTreeMap<String, Tensor>,
        reference: &BTreeMap<String, Tensor>,
        adapter: Option<&NewAdapter>,
    ) -> artifact::Result<()> {
        folder::write(dir, |staged| self.fill(staged, head, reference, adapter))
    }

    fn fill(
        &mut self,
        staged: &Path,
        head: &BTreeMap<String, Tensor>,
        reference: &BTreeMap<String, Tensor>,
        adapter: Option<&NewAdapter>,
    ) -> artifact::Result<()> {
        let none = BTreeMap::new();
        self.files = BTreeMap::from([
            (
                HEAD.to_owned(),
                tensors::save(&staged.join(HEAD), head, &none)?,
            ),
            (
                REFERENCE.to_owned(),
                tensors::save(&staged.join(REFERENCE), reference, &none)?,
            ),
        ]);
        if let Some(adapter) = adapter {
            let files = adapter.save(&staged.join(ADAPTER))?;
            let files = files.into_iter();
            self.files
                .extend(files.map(|(name, digest)| (in_adapter(&name), digest)));
        }
        json::save(self, &staged.join(DOCUMENT))?;
        Self::load(staged)?;
        Ok(())
    }

    fn check_reference(&self, file: &TensorFile) -> artifact::Result<()> {
        let (shape, pixels) = file.f32("pixel_values")?;
        let [n, 3, _, _] = shape[..] else {
            return Err(artifact::Error::TensorShape {
                path: file.path().to_owned(),
                name: "pixel_values".to_owned(),
                got: shape,
                want: "[n, 3, height, width]".to_owned(),
            });
        };
        finite(file, "pixel_values", &pixels)?;
        let features = file.f32_of_shape("features", &[n, self.feature_width()])?;
        finite(file, "features", &features)?;
        if self.gate.is_some() {
            finite(file, "gate", &file.f32_of_shape("gate", &[n])?)?;
        }
        finite(
            file,
            "logits",
            &file.f32_of_shape("logits", &[n, self.head.classes])?,
        )
    }
}

fn in_adapter(name: &str) -> String {
    format!("{ADAPTER}/{name}")
}

fn finite(file: &TensorFile, name: &str, values: &[f32]) -> artifact::Result<()> {
    let Some(at) = values.iter().position(|x| !x.is_finite()) else {
        return Ok(());
    };
    Err(artifact::Error::Invalid {
        path: file.path().to_owned(),
        kind: "checkpoint",
        reason: format!(
            "tensor `{name}` holds {} at position {at}; train again",
            values[at]
        ),
    })
}
