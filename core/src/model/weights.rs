mod stored;

use super::{BackboneSpec, Blocks, ModelError, Result, Role, RopePeriods, TensorSpec};
use crate::artifact::{self, Digest, Hasher, atomic, tensors};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    io::Write as _,
    path::{Path, PathBuf},
};
use stored::Stored;

/// The architecture in a Hugging Face folder.
const CONFIG: &str = "config.json";
/// The weights there.
const TENSORS: &str = "model.safetensors";
const MASK_TOKEN: &str = "embeddings.mask_token";

/// A backbone's tensors in float32, checked against its [`BackboneSpec`].
#[derive(Clone)]
pub struct Weights {
    spec: BackboneSpec,
    tensors: BTreeMap<Role, (Vec<usize>, Vec<f32>)>,
}

/// Without the millions of values.
impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weights")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl Weights {
    /// Reads `config.json` and `model.safetensors` of a Hugging Face folder, or the files that
    /// `model.safetensors.index.json` names in its place.
    ///
    /// Names may carry one prefix (`dinov2.`, `backbone.`, …), DINOv3's blocks and stages may be nested in `model.`, and
    /// DINOv2's layers may have the names of transformers 5 (`save_original_format=False`).
    /// Half-precision files are widened. The mask token, poolers and classifiers are left out.
    ///
    /// # Errors
    /// As [`BackboneSpec::from_hf_config`]; or names the tensors that are missing, unknown, of another shape than the
    /// configuration says, or not finite.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_blocks(dir, Blocks::All)
    }

    /// As [`Weights::open`], of the first blocks only: those above are neither read nor needed.
    ///
    /// # Errors
    /// As [`Weights::open`] and [`BackboneSpec::with_blocks`].
    pub fn open_blocks(dir: &Path, blocks: Blocks) -> Result<Self> {
        let whole = BackboneSpec::from_hf_config(&dir.join("config.json"))?;
        let known = whole.tensors();
        let spec = whole.clone().with_blocks(blocks)?;
        let stored = Stored::open(dir)?;
        let table = spec.tensors();
        let names = NamesInFile::resolve(&stored, &whole, &table)?;
        names.check(&table, &known)?;
        let mut tensors = BTreeMap::new();
        for TensorSpec { role, name, shape } in table {
            let values = names.read(&stored, &name)?;
            tensors.insert(role, (shape, values));
        }
        Ok(Self { spec, tensors })
    }

    /// The architecture.
    pub fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    /// The same weights with the periods of the rotary positions rounded so.
    ///
    /// # Errors
    /// As [`BackboneSpec::with_rope_periods`].
    pub fn with_rope_periods(self, periods: RopePeriods) -> Result<Self> {
        Ok(Self {
            spec: self.spec.with_rope_periods(periods)?,
            tensors: self.tensors,
        })
    }

    /// The same weights without those of the blocks above the first so many.
    ///
    /// # Errors
    /// As [`BackboneSpec::with_blocks`].
    pub fn with_blocks(self, blocks: Blocks) -> Result<Self> {
        let spec = self.spec.with_blocks(blocks)?;
        let kept: BTreeSet<_> = spec.tensors().into_iter().map(|t| t.role).collect();
        let mut tensors = self.tensors;
        tensors.retain(|role, _| kept.contains(role));
        Ok(Self { spec, tensors })
    }

    /// The same weights with other values of some tensors.
    ///
    /// # Panics
    /// When the backbone has no such tensor, or one of another size.
    #[must_use]
    pub fn with_values(mut self, values: BTreeMap<Role, Vec<f32>>) -> Self {
        for (role, new) in values {
            let old = self.values_mut(role);
            assert_eq!(old.len(), new.len(), "values of {role:?}");
            old.copy_from_slice(&new);
        }
        self
    }

    /// The mask token `[D]` that self-supervised training used, which a folder may hold although no forward pass needs it.
    ///
    /// # Errors
    /// When the folder can't be read, or the token is of another width or not finite.
    pub fn mask_token(dir: &Path, width: usize) -> Result<Option<Vec<f32>>> {
        let stored = Stored::open(dir)?;
        let shapes = stored.shapes();
        let is_mask = |name: &&String| {
            let prefix = name.strip_suffix(MASK_TOKEN);
            prefix.is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        };
        let Some(name) = shapes.keys().find(is_mask) else {
            return Ok(None);
        };
        let flat: usize = shapes[name].iter().product();
        if flat != width {
            return Err(ModelError::TensorShape {
                path: stored.path().to_owned(),
                name: name.clone(),
                got: shapes[name].clone(),
                want: vec![1, 1, width],
            });
        }
        let values = stored.f32_of_shape(name, &shapes[name])?;
        check_finite(stored.path(), name, &values)?;
        Ok(Some(values))
    }

    /// Writes a Hugging Face folder that [`Weights::open`] reads back: `config.json` and `model.safetensors`. Returns the
    /// files' digests by name.
    ///
    /// # Errors
    /// [`artifact::Error::Io`](crate::artifact::Error::Io).
    pub fn save(&self, dir: &Path) -> artifact::Result<BTreeMap<String, Digest>> {
        let mut config =
            serde_json::to_vec_pretty(&self.spec.to_hf_config()).expect("a JSON value");
        config.push(b'\n');
        atomic::write_bytes(&dir.join(CONFIG), &config)?;
        let tensor = |t: TensorSpec| {
            let values = self.get(t.role).to_vec();
            (t.name, tensors::Tensor::f32(t.shape, values))
        };
        let named = self.spec.tensors().into_iter().map(tensor).collect();
        let digest = tensors::save(&dir.join(TENSORS), &named, &BTreeMap::new())?;
        Ok(BTreeMap::from([
            (CONFIG.to_owned(), Digest::of_bytes(&config)),
            (TENSORS.to_owned(), digest),
        ]))
    }

    /// The values of a tensor, to be changed.
    pub(super) fn values_mut(&mut self, role: Role) -> &mut [f32] {
        let entry = self.tensors.get_mut(&role);
        &mut entry.expect("a tensor of the spec").1
    }

    /// The values of a tensor, row-major.
    ///
    /// # Panics
    /// When the backbone has no such tensor: see [`Weights::has`] and [`BackboneSpec::tensors`].
    pub fn get(&self, role: Role) -> &[f32] {
        &self.entry(role).1
    }

    /// The shape of a tensor.
    ///
    /// # Panics
    /// As [`Weights::get`].
    pub fn shape(&self, role: Role) -> &[usize] {
        &self.entry(role).0
    }

    /// Whether the backbone has this tensor.
    pub fn has(&self, role: Role) -> bool {
        self.tensors.contains_key(&role)
    }

    fn entry(&self, role: Role) -> &(Vec<usize>, Vec<f32>) {
        let entry = self.tensors.get(&role);
        entry.unwrap_or_else(|| panic!("{role:?} is not a tensor of {:?}", self.spec))
    }

    /// The digest of spec and values, whatever the file's layout, prefix or precision.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        let spec = serde_json::to_vec(&self.spec).expect("plain data has a JSON form");
        hasher.field(&spec);
        // The table fixes order and shapes, and follows from the spec: the values need no further labels.
        for TensorSpec { role, .. } in self.spec.tensors() {
            hash_values(&mut hasher, self.get(role));
        }
        hasher.finish()
    }
}

fn hash_values(hasher: &mut Hasher, values: &[f32]) {
    let mut bytes = Vec::new();
    for block in values.chunks(1 << 14) {
        bytes.clear();
        bytes.extend(block.iter().flat_map(|v| v.to_le_bytes()));
        hasher.write_all(&bytes).expect("hashing can't fail");
    }
}

/// Fails at the first value that is NaN or infinite.
///
/// # Errors
/// [`ModelError::NonFinite`].
pub fn check_finite(path: &Path, name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(ModelError::NonFinite {
            path: path.to_owned(),
            name: name.to_owned(),
            index,
            value: values[index],
        }),
    }
}

/// A file's tensors by their Hugging Face name.
struct NamesInFile {
    path: PathBuf,
    /// By the name, and the first row of each piece that the file has of it.
    by_hf_name: BTreeMap<String, BTreeMap<usize, Piece>>,
    outside: Vec<String>,
}

/// A tensor, or some of its rows, by the name that it has in the file: the shape there, and the one that it should have.
struct Piece {
    found: String,
    got: Vec<usize>,
    want: Vec<usize>,
}

impl NamesInFile {
    /// `table` are the tensors that are wanted, of the backbone `whole`.
    fn resolve(stored: &Stored, whole: &BackboneSpec, table: &[TensorSpec]) -> Result<Self> {
        let mut shapes = stored.shapes();
        // transformers saves "no registers" as a tensor without values.
        shapes.retain(|_, shape| !shape.contains(&0));
        let prefix = prefix(&shapes, table, stored.path())?;
        let places = places(whole);
        let (mut by_hf_name, mut outside) = (BTreeMap::<_, BTreeMap<_, _>>::new(), Vec::new());
        for (found, got) in shapes {
            let Some(name) = found.strip_prefix(&prefix).map(canonical) else {
                outside.push(found);
                continue;
            };
            let (tensor, first_row, want) = match places.get(name) {
                Some(place) => (place.tensor.clone(), place.first_row, place.shape.clone()),
                None => (name.to_owned(), 0, got.clone()),
            };
            match by_hf_name.entry(tensor).or_default().entry(first_row) {
                Entry::Vacant(free) => {
                    free.insert(Piece { found, got, want });
                }
                // A second spelling of the same tensor would be ambiguous: it stays outside, and is reported.
                Entry::Occupied(_) => outside.push(found),
            }
        }
        Ok(Self {
            path: stored.path().to_owned(),
            by_hf_name,
            outside,
        })
    }

    /// The tensors of `table` must be there, and no others than those `known`.
    fn check(&self, table: &[TensorSpec], known: &[TensorSpec]) -> Result<()> {
        let path = || self.path.clone();
        let missing = table.iter().filter(|t| !self.is_whole(t));
        let told = |t: &TensorSpec| match self.by_hf_name.get(&t.name) {
            Some(pieces) => format!("the other rows of {}", list(pieces)),
            None => t.name.clone(),
        };
        let names: Vec<_> = missing.map(told).collect();
        if !names.is_empty() {
            return Err(ModelError::MissingTensors {
                path: path(),
                names,
            });
        }
        let names = self.unknown(known);
        if !names.is_empty() {
            return Err(ModelError::UnknownTensors {
                path: path(),
                names,
            });
        }
        let pieces = table.iter().flat_map(|t| self.by_hf_name[&t.name].values());
        for Piece { found, got, want } in pieces {
            if got != want {
                return Err(ModelError::TensorShape {
                    path: path(),
                    name: found.clone(),
                    got: got.clone(),
                    want: want.clone(),
                });
            }
        }
        Ok(())
    }

    /// Whether the pieces that should be there follow each other from the first row to the last.
    fn is_whole(&self, tensor: &TensorSpec) -> bool {
        let Some(pieces) = self.by_hf_name.get(&tensor.name) else {
            return false;
        };
        let next = |row: usize, (first, piece): (&usize, &Piece)| {
            (*first == row).then_some(row + piece.want[0])
        };
        pieces.iter().try_fold(0, next) == Some(tensor.shape[0])
    }

    /// The values of a tensor that was checked.
    fn read(&self, stored: &Stored, name: &str) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for Piece { found, want, .. } in self.by_hf_name[name].values() {
            let piece = stored.f32_of_shape(found, want)?;
            check_finite(stored.path(), found, &piece)?;
            match values.is_empty() {
                true => values = piece,
                false => values.extend(piece),
            }
        }
        Ok(values)
    }

    fn unknown(&self, known: &[TensorSpec]) -> Vec<String> {
        let in_table = |name: &str| known.iter().any(|t| t.name == name);
        let inside = self
            .by_hf_name
            .iter()
            .filter(|(name, _)| !in_table(name) && !is_dropped(name));
        let outside = self.outside.iter().filter(|name| !is_dropped(name));
        inside
            .flat_map(|(_, pieces)| pieces.values().map(|piece| &piece.found))
            .chain(outside)
            .cloned()
            .collect()
    }
}

fn list(pieces: &BTreeMap<usize, Piece>) -> String {
    let names: Vec<_> = pieces.values().map(|piece| &*piece.found).collect();
    names.join(", ")
}

/// Where the values of a name in a file belong.
struct Place {
    tensor: String,
    first_row: usize,
    shape: Vec<usize>,
}

/// The backbone's tensors by all names that files give them or their rows.
fn places(spec: &BackboneSpec) -> BTreeMap<String, Place> {
    let table = spec.tensors();
    let names: BTreeMap<_, _> = table.iter().map(|t| (t.role, &t.name)).collect();
    let mut places = BTreeMap::new();
    for renamed in spec.renamed_tensors() {
        let place = Place {
            tensor: names[&renamed.role].clone(),
            first_row: renamed.first_row,
            shape: renamed.shape,
        };
        places.insert(renamed.name, place);
    }
    for TensorSpec { name, shape, .. } in table {
        let place = Place {
            tensor: name.clone(),
            first_row: 0,
            shape,
        };
        places.insert(name, place);
    }
    places
}

/// Tensors that files carry and the forward pass of a backbone doesn't use.
fn is_dropped(name: &str) -> bool {
    let modules = ["pooler.", "classifier."];
    name == MASK_TOKEN || modules.iter().any(|module| name.starts_with(module))
}

/// What precedes the first tensor of the table in the file, without the module that blocks and stages may be nested in.
fn prefix(
    shapes: &BTreeMap<String, Vec<usize>>,
    table: &[TensorSpec],
    path: &Path,
) -> Result<String> {
    let (anchor, norm) = (&table[0].name, &table[table.len() - 1].name);
    let prefixes: Vec<_> = shapes
        .keys()
        .filter_map(|name| name.strip_suffix(anchor.as_str()))
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .collect();
    match prefixes[..] {
        [prefix] => {
            let outer = prefix.strip_suffix(NESTED);
            let outer = outer.filter(|outer| shapes.contains_key(&format!("{outer}{norm}")));
            Ok(outer.unwrap_or(prefix).to_owned())
        }
        [] => Err(ModelError::NoBackbone {
            path: path.to_owned(),
            name: anchor.clone(),
        }),
        _ => Err(ModelError::SeveralBackbones {
            path: path.to_owned(),
            found: prefixes
                .iter()
                .map(|prefix| format!("{prefix}{anchor}"))
                .collect(),
            name: anchor.clone(),
        }),
    }
}

/// transformers 5 nests DINOv3's blocks and stages in a module, and may save them with or without its name.
const NESTED: &str = "model.";

/// The name without that module.
fn canonical(name: &str) -> &str {
    match name.strip_prefix(NESTED) {
        Some(rest) if rest.starts_with("layer.") || rest.starts_with("stages.") => rest,
        _ => name,
    }
}

#[cfg(test)]
mod tests;
