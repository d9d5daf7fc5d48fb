use super::{BackboneSpec, ModelError, Result, Role, TensorSpec};
use crate::artifact::{Digest, Hasher, tensors::TensorFile};
use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
};

/// The tensor that every supported backbone has: what precedes it in a name is the file's prefix.
const ANCHOR: &str = "embeddings.cls_token";

/// A backbone's tensors in float32, checked against its [`BackboneSpec`].
#[derive(Debug, Clone)]
pub struct Weights {
    spec: BackboneSpec,
    tensors: BTreeMap<Role, (Vec<usize>, Vec<f32>)>,
}

impl Weights {
    /// Reads `config.json` and `model.safetensors` of a Hugging Face folder.
    ///
    /// Names may carry one prefix (`dinov2.`, `backbone.`, …), and DINOv3's blocks may be `layer.i` or `model.layer.i`.
    /// Half-precision files are widened. The mask token, poolers and classifiers are left out.
    ///
    /// # Errors
    /// As [`BackboneSpec::from_hf_config`]; or names the tensors that are missing, unknown, of another shape than the
    /// configuration says, or not finite.
    pub fn open(dir: &Path) -> Result<(BackboneSpec, Self)> {
        let spec = BackboneSpec::from_hf_config(&dir.join("config.json"))?;
        let path = dir.join("model.safetensors");
        refuse_shards(dir, &path)?;
        let file = TensorFile::open(&path)?;
        let names = NamesInFile::resolve(&file)?;
        names.check(&spec)?;
        let mut tensors = BTreeMap::new();
        for TensorSpec { role, name, shape } in spec.tensors() {
            let found = &names.by_hf_name[&name];
            let values = file.f32_of_shape(found, &shape)?;
            check_finite(&path, found, &values)?;
            tensors.insert(role, (shape, values));
        }
        let weights = Self {
            spec: spec.clone(),
            tensors,
        };
        Ok((spec, weights))
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

fn refuse_shards(dir: &Path, whole: &Path) -> Result<()> {
    let index = dir.join("model.safetensors.index.json");
    if whole.exists() || !index.exists() {
        return Ok(());
    }
    Err(ModelError::Sharded { path: index })
}

fn check_finite(path: &Path, name: &str, values: &[f32]) -> Result<()> {
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
    by_hf_name: BTreeMap<String, String>,
    shapes: BTreeMap<String, Vec<usize>>,
    outside: Vec<String>,
}

impl NamesInFile {
    fn resolve(file: &TensorFile) -> Result<Self> {
        let shapes = file.shapes()?;
        let prefix = prefix(&shapes, file.path())?;
        let (mut by_hf_name, mut outside) = (BTreeMap::new(), Vec::new());
        for found in shapes.keys() {
            let name = found.strip_prefix(&prefix).map(canonical);
            // A second spelling of the same tensor would be ambiguous: it stays outside, and is reported.
            match name {
                Some(name) if !by_hf_name.contains_key(name) => {
                    by_hf_name.insert(name.to_owned(), found.clone());
                }
                _ => outside.push(found.clone()),
            }
        }
        Ok(Self {
            path: file.path().to_owned(),
            by_hf_name,
            shapes,
            outside,
        })
    }

    fn check(&self, spec: &BackboneSpec) -> Result<()> {
        let table = spec.tensors();
        let path = || self.path.clone();
        let missing = table
            .iter()
            .filter(|t| !self.by_hf_name.contains_key(&t.name));
        let names: Vec<_> = missing.map(|t| t.name.clone()).collect();
        if !names.is_empty() {
            return Err(ModelError::MissingTensors {
                path: path(),
                names,
            });
        }
        let names = self.unknown(&table);
        if !names.is_empty() {
            return Err(ModelError::UnknownTensors {
                path: path(),
                names,
            });
        }
        for TensorSpec { name, shape, .. } in table {
            let found = &self.by_hf_name[&name];
            let got = &self.shapes[found];
            if *got != shape {
                return Err(ModelError::TensorShape {
                    path: path(),
                    name: found.clone(),
                    got: got.clone(),
                    want: shape,
                });
            }
        }
        Ok(())
    }

    fn unknown(&self, table: &[TensorSpec]) -> Vec<String> {
        let in_table = |name: &str| table.iter().any(|t| t.name == name);
        let inside = self
            .by_hf_name
            .iter()
            .filter(|(name, _)| !in_table(name) && !is_dropped(name));
        let outside = self.outside.iter().filter(|name| !is_dropped(name));
        inside
            .map(|(_, found)| found)
            .chain(outside)
            .cloned()
            .collect()
    }
}

/// Tensors that files carry and the forward pass of a backbone doesn't use.
fn is_dropped(name: &str) -> bool {
    let modules = ["pooler.", "classifier."];
    name == "embeddings.mask_token" || modules.iter().any(|module| name.starts_with(module))
}

fn prefix(shapes: &BTreeMap<String, Vec<usize>>, path: &Path) -> Result<String> {
    let prefixes: Vec<_> = shapes
        .keys()
        .filter_map(|name| name.strip_suffix(ANCHOR))
        .collect();
    match prefixes[..] {
        [prefix] => Ok(prefix.to_owned()),
        [] => Err(ModelError::NoBackbone {
            path: path.to_owned(),
            name: ANCHOR,
        }),
        _ => Err(ModelError::SeveralBackbones {
            path: path.to_owned(),
            name: ANCHOR,
            found: prefixes
                .iter()
                .map(|prefix| format!("{prefix}{ANCHOR}"))
                .collect(),
        }),
    }
}

/// transformers 5 nests DINOv3's blocks in a module `model`, and may save them under either name.
fn canonical(name: &str) -> &str {
    match name.strip_prefix("model.") {
        Some(rest) if rest.starts_with("layer.") => rest,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        artifact::tensors::{self, Tensor},
        model::{Ffn, spec::tests},
    };
    use half::bf16;
    use safetensors::{Dtype, tensor::TensorView};
    use std::fs;

    type Tensors = BTreeMap<String, Tensor>;

    fn config() -> serde_json::Value {
        serde_json::json!({
            "model_type": "dinov3_vit", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 12, "patch_size": 2, "num_register_tokens": 1, "hidden_act": "silu",
            "use_gated_mlp": true,
        })
    }

    fn spec() -> BackboneSpec {
        BackboneSpec {
            layers: 2,
            ffn_hidden: 12,
            patch: 2,
            registers: 1,
            ..tests::dinov3(8, 2, Ffn::SwiGlu)
        }
    }

    /// Values that float32 and bfloat16 both hold, all different within a tensor of this size.
    fn model() -> Tensors {
        let tensor = |(i, t): (usize, TensorSpec)| {
            let count: usize = t.shape.iter().product();
            let values = (0..count).map(|j| ((i + j) % 256) as f32 / 64.0).collect();
            (t.name, Tensor::f32(t.shape, values))
        };
        spec()
            .tensors()
            .into_iter()
            .enumerate()
            .map(tensor)
            .collect()
    }

    fn folder(tensors: &Tensors) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
        tensors::save(
            &dir.path().join("model.safetensors"),
            tensors,
            &BTreeMap::new(),
        )
        .unwrap();
        dir
    }

    fn renamed(rename: impl Fn(&str) -> String) -> Tensors {
        model()
            .into_iter()
            .map(|(name, tensor)| (rename(&name), tensor))
            .collect()
    }

    fn with(name: &str, tensor: Tensor) -> Tensors {
        let mut tensors = model();
        tensors.insert(name.to_owned(), tensor);
        tensors
    }

    #[test]
    fn spellings_and_precisions_are_one_model() {
        let (spec, plain) = Weights::open(folder(&model()).path()).unwrap();
        assert_eq!(spec, self::spec());
        let nested = |name: &str| match name.starts_with("layer.") {
            true => format!("model.{name}"),
            false => name.to_owned(),
        };
        let mask = Tensor::f32([1, 1, 8], vec![0.0; 8]);
        let same = [
            ("nested", renamed(nested)),
            ("prefixed", renamed(|name| format!("backbone.{name}"))),
            ("module", renamed(|name| format!("model.{}", nested(name)))),
            ("mask token", with("embeddings.mask_token", mask.clone())),
            ("classifier", with("classifier.weight", mask)),
        ];
        for (what, tensors) in same {
            let (_, weights) = Weights::open(folder(&tensors).path()).unwrap();
            assert_eq!(weights.digest(), plain.digest(), "{what}");
        }
        let dir = folder(&model());
        save_bf16(&dir.path().join("model.safetensors"));
        assert_eq!(
            Weights::open(dir.path()).unwrap().1.digest(),
            plain.digest()
        );
    }

    fn save_bf16(path: &Path) {
        let narrow = |tensor: Tensor| -> Vec<u8> {
            let tensors::Values::F32(values) = tensor.values else {
                panic!("floats")
            };
            values
                .iter()
                .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                .collect()
        };
        let raw: Vec<_> = model()
            .into_iter()
            .map(|(name, t)| (name, t.shape.clone(), narrow(t)))
            .collect();
        let views = raw.iter().map(|(name, shape, bytes)| {
            (
                name,
                TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap(),
            )
        });
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    #[test]
    fn the_digest_follows_the_values() {
        let (_, plain) = Weights::open(folder(&model()).path()).unwrap();
        let other = with("norm.bias", Tensor::f32([8], vec![9.0; 8]));
        let (_, other) = Weights::open(folder(&other).path()).unwrap();
        assert_ne!(plain.digest(), other.digest());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let without = |name: &str| {
            let mut tensors = model();
            tensors.remove(name).unwrap();
            tensors
        };
        let anchors = with("teacher.embeddings.cls_token", Tensor::f32([1], vec![0.0]));
        let cases = [
            (
                without("layer.1.mlp.gate_proj.bias"),
                "missing: [\"layer.1.mlp.gate_proj.bias\"]",
            ),
            (
                without("embeddings.cls_token"),
                "no tensor is named `embeddings.cls_token`",
            ),
            (anchors, "several tensors"),
            (
                with("layer.2.norm1.weight", Tensor::f32([8], vec![0.0; 8])),
                "do not belong",
            ),
            (
                with(
                    "layer.0.attention.k_proj.bias",
                    Tensor::f32([8], vec![0.0; 8]),
                ),
                "k_proj.bias",
            ),
            (
                with("model.layer.0.norm1.weight", Tensor::f32([8], vec![0.0; 8])),
                "model.layer.0.norm1.weight",
            ),
            (
                with("norm.bias", Tensor::f32([4], vec![0.0; 4])),
                "has shape [4], `config.json` says [8]",
            ),
            (
                with("norm.bias", Tensor::f32([8], vec![f32::NAN; 8])),
                "holds NaN at index 0",
            ),
        ];
        for (tensors, want) in cases {
            let error = Weights::open(folder(&tensors).path())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(want) && error.contains("model.safetensors"),
                "{want}: {error}"
            );
        }
    }

    #[test]
    fn shards_are_named_for_what_they_are() {
        let dir = folder(&model());
        let index = dir.path().join("model.safetensors.index.json");
        fs::rename(dir.path().join("model.safetensors"), &index).unwrap();
        let error = Weights::open(dir.path()).unwrap_err();
        assert!(matches!(error, ModelError::Sharded { path } if path == index));
    }
}
