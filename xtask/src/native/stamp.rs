//! `setup.json`: what a native folder was made from, and what must lie in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::component::Component;
use crate::files;

const FILE: &str = "setup.json";
const SCHEMA: u32 = 1;

/// The content of `setup.json`. It holds no absolute path: a clone can be moved.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamp {
    schema_version: u32,
    recipe: u32,
    /// SHA-256 of each wheel, by requirement.
    wheels: BTreeMap<String, String>,
    /// Length of each file, by its path below the folder.
    files: BTreeMap<String, u64>,
}

impl Stamp {
    /// The stamp of a folder that `component`'s steps have just made.
    pub(crate) fn of(folder: &Path, component: &Component) -> Result<Self> {
        let mut found = BTreeMap::new();
        list(folder, "", &mut found)?;
        Ok(Self {
            schema_version: SCHEMA,
            recipe: component.recipe,
            wheels: wheels(component),
            files: found,
        })
    }

    /// Whether `folder` carries a stamp of this component as it is made now, and every file that the stamp lists.
    pub(crate) fn holds(folder: &Path, component: &Component) -> bool {
        let Ok(bytes) = fs::read(folder.join(FILE)) else {
            return false;
        };
        let Ok(stamp) = serde_json::from_slice::<Self>(&bytes) else {
            return false;
        };
        stamp.schema_version == SCHEMA
            && stamp.recipe == component.recipe
            && stamp.wheels == wheels(component)
            && stamp.files.iter().all(|(path, size)| {
                fs::metadata(folder.join(path)).is_ok_and(|file| file.len() == *size)
            })
    }

    /// Writes it into the folder: the last step of making one.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        files::write_whole(&folder.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// The number of files.
    pub(crate) fn count(&self) -> usize {
        self.files.len()
    }

    /// Their length together.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().sum()
    }
}

fn wheels(component: &Component) -> BTreeMap<String, String> {
    let pins = component.parts.iter().map(|part| part.pin);
    pins.map(|pin| (pin.requirement.to_owned(), pin.sha256.to_owned()))
        .collect()
}

/// Adds the files below `folder/prefix`.
fn list(folder: &Path, prefix: &str, found: &mut BTreeMap<String, u64>) -> Result<()> {
    let here = folder.join(prefix);
    for entry in fs::read_dir(&here).with_context(|| format!("cannot read {}", here.display()))? {
        let entry = entry?;
        let name = entry
            .file_name()
            .into_string()
            .ok()
            .with_context(|| format!("odd name in {}", here.display()))?;
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            list(folder, &path, found)?;
        } else if path != FILE {
            found.insert(path, metadata.len());
        }
    }
    Ok(())
}
