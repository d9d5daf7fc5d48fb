//! A DINOv2 in PyTorch's ONNX: the numbers from shapes and nodes, the tensors by name and by place.

use super::{super::ImportError, index::Index};
use stage1_core::{
    artifact::tensors::Tensor,
    model::{BackboneSpec, Ffn, Positions, Role, VitFamily, VitSpec},
};
use std::collections::{BTreeMap, BTreeSet};

type Result<T, E = ImportError> = std::result::Result<T, E>;

/// What is in every such file, and shows the prefix, the width and the patch size.
const ANCHOR: &str = "embeddings.patch_embeddings.projection.weight";

/// What was found.
pub(super) struct Found {
    pub(super) spec: VitSpec,
    /// By Hugging Face name, without prefix.
    pub(super) tensors: BTreeMap<String, Tensor>,
    /// The file's own names of the tensors that were used.
    pub(super) used: BTreeSet<String>,
}

pub(super) fn find(index: &Index<'_>) -> Result<Found> {
    let finder = Finder::new(index)?;
    let spec = finder.spec()?;
    let table = BackboneSpec::Vit(spec.clone()).tensors();
    let mut found = Found {
        tensors: BTreeMap::new(),
        used: BTreeSet::new(),
        spec,
    };
    for tensor in table {
        let (values, stored) = match tensor.role {
            Role::PositionEmbeddings => finder.positions()?.read(index)?,
            _ => finder.tensor(&tensor.name, &tensor.shape)?,
        };
        found.used.extend(stored);
        found
            .tensors
            .insert(tensor.name, Tensor::f32(tensor.shape, values));
    }
    Ok(found)
}

struct Finder<'a> {
    index: &'a Index<'a>,
    prefix: &'a str,
    hidden: usize,
    patch: usize,
}

impl<'a> Finder<'a> {
    fn new(index: &'a Index<'a>) -> Result<Self> {
        let named =
            |(name, shape): (&'a str, Vec<usize>)| Some((name.strip_suffix(ANCHOR)?, shape));
        let anchors: Vec<_> = index.initializers().filter_map(named).collect();
        let [(prefix, shape)] = &anchors[..] else {
            let name = |(prefix, _): &(&str, _)| format!("{prefix}{ANCHOR}");
            return Err(ImportError::Anchor {
                path: index.path(),
                suffix: ANCHOR.to_owned(),
                found: anchors.iter().map(name).collect(),
            });
        };
        match shape[..] {
            [hidden, 3, patch, width] if hidden > 0 && patch > 0 && patch == width => Ok(Self {
                index,
                prefix,
                hidden,
                patch,
            }),
            _ => Err(ImportError::Computation {
                path: index.path(),
                near: format!("{prefix}{ANCHOR}"),
                expected: format!("the shape [width, 3, patch, patch], found {shape:?}"),
            }),
        }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn unexpected(&self, near: &str, expected: impl Into<String>) -> ImportError {
        ImportError::Computation {
            path: self.index.path(),
            near: self.name(near),
            expected: expected.into(),
        }
    }

    fn spec(&self) -> Result<VitSpec> {
        let layers = self.layers()?;
        let head_dim = self.head_dim()?;
        Ok(VitSpec {
            family: VitFamily::Dinov2,
            hidden: self.hidden,
            layers,
            heads: self.hidden / head_dim,
            ffn: Ffn::Mlp,
            ffn_hidden: self.vector("encoder.layer.0.mlp.fc1.bias")?,
            patch: self.patch,
            registers: 0,
            norm_eps: self.norm_eps(layers)?,
            positions: Positions::Learned {
                grid: self.positions()?.grid,
                antialias: false,
            },
            q_bias: true,
            k_bias: true,
            v_bias: true,
            proj_bias: true,
            ffn_bias: true,
        })
    }

    /// Blocks are counted by their first norm; each has one exact GELU.
    fn layers(&self) -> Result<usize> {
        let exists = |i: &usize| {
            self.index
                .shape(&self.name(&format!("encoder.layer.{i}.norm1.weight")))
                .is_some()
        };
        let layers = (0..).take_while(exists).count();
        let erfs = self.index.count("Erf");
        if layers == 0 {
            self.vector("encoder.layer.0.norm1.weight")?;
        }
        match erfs >= layers {
            true => Ok(layers),
            false => Err(self.unexpected(
                "encoder",
                format!("an exact (erf) GELU in each of {layers} blocks, found {erfs} Erf nodes"),
            )),
        }
    }

    /// The length of a named vector.
    fn vector(&self, name: &str) -> Result<usize> {
        match self.index.shape(&self.name(name)).as_deref() {
            Some([length]) => Ok(*length),
            Some(_) => Err(self.unexpected(name, "one axis")),
            None => Err(self.missing(name, "an initialiser of this name".to_owned())),
        }
    }

    /// No tensor's shape shows the width of a head (queries of all heads are one matrix): the Reshape behind the
    /// queries does. It is 64 in every published DINOv2.
    fn head_dim(&self) -> Result<usize> {
        let near = "encoder.layer.0.attention.attention.query.bias";
        let width = self
            .index
            .consumer(&self.name(near), "Add")
            .and_then(|add| {
                let reshape = self.index.consumer(add.output.first()?, "Reshape")?;
                usize::try_from(self.index.last_of_shape(reshape.input.get(1)?)?).ok()
            });
        match width {
            Some(width @ 1..) if self.hidden.is_multiple_of(width) => Ok(width),
            _ => Err(self.unexpected(
                near,
                "an Add, then a Reshape to [.., heads, head width] with a constant head width",
            )),
        }
    }

    fn norm_eps(&self, layers: usize) -> Result<f64> {
        let eps = self.eps_of("layernorm.weight")?;
        for name in
            (0..layers).flat_map(|i| [1, 2].map(|n| format!("encoder.layer.{i}.norm{n}.weight")))
        {
            if self.eps_of(&name)?.to_bits() != eps.to_bits() {
                return Err(self.unexpected(&name, format!("the epsilon of the final norm, {eps}")));
            }
        }
        // The shortest decimal of the float32: 1e-6, not 9.999999974752427e-7.
        Ok(eps
            .to_string()
            .parse()
            .expect("a float's decimal is a float"))
    }

    /// The epsilon of the norm with this weight: one node, or `(x - mean) / sqrt(variance + eps) * weight`.
    fn eps_of(&self, name: &str) -> Result<f32> {
        let (index, weight) = (self.index, self.name(name));
        let fused = || {
            let node = index.consumer(&weight, "LayerNormalization")?;
            let eps = node
                .attribute
                .iter()
                .find(|attribute| attribute.name() == "epsilon");
            Some(eps.map_or(1e-5, |attribute| attribute.f()))
        };
        let spelled_out = || {
            let mul = index.consumer(&weight, "Mul")?;
            let div = mul
                .input
                .iter()
                .find_map(|input| index.producer(input, "Div"))?;
            let sqrt = index.producer(div.input.get(1)?, "Sqrt")?;
            let add = index.producer(sqrt.input.first()?, "Add")?;
            add.input.iter().find_map(|input| index.scalar(input))
        };
        fused().or_else(spelled_out).ok_or_else(|| {
            self.unexpected(name, "a LayerNormalization, or Add(eps), Sqrt, Div and Mul")
        })
    }

    /// A tensor by its name, or a linear layer's weight by its place. With it, the file's names of what was used.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<(Vec<f32>, Vec<String>)> {
        let full = self.name(name);
        if self.index.shape(&full).is_some() {
            self.check_shape(name, &full, shape)?;
            return Ok((self.index.floats(&full)?, vec![full]));
        }
        let stored = self.behind_bias(name)?;
        let [outputs, inputs] = shape else {
            return Err(self.missing(name, "an initialiser of this name".to_owned()));
        };
        self.check_shape(name, stored, &[*inputs, *outputs])?;
        let values = transpose(&self.index.floats(stored)?, *outputs);
        Ok((values, vec![stored.to_owned()]))
    }

    /// The anonymous, transposed weight of a linear layer whose bias has a name.
    fn behind_bias(&self, name: &str) -> Result<&'a str> {
        let bias = name
            .strip_suffix("weight")
            .map(|module| self.name(&format!("{module}bias")));
        let stored = bias.as_ref().and_then(|bias| {
            let add = self.index.consumer(bias, "Add")?;
            let matmul = add
                .input
                .iter()
                .find_map(|input| self.index.producer(input, "MatMul"))?;
            Some(matmul.input.get(1)?.as_str())
        });
        let expected = match &bias {
            Some(bias) => format!(
                "an initialiser of this name, or of a MatMul that feeds the Add of `{bias}`"
            ),
            None => "an initialiser of this name".to_owned(),
        };
        stored.ok_or_else(|| self.missing(name, expected))
    }

    fn missing(&self, name: &str, expected: String) -> ImportError {
        ImportError::MissingTensor {
            path: self.index.path(),
            name: self.name(name),
            expected,
        }
    }

    fn check_shape(&self, name: &str, stored: &str, want: &[usize]) -> Result<()> {
        let got = self.index.shape(stored).unwrap_or_default();
        if got == want {
            return Ok(());
        }
        Err(ImportError::TensorShape {
            path: self.index.path(),
            name: self.name(name),
            stored: stored.to_owned(),
            got,
            want: want.to_vec(),
        })
    }

    /// The position table: under its name, or cut by PyTorch into the class token's row and the square of patches.
    fn positions(&self) -> Result<PositionTable> {
        const NAME: &str = "embeddings.position_embeddings";
        let hidden = self.hidden;
        let full = self.name(NAME);
        let whole = self.index.shape(&full).and_then(|shape| match shape[..] {
            [1, rows, d] if rows > 1 && d == hidden => side(rows - 1),
            _ => None,
        });
        if let Some(grid) = whole {
            return Ok(PositionTable {
                grid,
                stored: vec![full],
            });
        }
        let anonymous = self
            .index
            .initializers()
            .filter(|(name, _)| !name.starts_with(self.prefix) || self.prefix.is_empty());
        let tables: Vec<_> = anonymous
            .filter_map(|(name, shape)| match shape[..] {
                [1, rows, d]
                    if rows > 0 && d == hidden && name != self.name("embeddings.cls_token") =>
                {
                    Some((rows, name.to_owned()))
                }
                _ => None,
            })
            .collect();
        let (class, patches): (Vec<_>, Vec<_>) =
            tables.into_iter().partition(|(rows, _)| *rows == 1);
        match (&class[..], &patches[..]) {
            ([(_, class)], [(rows, patches)]) if side(*rows).is_some() => Ok(PositionTable {
                grid: side(*rows).unwrap_or_default(),
                stored: vec![class.clone(), patches.clone()],
            }),
            _ => Err(self.missing(NAME, format!(
                "an initialiser of this name, or one of shape [1, 1, {hidden}] and one of [1, square number, {hidden}] without a name of the backbone"
            ))),
        }
    }
}

/// Where the position table is: whole, or class row and patch rows.
struct PositionTable {
    grid: usize,
    stored: Vec<String>,
}

impl PositionTable {
    fn read(self, index: &Index<'_>) -> Result<(Vec<f32>, Vec<String>)> {
        let parts = self
            .stored
            .iter()
            .map(|name| index.floats(name))
            .collect::<Result<Vec<_>>>()?;
        Ok((parts.concat(), self.stored))
    }
}

/// The side of a square of `rows` patches.
fn side(rows: usize) -> Option<usize> {
    let side = rows.isqrt();
    (side * side == rows).then_some(side)
}

/// `[inputs, outputs]` to `[outputs, inputs]`.
fn transpose(values: &[f32], outputs: usize) -> Vec<f32> {
    let column = |out: usize| values.iter().skip(out).step_by(outputs).copied();
    (0..outputs).flat_map(column).collect()
}
