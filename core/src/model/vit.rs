//! The vision transformers: DINOv2 with and without registers, DINOv3.

use super::{
    TensorSpec,
    role::{BlockRole, Role, Table},
};
use serde::{Deserialize, Serialize};

/// Which vision transformer: it decides the names of the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VitFamily {
    /// DINOv2 without registers.
    Dinov2,
    /// DINOv2 with register tokens.
    Dinov2WithRegisters,
    /// DINOv3.
    Dinov3Vit,
}

impl VitFamily {
    /// All of them.
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
        /// How the periods are rounded.
        periods: RopePeriods,
    },
}

/// The precision that the periods of rotary positions are rounded to.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RopePeriods {
    /// Not rounded beyond float32: as transformers and timm compute them.
    #[default]
    Fp32,
    /// bfloat16: as Meta's own checkpoints of DINOv3 hold them.
    Bf16,
}

/// The numbers that determine a vision transformer's forward pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitSpec {
    /// Which family's tensor names apply.
    pub family: VitFamily,
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

impl VitSpec {
    /// Tokens before the patches: the class token and the registers.
    pub fn prefix_tokens(&self) -> usize {
        1 + self.registers
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Whether gate and up are one tensor ([`BlockRole::GateUpWeight`]), as in DINOv2's SwiGLU.
    pub fn packs_gate_and_up(&self) -> bool {
        matches!(
            BlockNames::of(self.family, self.ffn).ffn,
            FfnNames::Packed(_)
        )
    }

    /// Every tensor that the forward pass needs, in the order of use.
    pub(super) fn tensors(&self) -> Vec<TensorSpec> {
        let blocks =
            (0..self.layers).flat_map(|i| self.block(i, BlockNames::of(self.family, self.ffn)));
        self.embeddings()
            .into_iter()
            .chain(blocks)
            .chain(self.final_norm())
            .collect()
    }

    /// The tensors of the blocks as transformers 5 has them in memory, and in files of `save_original_format=False`: some have
    /// other names than in the files that it saves otherwise, and DINOv2's packed layer is two.
    pub(super) fn in_transformers5(&self) -> Vec<RenamedTensor> {
        let place = |row: TensorSpec| {
            let (role, first_row) = match row.role {
                Role::Block(block, role) if self.packs_gate_and_up() => {
                    let (role, first_row) = role.packed(self.ffn_hidden);
                    (Role::Block(block, role), first_row)
                }
                role => (role, 0),
            };
            RenamedTensor {
                name: row.name,
                role,
                first_row,
                shape: row.shape,
            }
        };
        (0..self.layers)
            .flat_map(|i| self.block(i, BlockNames::in_transformers5(self.family, self.ffn)))
            .map(place)
            .collect()
    }

    fn embeddings(&self) -> Vec<TensorSpec> {
        let (d, p) = (self.hidden, self.patch);
        let patch = match self.family {
            VitFamily::Dinov2 | VitFamily::Dinov2WithRegisters => {
                "embeddings.patch_embeddings.projection"
            }
            VitFamily::Dinov3Vit => "embeddings.patch_embeddings",
        };
        let (weight, bias) = (format!("{patch}.weight"), format!("{patch}.bias"));
        let mut table = vec![
            TensorSpec::new(Role::ClsToken, "embeddings.cls_token", &[1, 1, d]),
            TensorSpec::new(Role::PatchWeight, weight, &[d, 3, p, p]),
            TensorSpec::new(Role::PatchBias, bias, &[d]),
        ];
        if self.registers > 0 {
            let (name, shape) = ("embeddings.register_tokens", [1, self.registers, d]);
            table.push(TensorSpec::new(Role::RegisterTokens, name, &shape));
        }
        if let Positions::Learned { grid, .. } = self.positions {
            let (name, shape) = ("embeddings.position_embeddings", [1, 1 + grid * grid, d]);
            table.push(TensorSpec::new(Role::PositionEmbeddings, name, &shape));
        }
        table
    }

    fn final_norm(&self) -> [TensorSpec; 2] {
        let name = match self.family {
            VitFamily::Dinov2 | VitFamily::Dinov2WithRegisters => "layernorm",
            VitFamily::Dinov3Vit => "norm",
        };
        let shape = [self.hidden];
        [
            TensorSpec::new(Role::NormWeight, format!("{name}.weight"), &shape),
            TensorSpec::new(Role::NormBias, format!("{name}.bias"), &shape),
        ]
    }

    fn block(&self, index: usize, names: BlockNames) -> Vec<TensorSpec> {
        use BlockRole as R;
        let (d, h) = (self.hidden, self.ffn_hidden);
        let prefix = format!("{}.{index}", names.prefix);
        let mut block = Table::new(prefix, |role| Role::Block(index, role));
        let square: &[usize] = &[d, d];
        block.layer(names.norm1, (R::Norm1Weight, &[d]), Some(R::Norm1Bias));
        block.layer(
            names.q,
            (R::QWeight, square),
            self.q_bias.then_some(R::QBias),
        );
        block.layer(
            names.k,
            (R::KWeight, square),
            self.k_bias.then_some(R::KBias),
        );
        block.layer(
            names.v,
            (R::VWeight, square),
            self.v_bias.then_some(R::VBias),
        );
        let bias = self.proj_bias.then_some(R::ProjBias);
        block.layer(names.proj, (R::ProjWeight, square), bias);
        block.push(R::Scale1, "layer_scale1.lambda1", &[d]);
        block.layer(names.norm2, (R::Norm2Weight, &[d]), Some(R::Norm2Bias));
        let bias = |role| self.ffn_bias.then_some(role);
        match names.ffn {
            FfnNames::Up(up) => block.layer(up, (R::UpWeight, &[h, d]), bias(R::UpBias)),
            FfnNames::GateAndUp(gate, up) => {
                block.layer(gate, (R::GateWeight, &[h, d]), bias(R::GateBias));
                block.layer(up, (R::UpWeight, &[h, d]), bias(R::UpBias));
            }
            FfnNames::Packed(both) => {
                block.layer(both, (R::GateUpWeight, &[2 * h, d]), bias(R::GateUpBias));
            }
        }
        block.layer(names.down, (R::DownWeight, &[d, h]), bias(R::DownBias));
        block.push(R::Scale2, "layer_scale2.lambda1", &[d]);
        block.rows()
    }
}

/// A tensor by another name: one of the backbone's, or some of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenamedTensor {
    /// Its name.
    pub name: String,
    /// What holds it.
    pub role: Role,
    /// Its first row in that.
    pub first_row: usize,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The layers into the inner width of a feed-forward network.
enum FfnNames {
    Up(&'static str),
    GateAndUp(&'static str, &'static str),
    Packed(&'static str),
}

/// A family's module names inside a block.
struct BlockNames {
    prefix: &'static str,
    norm1: &'static str,
    q: &'static str,
    k: &'static str,
    v: &'static str,
    proj: &'static str,
    norm2: &'static str,
    ffn: FfnNames,
    down: &'static str,
}

impl BlockNames {
    fn of(family: VitFamily, ffn: Ffn) -> Self {
        match family {
            VitFamily::Dinov2 | VitFamily::Dinov2WithRegisters => Self::dinov2(ffn),
            VitFamily::Dinov3Vit => Self::dinov3(ffn),
        }
    }

    fn dinov2(ffn: Ffn) -> Self {
        let (ffn, down) = match ffn {
            Ffn::Mlp => (FfnNames::Up("mlp.fc1"), "mlp.fc2"),
            Ffn::SwiGlu => (FfnNames::Packed("mlp.weights_in"), "mlp.weights_out"),
        };
        Self {
            prefix: "encoder.layer",
            norm1: "norm1",
            q: "attention.attention.query",
            k: "attention.attention.key",
            v: "attention.attention.value",
            proj: "attention.output.dense",
            norm2: "norm2",
            ffn,
            down,
        }
    }

    /// transformers 5 gives DINOv2's layers the names of DINOv3's, but for those of its two-layer MLP.
    fn in_transformers5(family: VitFamily, ffn: Ffn) -> Self {
        let (saved, dinov3) = (Self::of(family, ffn), Self::dinov3(ffn));
        let mlp = match ffn {
            Ffn::Mlp => (saved.ffn, saved.down),
            Ffn::SwiGlu => (dinov3.ffn, dinov3.down),
        };
        Self {
            prefix: saved.prefix,
            ffn: mlp.0,
            down: mlp.1,
            ..dinov3
        }
    }

    fn dinov3(ffn: Ffn) -> Self {
        let ffn = match ffn {
            Ffn::Mlp => FfnNames::Up("mlp.up_proj"),
            Ffn::SwiGlu => FfnNames::GateAndUp("mlp.gate_proj", "mlp.up_proj"),
        };
        Self {
            prefix: "layer",
            norm1: "norm1",
            q: "attention.q_proj",
            k: "attention.k_proj",
            v: "attention.v_proj",
            proj: "attention.o_proj",
            norm2: "norm2",
            ffn,
            down: "mlp.down_proj",
        }
    }
}
