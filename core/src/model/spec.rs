use super::{ModelError, Result, hf_config};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A family of backbones, by Hugging Face's `model_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// DINOv2 without registers.
    Dinov2,
    /// DINOv2 with register tokens.
    Dinov2WithRegisters,
    /// The vision transformers of DINOv3.
    Dinov3Vit,
}

impl Family {
    /// All families.
    pub const ALL: [Self; 3] = [Self::Dinov2, Self::Dinov2WithRegisters, Self::Dinov3Vit];

    /// The `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Dinov2 => "dinov2",
            Self::Dinov2WithRegisters => "dinov2_with_registers",
            Self::Dinov3Vit => "dinov3_vit",
        }
    }
}

/// The feed-forward network of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ffn {
    /// `down(gelu(up(x)))` with the exact (erf) GELU.
    Mlp,
    /// `down(silu(gate(x)) * up(x))`.
    SwiGlu,
}

/// How a backbone knows where a patch is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Positions {
    /// A learned table, added to class and patch tokens; interpolated for other grids.
    Learned {
        /// Side of the square grid that was learned, in patches.
        grid: usize,
        /// Whether the interpolation widens its filter when it shrinks.
        antialias: bool,
    },
    /// Rotary embeddings of the patch tokens' queries and keys, in every block.
    Rope {
        /// Base of the geometric series of periods.
        theta: f64,
    },
}

/// The numbers that determine a backbone's forward pass. Nothing about where its weights lie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneSpec {
    /// Which family's tensor names apply.
    pub family: Family,
    /// Width D of a token.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads per block.
    pub heads: usize,
    /// Form of the feed-forward network.
    pub ffn: Ffn,
    /// Its inner width.
    pub ffn_hidden: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Register tokens between the class token and the patches.
    pub registers: usize,
    /// Epsilon of every layer norm.
    pub norm_eps: f64,
    /// Position information.
    pub positions: Positions,
    /// Whether the query projection has a bias.
    pub q_bias: bool,
    /// Whether the key projection has a bias.
    pub k_bias: bool,
    /// Whether the value projection has a bias.
    pub v_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub proj_bias: bool,
    /// Whether the feed-forward layers have biases.
    pub ffn_bias: bool,
}

impl BackboneSpec {
    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// Names the key that is missing, contradicts another, or has a value that the forward pass doesn't implement; or
    /// the `model_type` that isn't supported.
    pub fn from_hf_config(path: &Path) -> Result<Self> {
        hf_config::read(path)
    }

    /// Tokens before the patches: the class token and the registers.
    pub fn prefix_tokens(&self) -> usize {
        1 + self.registers
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Rows and columns of patches in an image of `height` x `width` pixels.
    ///
    /// # Errors
    /// [`ModelError::ImageSize`] unless both are positive multiples of the patch size.
    pub fn grid(&self, height: usize, width: usize) -> Result<(usize, usize)> {
        let patch = self.patch;
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

    /// Number of weights that the forward pass uses (a file's mask token is not among them).
    pub fn parameter_count(&self) -> usize {
        let sizes = self.tensors().into_iter();
        sizes.map(|t| t.shape.iter().product::<usize>()).sum()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::model) fn dinov2(hidden: usize, heads: usize) -> BackboneSpec {
        BackboneSpec {
            family: Family::Dinov2,
            hidden,
            layers: 12,
            heads,
            ffn: Ffn::Mlp,
            ffn_hidden: 4 * hidden,
            patch: 14,
            registers: 0,
            norm_eps: 1e-6,
            positions: Positions::Learned {
                grid: 37,
                antialias: false,
            },
            q_bias: true,
            k_bias: true,
            v_bias: true,
            proj_bias: true,
            ffn_bias: true,
        }
    }

    pub(in crate::model) fn dinov3(hidden: usize, heads: usize, ffn: Ffn) -> BackboneSpec {
        BackboneSpec {
            family: Family::Dinov3Vit,
            ffn,
            patch: 16,
            registers: 4,
            norm_eps: 1e-5,
            positions: Positions::Rope { theta: 100.0 },
            k_bias: false,
            ..dinov2(hidden, heads)
        }
    }

    #[test]
    fn parameter_counts_are_the_published_ones() {
        let cases = [
            ("dinov2-small", dinov2(384, 6), 22_056_576),
            ("dinov3 S/16", dinov3(384, 6, Ffn::Mlp), 21_596_544),
            ("dinov3 S+/16", dinov3(384, 6, Ffn::SwiGlu), 28_692_864),
            ("dinov3 B/16", dinov3(768, 12, Ffn::Mlp), 85_660_416),
        ];
        for (name, spec, want) in cases {
            // The published counts include the mask token, which only training uses.
            assert_eq!(spec.parameter_count() + spec.hidden, want, "{name}");
        }
    }

    #[test]
    fn grid_wants_whole_patches_and_names_the_nearest() {
        let spec = dinov2(384, 6);
        assert_eq!(spec.grid(70, 98).unwrap(), (5, 7));
        for (height, width, smaller, larger) in [
            (72, 70, (70, 70), (84, 70)),
            (5, 28, (14, 28), (14, 28)),
            (0, 14, (14, 14), (14, 14)),
        ] {
            match spec.grid(height, width) {
                Err(ModelError::ImageSize {
                    smaller: s,
                    larger: l,
                    ..
                }) => {
                    assert_eq!((s, l), (smaller, larger));
                }
                other => panic!("{height}x{width}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_spec_survives_json() {
        for spec in [dinov2(384, 6), dinov3(384, 6, Ffn::SwiGlu)] {
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<BackboneSpec>(&json).unwrap(), spec);
            assert!(json.contains(spec.family.model_type()));
        }
    }
}
