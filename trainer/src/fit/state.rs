//! The state of a training on disk: one safetensors file, written whole or not at all.
//!
//! It holds `parameters`, `average`, `first_moment`, `second_moment` and (once an epoch has ended) `best`, all `[n]`, and
//! as metadata everything else as JSON, with a digest of the content. Draws are functions of seed and position, so that
//! there is no generator to save.

use super::{Position, Run, Seen};
use crate::{
    Error, Result, events::EpochRecord, head::values, optimiser::Moments, selection::Standing,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use stage1_core::artifact::{
    self, Digest, Hasher,
    tensors::{self, Tensor as StoredTensor, TensorFile},
};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tch::Tensor;

const VERSION: u32 = 2;
const NOTES: &str = "training";
const CONTENT: &str = "content";

/// What a training was made from: a state goes on only with the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The digest of everything.
    pub inputs: Digest,
    /// The backbone's.
    pub backbone: Digest,
    /// The splits'.
    pub splits: Digest,
    /// The preprocessing's.
    pub preprocess: Digest,
}

impl Origin {
    /// In what another origin differs, in words.
    fn difference(&self, other: &Self) -> &'static str {
        if self.backbone != other.backbone {
            "another backbone"
        } else if self.splits != other.splits {
            "other splits"
        } else if self.preprocess != other.preprocess {
            "another preprocessing"
        } else {
            "other settings"
        }
    }
}

/// Everything but the tensors of a supervised training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notes {
    position: Position,
    seen: Seen,
    steps: usize,
    standing: Standing,
    records: Vec<EpochRecord>,
}

/// A training's notes, with what the file says about its origin.
#[derive(Serialize, Deserialize)]
struct Document<N> {
    version: u32,
    origin: Origin,
    /// libtorch's threads: the last bits of sums depend on their number.
    threads: usize,
    notes: N,
}

/// The part of a [`Document`] that every version has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// A training that can go on: tensors, and in `notes` everything else.
pub struct State<N = Notes> {
    /// libtorch's threads when it was saved.
    pub threads: usize,
    pub(crate) notes: N,
    pub(crate) tensors: BTreeMap<String, StoredTensor>,
}

impl<N> State<N> {
    /// A float tensor of the state.
    pub(crate) fn tensor(&self, name: &str) -> Option<Tensor> {
        match &self.tensors.get(name)?.values {
            tensors::Values::F32(values) => Some(Tensor::from_slice(values)),
            _ => None,
        }
    }

    /// The same, of so many values.
    ///
    /// # Errors
    /// [`Error::StateShape`].
    pub(crate) fn tensor_of(&self, name: &'static str, count: usize) -> Result<Tensor> {
        match self.tensor(name) {
            Some(tensor) if tensor.numel() == count => Ok(tensor),
            other => Err(Error::StateShape {
                name,
                got: other.map_or(0, |tensor| tensor.numel()),
                want: count,
            }),
        }
    }
}

/// A tensor as a state keeps it.
pub(crate) fn kept(tensor: &Tensor) -> StoredTensor {
    let values = values(tensor);
    StoredTensor::f32([values.len()], values)
}

impl State {
    /// The epochs that have ended.
    pub fn records(&self) -> &[EpochRecord] {
        &self.notes.records
    }

    /// The epoch and the step (from 0) where it goes on.
    pub fn position(&self) -> (usize, usize) {
        (self.notes.position.epoch, self.notes.position.step)
    }

    /// Images that the epoch under way has seen.
    pub fn images_seen(&self) -> usize {
        self.notes.seen.images
    }
}

impl Run<'_> {
    pub(super) fn state(&self) -> State {
        let moments = self.optimiser.moments();
        let named = [
            ("parameters", Some(&self.parameters)),
            ("average", Some(self.ema.average())),
            ("first_moment", Some(&moments.first)),
            ("second_moment", Some(&moments.second)),
            ("best", self.best.as_ref()),
        ];
        State {
            threads: 0,
            notes: Notes {
                position: self.position,
                seen: self.seen,
                steps: moments.steps,
                standing: self.selection.standing().clone(),
                records: self.records.clone(),
            },
            tensors: named
                .into_iter()
                .filter_map(|(name, tensor)| Some((name.to_owned(), kept(tensor?))))
                .collect(),
        }
    }

    /// # Errors
    /// [`Error::StateShape`] when it isn't one of this objective's.
    pub(super) fn restore(&mut self, state: State) -> Result<()> {
        let (count, device) = (self.parameters.numel(), self.parameters.device());
        let take = |name| -> Result<Tensor> { Ok(state.tensor_of(name, count)?.to_device(device)) };
        self.parameters = take("parameters")?.set_requires_grad(true);
        self.ema.restore(take("average")?, state.notes.steps);
        self.optimiser.restore(Moments {
            first: take("first_moment")?,
            second: take("second_moment")?,
            steps: state.notes.steps,
        });
        if !state.notes.records.is_empty() {
            self.best = Some(take("best")?);
        }
        self.selection.restore(state.notes.standing);
        self.position = state.notes.position;
        self.seen = state.notes.seen;
        self.records = state.notes.records;
        Ok(())
    }
}

/// Saves states, every so often.
pub struct Keeper {
    path: PathBuf,
    origin: Origin,
    threads: usize,
    every: Duration,
    last: Instant,
}

impl Keeper {
    /// Saves to the file `path` for trainings of this origin.
    pub fn new(path: PathBuf, origin: Origin, threads: usize, every: Duration) -> Self {
        Self {
            path,
            origin,
            threads,
            every,
            last: Instant::now(),
        }
    }

    /// Records that libtorch has this number of threads.
    pub fn set_threads(&mut self, threads: usize) {
        self.threads = threads;
    }

    /// The state that is there, if any.
    ///
    /// # Errors
    /// [`Error::StateOfAnother`] when it is of another training, [`Error::StateDamaged`].
    pub fn load<N: DeserializeOwned>(&self) -> Result<Option<State<N>>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let (document, tensors) =
            read(&self.path).map_err(|source| Error::StateDamaged { source })?;
        if document.origin != self.origin {
            return Err(Error::StateOfAnother {
                path: self.path.clone(),
                difference: document.origin.difference(&self.origin),
            });
        }
        Ok(Some(State {
            threads: document.threads,
            notes: document.notes,
            tensors,
        }))
    }

    /// Saves the state unless the last one is recent. The state before stays until the new one is complete.
    ///
    /// # Errors
    /// [`Error::SaveState`].
    pub fn save_if_due<N: Serialize>(&mut self, state: impl FnOnce() -> State<N>) -> Result<()> {
        if self.last.elapsed() < self.every {
            return Ok(());
        }
        let state = state();
        let document = Document {
            version: VERSION,
            origin: self.origin.clone(),
            threads: self.threads,
            notes: state.notes,
        };
        let notes = serde_json::to_string(&document).expect("plain data has a JSON form");
        let content = content_digest(&notes, &state.tensors);
        let metadata = BTreeMap::from([
            (NOTES.to_owned(), notes),
            (CONTENT.to_owned(), content.to_string()),
        ]);
        tensors::save(&self.path, &state.tensors, &metadata)
            .map_err(|source| Error::SaveState { source })?;
        self.last = Instant::now();
        Ok(())
    }

    /// Removes the state: the training has ended.
    ///
    /// # Errors
    /// [`artifact::Error::Io`].
    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(artifact::Error::Io {
                action: "remove",
                path: self.path.clone(),
                source,
            })?,
            _ => Ok(()),
        }
    }
}

fn read<N: DeserializeOwned>(
    path: &Path,
) -> artifact::Result<(Document<N>, BTreeMap<String, StoredTensor>)> {
    let invalid = |reason: String| artifact::Error::Invalid {
        path: path.to_owned(),
        kind: "training state",
        reason,
    };
    let file = TensorFile::open(path)?;
    let metadata = file.metadata()?;
    let Some(notes) = metadata.get(NOTES) else {
        return Err(invalid("it holds no training".to_owned()));
    };
    let mut tensors = BTreeMap::new();
    for name in file.shapes()?.into_keys() {
        let (shape, values) = file.f32(&name)?;
        tensors.insert(name, StoredTensor::f32(shape, values));
    }
    if metadata.get(CONTENT) != Some(&content_digest(notes, &tensors).to_string()) {
        return Err(invalid("its content isn't what was written".to_owned()));
    }
    // First, since what else there is depends on it.
    let Version { version } =
        serde_json::from_str(notes).map_err(|error| invalid(error.to_string()))?;
    if version != VERSION {
        return Err(invalid(format!(
            "another version of Stage1 wrote it (form {version}, this one reads {VERSION}); that one could go on with it"
        )));
    }
    let document = serde_json::from_str(notes).map_err(|error| invalid(error.to_string()))?;
    Ok((document, tensors))
}

fn content_digest(notes: &str, tensors: &BTreeMap<String, StoredTensor>) -> Digest {
    let mut hasher = Hasher::new();
    hasher
        .field(b"stage1 training state")
        .field(notes.as_bytes());
    for (name, tensor) in tensors {
        let tensors::Values::F32(values) = &tensor.values else {
            continue;
        };
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        hasher.field(name.as_bytes()).field(&bytes);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_another_version_says_so_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last.safetensors");
        let of = Digest::of_bytes;
        let origin = Origin {
            inputs: of(b"inputs"),
            backbone: of(b"backbone"),
            splits: of(b"splits"),
            preprocess: of(b"preprocess"),
        };
        // An older form had fewer notes, or others.
        let notes = r#"{"version": 1, "epoch": 3}"#.to_owned();
        let tensors =
            BTreeMap::from([("parameters".to_owned(), StoredTensor::f32([1], vec![0.5]))]);
        let content = content_digest(&notes, &tensors).to_string();
        let metadata = BTreeMap::from([(NOTES.to_owned(), notes), (CONTENT.to_owned(), content)]);
        tensors::save(&path, &tensors, &metadata).unwrap();
        let keeper = Keeper::new(path, origin, 1, Duration::ZERO);
        let message = keeper.load::<Notes>().err().unwrap().to_string();
        for part in [
            "last.safetensors",
            "another version of Stage1 wrote it (form 1, this one reads 2)",
            "--overwrite to start anew",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}
