//! From a file's tensors under whatever names to those of a backbone, by Hugging Face name.

use super::{
    ImportError,
    naming::{self, Meaning},
    source::Source,
};
use crate::Result;
use stage1_core::{
    artifact::tensors::Tensor,
    model::{BackboneSpec, BlockRole, PRESETS, Role, TensorSpec, VitSpec, preset},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    iter::once,
    path::Path,
};

type Shapes = BTreeMap<String, Vec<usize>>;

/// Which tensor of the file, and what part of it, is a tensor of the backbone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    name: String,
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// One third of the rows, counted from 0.
    Third(usize),
    /// So many of the rows, from the piece's place on: transformers 5 takes packed layers apart.
    Rows(usize),
    /// All of it, after a row of zeros: timm adds the class token's position to the class token.
    AfterZeros,
}

/// How a file's tensors make up a backbone.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) spec: BackboneSpec,
    /// By the first row that they are of the tensor.
    pieces: BTreeMap<(Role, usize), Piece>,
    /// Packed biases whose thirds for the keys must be zero or masked, with their masks.
    dropped_keys: Vec<(String, Option<String>)>,
    /// Tensors that nothing is taken from.
    pub(super) left_out: Vec<String>,
}

/// The plan for `wanted`, or else for the one published backbone that the file's shapes are those of.
///
/// A file without biases of queries, keys and values is taken for the same backbone without them: timm leaves them out of
/// DINOv3, where they are zero.
pub(super) fn plan(path: &Path, shapes: &Shapes, wanted: Option<&BackboneSpec>) -> Result<Plan> {
    if let Some(spec) = wanted {
        let unbiased = without_qkv_bias(spec).and_then(|spec| fit(path, shapes, &spec).ok());
        return match fit(path, shapes, spec) {
            Err(error) => Ok(unbiased.ok_or(error)?),
            fits => Ok(fits?),
        };
    }
    let specs = PRESETS.iter().filter_map(|(name, _)| preset(name));
    let specs = specs.flat_map(|spec| [without_qkv_bias(&spec), Some(spec)]);
    let mut fitting: Vec<_> = specs
        .flatten()
        .filter_map(|spec| fit(path, shapes, &spec).ok())
        .collect();
    match fitting.len() {
        1 => Ok(fitting.remove(0)),
        _ => Err(ImportError::NoPreset {
            path: path.to_owned(),
            presets: PRESETS.map(|(name, _)| name).join(", "),
        })?,
    }
}

fn without_qkv_bias(spec: &BackboneSpec) -> Option<BackboneSpec> {
    match spec {
        BackboneSpec::Vit(vit) if vit.q_bias && vit.v_bias && !vit.k_bias => {
            Some(BackboneSpec::Vit(VitSpec {
                q_bias: false,
                v_bias: false,
                ..vit.clone()
            }))
        }
        _ => None,
    }
}

fn fit(path: &Path, shapes: &Shapes, spec: &BackboneSpec) -> Result<Plan, ImportError> {
    let table = spec.tensors();
    let prefix = prefix(path, shapes, spec)?;
    let by_name: BTreeMap<_, _> = table.iter().map(|t| (t.name.as_str(), t.role)).collect();
    let known: BTreeSet<_> = table.iter().map(|t| t.role).collect();
    let renamed = spec.renamed_tensors();
    let renamed: BTreeMap<_, _> = renamed.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut plan = Plan {
        spec: spec.clone(),
        pieces: BTreeMap::new(),
        dropped_keys: Vec::new(),
        left_out: Vec::new(),
    };
    let mut masks = BTreeMap::new();
    for name in shapes.keys() {
        let Some(inside) = name.strip_prefix(prefix) else {
            plan.left_out.push(name.clone());
            continue;
        };
        let nested = inside.strip_prefix("model.").unwrap_or(inside);
        let role = by_name.get(inside).or_else(|| by_name.get(nested));
        let whole = role.copied().map(Meaning::Whole);
        if let Some(tensor) = renamed.get(inside)
            && whole.is_none()
        {
            let part = Part::Rows(tensor.shape[0]);
            plan.put(path, (tensor.role, tensor.first_row), name, part)?;
            continue;
        }
        match whole.or_else(|| naming::meaning(spec, inside)) {
            Some(Meaning::Whole(role)) if known.contains(&role) => {
                plan.put(path, (role, 0), name, Part::Whole)?;
            }
            Some(Meaning::Thirds(roles)) if known.contains(&roles[0]) => {
                plan.put_thirds(path, roles, &known, name)?;
            }
            Some(Meaning::BiasMask(block)) => {
                masks.insert(block, name.clone());
            }
            Some(Meaning::Unused) => plan.left_out.push(name.clone()),
            _ => {
                return Err(ImportError::UnknownTensor {
                    path: path.to_owned(),
                    name: name.clone(),
                    model_type: spec.model_type(),
                });
            }
        }
    }
    plan.attach(masks);
    plan.check(path, shapes, &table)?;
    Ok(plan)
}

/// What precedes the names of the backbone in the file.
fn prefix<'a>(
    path: &Path,
    shapes: &'a Shapes,
    spec: &BackboneSpec,
) -> Result<&'a str, ImportError> {
    let anchors = naming::anchors(spec);
    for anchor in &anchors {
        let found: Vec<_> = shapes
            .keys()
            .filter_map(|name| name.strip_suffix(anchor.as_str()))
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
            .collect();
        match found[..] {
            [] => {}
            [prefix] => {
                // Hugging Face nests the stages of a ConvNeXt, but not its norm, in a module.
                let outer = prefix.strip_suffix("model.");
                let has_norm =
                    |outer: &&str| shapes.contains_key(&format!("{outer}layer_norm.weight"));
                return Ok(outer.filter(has_norm).unwrap_or(prefix));
            }
            _ => {
                return Err(ImportError::Anchor {
                    path: path.to_owned(),
                    suffix: anchor.clone(),
                    found: found
                        .iter()
                        .map(|prefix| format!("{prefix}{anchor}"))
                        .collect(),
                });
            }
        }
    }
    Err(ImportError::NoBackbone {
        path: path.to_owned(),
        anchors,
        model_type: spec.model_type(),
    })
}

impl Plan {
    fn put(
        &mut self,
        path: &Path,
        place: (Role, usize),
        name: &str,
        part: Part,
    ) -> Result<(), ImportError> {
        let piece = Piece {
            name: name.to_owned(),
            part,
        };
        match self.pieces.insert(place, piece) {
            None => Ok(()),
            Some(first) => Err(ImportError::Twice {
                path: path.to_owned(),
                first: first.name,
                second: name.to_owned(),
            }),
        }
    }

    fn put_thirds(
        &mut self,
        path: &Path,
        roles: [Role; 3],
        known: &BTreeSet<Role>,
        name: &str,
    ) -> Result<(), ImportError> {
        for (third, role) in roles.into_iter().enumerate() {
            match known.contains(&role) {
                true => self.put(path, (role, 0), name, Part::Third(third))?,
                false => self.dropped_keys.push((name.to_owned(), None)),
            }
        }
        Ok(())
    }

    /// Masks belong to the packed biases of their blocks; they say nothing about biases that are all used.
    fn attach(&mut self, masks: BTreeMap<usize, String>) {
        for (block, mask) in masks {
            let bias = self.pieces.get(&(Role::Block(block, BlockRole::QBias), 0));
            let bias = bias.map(|piece| piece.name.clone());
            let dropped = self.dropped_keys.iter_mut();
            for (_, slot) in dropped.filter(|(name, _)| Some(name) == bias.as_ref()) {
                *slot = Some(mask.clone());
            }
            self.left_out.push(mask);
        }
        self.left_out.sort();
    }

    fn check(
        &mut self,
        path: &Path,
        shapes: &Shapes,
        table: &[TensorSpec],
    ) -> Result<(), ImportError> {
        for TensorSpec { role, name, shape } in table {
            let mut next = 0;
            for (&(_, first), piece) in self.pieces.range_mut((*role, 0)..=(*role, usize::MAX)) {
                if first != next {
                    break;
                }
                next += piece.check(path, shapes, (*role, name, shape))?;
            }
            if next != shape[0] {
                return Err(ImportError::MissingTensor {
                    path: path.to_owned(),
                    name: name.clone(),
                    expected: format!(
                        "all of it under the names that Hugging Face, Meta or timm give it in a {} backbone",
                        self.spec.model_type()
                    ),
                });
            }
        }
        Ok(())
    }

    /// The backbone's tensors by Hugging Face name.
    pub(super) fn read(
        &self,
        path: &Path,
        source: &mut Source,
    ) -> Result<BTreeMap<String, Tensor>> {
        for (bias, mask) in &self.dropped_keys {
            check_dropped(path, source, bias, mask.as_deref())?;
        }
        let mut tensors = BTreeMap::new();
        for TensorSpec { role, name, shape } in self.spec.tensors() {
            let mut values = Vec::new();
            for (_, piece) in self.pieces.range((role, 0)..=(role, usize::MAX)) {
                match values.is_empty() {
                    true => values = piece.read(source, &shape)?,
                    false => values.extend(piece.read(source, &shape)?),
                }
            }
            tensors.insert(name, Tensor::f32(shape, values));
        }
        Ok(tensors)
    }
}

impl Piece {
    /// Whether the file has it in the shape that it should have there; the number of the tensor's rows that it is.
    fn check(
        &mut self,
        path: &Path,
        shapes: &Shapes,
        (role, name, shape): (Role, &str, &[usize]),
    ) -> Result<usize, ImportError> {
        let got = &shapes[&self.name];
        let rows = match self.part {
            Part::Third(_) => 3 * shape[0],
            Part::Rows(rows) => rows,
            Part::Whole | Part::AfterZeros => shape[0],
        };
        let want: Vec<_> = once(rows).chain(shape[1..].iter().copied()).collect();
        if role == Role::PositionEmbeddings && *got == [1, shape[1] - 1, shape[2]] {
            self.part = Part::AfterZeros;
        } else if *got != want {
            return Err(ImportError::TensorShape {
                path: path.to_owned(),
                name: name.to_owned(),
                stored: self.name.clone(),
                got: got.clone(),
                want,
            });
        }
        Ok(match self.part {
            Part::Rows(rows) => rows,
            _ => shape[0],
        })
    }

    fn read(&self, source: &mut Source, shape: &[usize]) -> Result<Vec<f32>> {
        let values = source.read(&self.name)?;
        let count: usize = shape.iter().product();
        Ok(match self.part {
            Part::Whole | Part::Rows(_) => values,
            Part::Third(third) => values[third * count..][..count].to_vec(),
            Part::AfterZeros => [vec![0.0; count - values.len()], values].concat(),
        })
    }
}

/// Packed biases without those of the keys: Meta's DINOv3 has them in the file and masks them out.
fn check_dropped(path: &Path, source: &mut Source, bias: &str, mask: Option<&str>) -> Result<()> {
    let values = source.read(mask.unwrap_or(bias))?;
    let third = values.len() / 3;
    let (keys, others): (Vec<_>, Vec<_>) = values
        .iter()
        .enumerate()
        .partition(|(i, _)| (third..2 * third).contains(i));
    let is = |wanted: f32| move |(_, value): &(usize, &f32)| value.to_bits() == wanted.to_bits();
    let zero = |value: &(usize, &f32)| is(0.0)(value) || is(-0.0)(value);
    if keys.iter().all(zero) && (mask.is_none() || others.iter().all(is(1.0))) {
        return Ok(());
    }
    Err(ImportError::KeyBias {
        path: path.to_owned(),
        name: mask.unwrap_or(bias).to_owned(),
    })?
}
