//! What self-supervised training leaves: a backbone as a Hugging Face folder, and the record of how it came about.
//!
//! `config.json` and `model.safetensors` are those of any backbone, so that the folder can be a `backbone.path` anywhere;
//! `explora.json` (this module's [`Pretrained`]) says from which weights, which images and which splits they are. Licences of
//! the first weights come along.

use crate::{
    artifact::{self, Digest, Document, atomic, json},
    config::ExploraConfig,
    folder,
    model::Weights,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::Path};

const DOCUMENT: &str = "explora.json";

/// The record of a self-supervised training.
///
/// It holds no times, hosts or absolute paths: the same training gives the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pretrained {
    /// The format's version.
    pub schema_version: u32,
    /// The digest of the weights that it began with.
    pub base_digest: Digest,
    /// The digest of the weights that it left.
    pub backbone_digest: Digest,
    /// The digest of the `splits.json` whose held-out images were not used.
    pub splits_digest: Digest,
    /// The digest of everything that the training depended on: the same inputs need no second training.
    pub inputs_digest: Digest,
    /// The settings, without paths.
    pub settings: ExploraConfig,
    /// The seed of all randomness.
    pub seed: u64,
    /// The number of libtorch's threads, on which the last bits of sums depend.
    pub threads: usize,
    /// Which images were used, and which weren't.
    pub images: ImagesUsed,
    /// Blocks that were trained whole.
    pub unfrozen_blocks: Vec<usize>,
    /// Layers of other blocks that were changed by LoRA, which is merged into them.
    pub adapted_modules: Vec<String>,
    /// Optimiser steps.
    pub steps: usize,
    /// The last epoch's losses and measures, all finite.
    pub metrics: BTreeMap<String, f64>,
    /// The digests of the files beside this one, by name.
    pub files: BTreeMap<String, Digest>,
}

/// Which images a self-supervised training used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesUsed {
    /// Of the split `train`.
    pub train: usize,
    /// Of the unlabelled folders.
    pub unlabelled: usize,
    /// Of the unlabelled folders, left out because they are in val_select, val_calib or val_test, byte for byte.
    pub held_out: usize,
    /// Left out because they are nearly the same as one there.
    pub nearly_held_out: usize,
    /// Left out because they are there twice, or in `train`.
    pub repeated: usize,
    /// Left out because they can't be decoded.
    pub unreadable: usize,
    /// The digest of the contents that were used, in the order of use.
    pub digest: Option<Digest>,
}

impl ImagesUsed {
    /// How many were used.
    pub fn count(&self) -> usize {
        self.train + self.unlabelled
    }
}

impl Document for Pretrained {
    const KIND: &'static str = DOCUMENT;
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        match self.metrics.iter().find(|(_, value)| !value.is_finite()) {
            None => Ok(()),
            Some((name, value)) => Err(format!(
                "metric `{name}` is {value}: a backbone is kept with finite metrics only"
            )),
        }
    }
}

impl Pretrained {
    /// Whether a folder holds such a record.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(DOCUMENT).exists()
    }

    /// Reads the record in the folder `dir` and checks the digests of its files.
    ///
    /// # Errors
    /// [`artifact::Error`], naming the file.
    pub fn load(dir: &Path) -> artifact::Result<Self> {
        let (record, _): (Self, _) = json::load(&dir.join(DOCUMENT))?;
        for (name, want) in &record.files {
            want.verify_file(&dir.join(name))?;
        }
        Ok(record)
    }

    /// Reads the record alone.
    ///
    /// # Errors
    /// [`artifact::Error`], naming the file.
    pub fn read(dir: &Path) -> artifact::Result<Self> {
        Ok(json::load(&dir.join(DOCUMENT))?.0)
    }

    /// Writes the folder `dir` with `weights` and with the licences beside the first ones, which lie in `base`, and fills in
    /// [`Pretrained::files`]. What was in `dir` stays until the new folder is complete beside it, and is then replaced as a
    /// whole.
    ///
    /// # Errors
    /// [`artifact::Error`]; `dir` then is what it was before.
    pub fn save(&mut self, dir: &Path, weights: &Weights, base: &Path) -> artifact::Result<()> {
        folder::write(dir, |staged| self.fill(staged, weights, base))
    }

    fn fill(&mut self, staged: &Path, weights: &Weights, base: &Path) -> artifact::Result<()> {
        self.files = weights.save(staged)?;
        for name in licences(base)? {
            let bytes = fs::read(base.join(&name)).map_err(io("read", &base.join(&name)))?;
            atomic::write_bytes(&staged.join(&name), &bytes)?;
            self.files.insert(name, Digest::of_bytes(&bytes));
        }
        json::save(self, &staged.join(DOCUMENT))?;
        Self::load(staged)?;
        Ok(())
    }
}

/// Files whose names say that they are about the licence.
fn licences(dir: &Path) -> artifact::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io("list", dir))? {
        let entry = entry.map_err(io("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let starts = ["LICENSE", "LICENCE", "NOTICE"];
        let is_one = starts.iter().any(|s| name.to_uppercase().starts_with(s));
        if is_one && entry.path().is_file() {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> artifact::Error {
    let path = path.to_owned();
    move |source| artifact::Error::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BackboneSpec;

    fn record(metrics: &[(&str, f64)]) -> Pretrained {
        let digest = Digest::of_bytes(b"any");
        Pretrained {
            schema_version: 1,
            base_digest: digest,
            backbone_digest: digest,
            splits_digest: digest,
            inputs_digest: digest,
            settings: ExploraConfig::default(),
            seed: 1,
            threads: 1,
            images: ImagesUsed::default(),
            unfrozen_blocks: vec![1],
            adapted_modules: Vec::new(),
            steps: 3,
            metrics: metrics
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
            files: BTreeMap::new(),
        }
    }

    fn goldens() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones/dinov2")
    }

    #[test]
    fn a_folder_is_written_whole_and_any_change_of_it_is_noticed() {
        let weights = Weights::open(&goldens()).unwrap();
        let parent = tempfile::tempdir().unwrap();
        let (dir, base) = (parent.path().join("explora"), parent.path().join("base"));
        fs::create_dir(&base).unwrap();
        fs::write(base.join("LICENSE.txt"), "yours").unwrap();
        fs::write(base.join("other.txt"), "not this").unwrap();
        record(&[("loss", 1.0)])
            .save(&dir, &weights, &base)
            .unwrap();
        let names: Vec<_> = Pretrained::load(&dir).unwrap().files.into_keys().collect();
        assert_eq!(names, ["LICENSE.txt", "config.json", "model.safetensors"]);
        assert!(Pretrained::is_in(&dir) && !Pretrained::is_in(&base));
        let back = Weights::open(&dir).unwrap();
        assert_eq!(back.digest(), weights.digest());
        assert!(matches!(back.spec(), BackboneSpec::Vit(_)));

        let refused = record(&[("loss", f64::NAN)]).save(&dir, &weights, &base);
        assert!(refused.unwrap_err().to_string().contains("`loss` is NaN"));
        Pretrained::load(&dir).unwrap();
        fs::write(dir.join("config.json"), "{}").unwrap();
        let error = Pretrained::load(&dir).unwrap_err().to_string();
        assert!(error.contains("config.json"), "{error}");
    }
}
