use super::{
    ConvNextSpec, ModelError, Positions, RenamedTensor, Result, RopePeriods, TensorSpec, VitSpec,
    hf_config,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeSet, fmt, path::Path};

/// How many blocks of a vision transformer are run, counted from the image. What reads the backbone reads the tokens that
/// the last of them leaves, after the backbone's final norm (as `get_intermediate_layers(norm=True)` of DINOv2 and timm).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number of blocks, or null for all")]
pub enum Blocks {
    /// All of them (`null`).
    #[default]
    All,
    /// The first so many, at least 1.
    First(usize),
}

/// The numbers that determine a backbone's forward pass. Nothing about where its weights lie.
///
/// Every backbone turns an image into tokens of one width: a class token, perhaps others, and one token per patch of the
/// image, row by row. The rest differs, and is in the variants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackboneSpec {
    /// A vision transformer.
    Vit(VitSpec),
    /// A pyramid of convolutional stages.
    #[serde(rename = "convnext")]
    ConvNext(ConvNextSpec),
}

impl BackboneSpec {
    /// The `model_type`s that can be read.
    pub const MODEL_TYPES: [&'static str; 4] = [
        "dinov2",
        "dinov2_with_registers",
        "dinov3_vit",
        ConvNextSpec::MODEL_TYPE,
    ];

    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// Names the key that is missing, contradicts another, or has a value that the forward pass doesn't implement; or
    /// the `model_type` that isn't supported.
    pub fn from_hf_config(path: &Path) -> Result<Self> {
        hf_config::read(path)
    }

    /// The Hugging Face `config.json` from which transformers builds this model, and [`BackboneSpec::from_hf_config`]
    /// reads this spec. The rounding of rotary periods has no key there.
    pub fn to_hf_config(&self) -> Value {
        hf_config::write(self)
    }

    /// Hugging Face's name of the family.
    pub fn model_type(&self) -> &'static str {
        match self {
            Self::Vit(vit) => vit.family.model_type(),
            Self::ConvNext(_) => ConvNextSpec::MODEL_TYPE,
        }
    }

    /// Width D of a token.
    pub fn hidden(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.hidden,
            Self::ConvNext(convnext) => convnext.hidden(),
        }
    }

    /// Tokens before the patches, of which the first is the class token.
    pub fn prefix_tokens(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.prefix_tokens(),
            Self::ConvNext(_) => 1,
        }
    }

    /// Side of the square of pixels that a patch token stands for.
    pub fn patch(&self) -> usize {
        match self {
            Self::Vit(vit) => vit.patch,
            Self::ConvNext(convnext) => convnext.stride(),
        }
    }

    /// Every tensor that the forward pass needs, in the order of use: the one table.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        match self {
            Self::Vit(vit) => vit.tensors(),
            Self::ConvNext(convnext) => convnext.tensors(),
        }
    }

    /// Tensors by the names that transformers 5 gives them in memory and in files of `save_original_format=False`, where they are
    /// others than [`BackboneSpec::tensors`]'s.
    pub fn renamed_tensors(&self) -> Vec<RenamedTensor> {
        let Self::Vit(vit) = self else {
            return Vec::new();
        };
        let names: BTreeSet<_> = self.tensors().into_iter().map(|t| t.name).collect();
        let mut renamed = vit.in_transformers5();
        renamed.retain(|tensor| !names.contains(&tensor.name));
        renamed
    }

    /// Number of weights that the forward pass uses (a file's mask token is not among them).
    pub fn parameter_count(&self) -> usize {
        let sizes = self.tensors().into_iter();
        sizes.map(|t| t.shape.iter().product::<usize>()).sum()
    }

    /// Rows and columns of patches in an image of `height` x `width` pixels.
    ///
    /// # Errors
    /// [`ModelError::ImageSize`] unless both are positive multiples of the patch size.
    pub fn grid(&self, height: usize, width: usize) -> Result<(usize, usize)> {
        let patch = self.patch();
        let fits = |size: usize| size > 0 && size.is_multiple_of(patch);
        if fits(height) && fits(width) {
            return Ok((height / patch, width / patch));
        }
        let smaller = |size: usize| (size / patch).max(1) * patch;
        let larger = |size: usize| size.div_ceil(patch).max(1) * patch;
        Err(ModelError::ImageSize {
            height,
            width,
            patch,
            smaller: (smaller(height), smaller(width)),
            larger: (larger(height), larger(width)),
        })
    }

    /// Number of tokens of an image of `height` x `width` pixels.
    ///
    /// # Errors
    /// As [`BackboneSpec::grid`].
    pub fn token_count(&self, height: usize, width: usize) -> Result<usize> {
        let (rows, columns) = self.grid(height, width)?;
        Ok(self.prefix_tokens() + rows * columns)
    }

    /// The backbone that ends after so many blocks: those above don't exist for it.
    ///
    /// # Errors
    /// [`ModelError::BlockCount`] when there aren't so many, [`ModelError::NoBlocks`] for a ConvNeXt.
    pub fn with_blocks(mut self, blocks: Blocks) -> Result<Self> {
        let Blocks::First(count) = blocks else {
            return Ok(self);
        };
        let model_type = self.model_type();
        match &mut self {
            Self::Vit(vit) if (1..=vit.layers).contains(&count) => vit.layers = count,
            Self::Vit(vit) => {
                return Err(ModelError::BlockCount {
                    count,
                    layers: vit.layers,
                });
            }
            Self::ConvNext(_) => return Err(ModelError::NoBlocks { model_type }),
        }
        Ok(self)
    }

    /// The same backbone with the periods of its rotary positions rounded so.
    ///
    /// # Errors
    /// [`ModelError::NoRotaryPositions`] when there is nothing to round.
    pub fn with_rope_periods(mut self, choice: RopePeriods) -> Result<Self> {
        if let Self::Vit(VitSpec {
            positions: Positions::Rope { periods, .. },
            ..
        }) = &mut self
        {
            *periods = choice;
            return Ok(self);
        }
        match choice {
            RopePeriods::Fp32 => Ok(self),
            RopePeriods::Bf16 => Err(ModelError::NoRotaryPositions {
                model_type: self.model_type(),
            }),
        }
    }
}

/// In words, for people.
impl fmt::Display for BackboneSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |numbers: &[usize]| {
            let numbers: Vec<_> = numbers.iter().map(usize::to_string).collect();
            numbers.join("-")
        };
        match self {
            Self::Vit(vit) => write!(
                f,
                "{}, {} layers, width {}, {} heads, patches of {} pixels",
                vit.family.model_type(),
                vit.layers,
                vit.hidden,
                vit.heads,
                vit.patch
            ),
            Self::ConvNext(convnext) => write!(
                f,
                "{}, {} layers of widths {}, one token per {} pixels squared",
                self.model_type(),
                join(&convnext.depths),
                join(&convnext.widths),
                convnext.stride()
            ),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
