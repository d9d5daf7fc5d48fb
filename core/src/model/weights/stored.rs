//! Where a Hugging Face folder keeps its tensors: in `model.safetensors`, or in the files that
//! `model.safetensors.index.json` names.

use crate::{
    artifact::{self, tensors::TensorFile},
    model::{ModelError, Result},
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The tensors of a folder.
pub(super) struct Stored {
    path: PathBuf,
    files: Vec<TensorFile>,
    /// Tensor → shape and file.
    index: BTreeMap<String, (Vec<usize>, usize)>,
}

/// `model.safetensors.index.json`; its `metadata` says nothing that the files don't.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Stored {
    /// Reads the one file, or, where there is an index instead, all that it names.
    ///
    /// # Errors
    /// [`ModelError::Artifact`] when a file can't be read, [`ModelError::ShardIndex`] when index and files disagree.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let whole = dir.join("model.safetensors");
        let index = dir.join("model.safetensors.index.json");
        if whole.exists() || !index.exists() {
            let files = vec![TensorFile::open(&whole)?];
            return Self::of(whole, files);
        }
        let map = read_index(&index)?;
        let names: BTreeSet<_> = map.values().collect();
        let open = |name: &&String| -> Result<TensorFile> {
            check_name(&index, name)?;
            Ok(TensorFile::open(&dir.join(name.as_str()))?)
        };
        let files = names.iter().map(open).collect::<Result<_>>()?;
        let stored = Self::of(index, files)?;
        stored.check_index(&map)?;
        Ok(stored)
    }

    fn of(path: PathBuf, files: Vec<TensorFile>) -> Result<Self> {
        let mut index = BTreeMap::new();
        for (at, file) in files.iter().enumerate() {
            for (name, shape) in file.shapes()? {
                if let Some((_, first)) = index.insert(name.clone(), (shape, at)) {
                    let (first, second) = (file_name(&files[first]), file_name(file));
                    let reason = format!("tensor `{name}` is in {first} and in {second}");
                    return Err(ModelError::ShardIndex { path, reason });
                }
            }
        }
        Ok(Self { path, files, index })
    }

    /// What messages call it: the file, or the index.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Names and shapes.
    pub(super) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let shape =
            |(name, (shape, _)): (&String, &(Vec<usize>, usize))| (name.clone(), shape.clone());
        self.index.iter().map(shape).collect()
    }

    /// The values of a tensor that is there, and of this shape; half precision is widened.
    pub(super) fn f32_of_shape(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (_, file) = &self.index[name];
        Ok(self.files[*file].f32_of_shape(name, shape)?)
    }

    /// Every tensor lies where the index says, and the index says where every tensor lies.
    fn check_index(&self, map: &BTreeMap<String, String>) -> Result<()> {
        let place = |name: &str| {
            let (_, file) = self.index.get(name)?;
            Some(file_name(&self.files[*file]))
        };
        let misplaced = map
            .iter()
            .find(|(name, file)| place(name).as_ref() != Some(file));
        let unlisted = self.index.keys().find(|name| !map.contains_key(*name));
        let reason = match (misplaced, unlisted) {
            (Some((name, file)), _) => format!("tensor `{name}` is not in {file}"),
            (_, Some(name)) => format!("tensor `{name}` is not listed"),
            (None, None) => return Ok(()),
        };
        let path = self.path.clone();
        Err(ModelError::ShardIndex { path, reason })
    }
}

fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let bytes = fs::read(path).map_err(|source| artifact::Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| ModelError::ShardIndex {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    match index.weight_map.is_empty() {
        true => Err(ModelError::ShardIndex {
            path: path.to_owned(),
            reason: "`weight_map` is empty".to_owned(),
        }),
        false => Ok(index.weight_map),
    }
}

/// A file beside the index: an index can't make us read elsewhere.
fn check_name(index: &Path, name: &str) -> Result<()> {
    if Path::new(name)
        .file_name()
        .is_some_and(|plain| plain == name)
        && !name.contains('\\')
    {
        return Ok(());
    }
    Err(ModelError::ShardIndex {
        path: index.to_owned(),
        reason: format!("{name:?} is not the name of a file beside it"),
    })
}

fn file_name(file: &TensorFile) -> String {
    let name = file.path().file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
