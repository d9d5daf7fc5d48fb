use super::{BackboneSpec, Family, Ffn, Positions};

/// What a tensor of a backbone is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `[1, 1, D]`.
    ClsToken,
    /// `[1, R, D]`.
    RegisterTokens,
    /// `[1, 1 + grid², D]`: the class token's, then the patches' row by row.
    PositionEmbeddings,
    /// `[D, 3, P, P]`.
    PatchWeight,
    /// `[D]`.
    PatchBias,
    /// A tensor of the block with this index, counted from the input.
    Block(usize, BlockRole),
    /// `[D]`, of the final norm.
    NormWeight,
    /// `[D]`, of the final norm.
    NormBias,
}

/// What a tensor of a block is for. Weights of linear layers are `[out, in]`; H is the inner width of the
/// feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockRole {
    /// `[D]`, of the norm before attention.
    Norm1Weight,
    /// `[D]`, of the norm before attention.
    Norm1Bias,
    /// `[D, D]`.
    QWeight,
    /// `[D]`.
    QBias,
    /// `[D, D]`.
    KWeight,
    /// `[D]`.
    KBias,
    /// `[D, D]`.
    VWeight,
    /// `[D]`.
    VBias,
    /// `[D, D]`, of the attention's output.
    ProjWeight,
    /// `[D]`, of the attention's output.
    ProjBias,
    /// `[D]`: LayerScale of the attention branch.
    Scale1,
    /// `[D]`, of the norm before the feed-forward network.
    Norm2Weight,
    /// `[D]`, of the norm before the feed-forward network.
    Norm2Bias,
    /// `[H, D]`.
    UpWeight,
    /// `[H]`.
    UpBias,
    /// `[H, D]`.
    GateWeight,
    /// `[H]`.
    GateBias,
    /// `[D, H]`.
    DownWeight,
    /// `[D]`.
    DownBias,
    /// `[D]`: LayerScale of the feed-forward branch.
    Scale2,
    /// `[2H, D]`: DINOv2 packs gate and up in one layer, gate first.
    GateUpWeight,
    /// `[2H]`: gate first.
    GateUpBias,
}

/// One tensor of a backbone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is for.
    pub role: Role,
    /// Its name as Hugging Face saves it, without a prefix.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl BackboneSpec {
    /// Every tensor that the forward pass needs, in the order of use: the one table.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let blocks = (0..self.layers).flat_map(|i| self.block(i));
        self.embeddings()
            .into_iter()
            .chain(blocks)
            .chain(self.final_norm())
            .collect()
    }

    fn embeddings(&self) -> Vec<TensorSpec> {
        let (d, p) = (self.hidden, self.patch);
        let patch = match self.family {
            Family::Dinov2 | Family::Dinov2WithRegisters => {
                "embeddings.patch_embeddings.projection"
            }
            Family::Dinov3Vit => "embeddings.patch_embeddings",
        };
        let mut table = vec![
            tensor(Role::ClsToken, "embeddings.cls_token", &[1, 1, d]),
            tensor(Role::PatchWeight, format!("{patch}.weight"), &[d, 3, p, p]),
            tensor(Role::PatchBias, format!("{patch}.bias"), &[d]),
        ];
        if self.registers > 0 {
            let shape = [1, self.registers, d];
            table.push(tensor(
                Role::RegisterTokens,
                "embeddings.register_tokens",
                &shape,
            ));
        }
        if let Positions::Learned { grid, .. } = self.positions {
            let shape = [1, 1 + grid * grid, d];
            table.push(tensor(
                Role::PositionEmbeddings,
                "embeddings.position_embeddings",
                &shape,
            ));
        }
        table
    }

    fn final_norm(&self) -> [TensorSpec; 2] {
        let name = match self.family {
            Family::Dinov2 | Family::Dinov2WithRegisters => "layernorm",
            Family::Dinov3Vit => "norm",
        };
        let shape = [self.hidden];
        [
            tensor(Role::NormWeight, format!("{name}.weight"), &shape),
            tensor(Role::NormBias, format!("{name}.bias"), &shape),
        ]
    }

    fn block(&self, index: usize) -> Vec<TensorSpec> {
        use BlockRole as R;
        let (d, h) = (self.hidden, self.ffn_hidden);
        let names = BlockNames::of(self.family, self.ffn);
        let mut block = BlockTable::new(index, names.prefix);
        block.linear(names.norm1, (R::Norm1Weight, &[d]), Some(R::Norm1Bias));
        block.linear(
            names.q,
            (R::QWeight, &[d, d]),
            self.q_bias.then_some(R::QBias),
        );
        block.linear(
            names.k,
            (R::KWeight, &[d, d]),
            self.k_bias.then_some(R::KBias),
        );
        block.linear(
            names.v,
            (R::VWeight, &[d, d]),
            self.v_bias.then_some(R::VBias),
        );
        block.linear(
            names.proj,
            (R::ProjWeight, &[d, d]),
            self.proj_bias.then_some(R::ProjBias),
        );
        block.push(R::Scale1, "layer_scale1.lambda1", &[d]);
        block.linear(names.norm2, (R::Norm2Weight, &[d]), Some(R::Norm2Bias));
        match names.ffn {
            FfnNames::Up(up) => {
                block.linear(
                    up,
                    (R::UpWeight, &[h, d]),
                    self.ffn_bias.then_some(R::UpBias),
                );
            }
            FfnNames::GateAndUp(gate, up) => {
                block.linear(
                    gate,
                    (R::GateWeight, &[h, d]),
                    self.ffn_bias.then_some(R::GateBias),
                );
                block.linear(
                    up,
                    (R::UpWeight, &[h, d]),
                    self.ffn_bias.then_some(R::UpBias),
                );
            }
            FfnNames::Packed(both) => {
                let bias = self.ffn_bias.then_some(R::GateUpBias);
                block.linear(both, (R::GateUpWeight, &[2 * h, d]), bias);
            }
        }
        block.linear(
            names.down,
            (R::DownWeight, &[d, h]),
            self.ffn_bias.then_some(R::DownBias),
        );
        block.push(R::Scale2, "layer_scale2.lambda1", &[d]);
        block.table
    }
}

fn tensor(role: Role, name: impl Into<String>, shape: &[usize]) -> TensorSpec {
    TensorSpec {
        role,
        name: name.into(),
        shape: shape.to_vec(),
    }
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
    fn of(family: Family, ffn: Ffn) -> Self {
        match family {
            Family::Dinov2 | Family::Dinov2WithRegisters => Self::dinov2(ffn),
            Family::Dinov3Vit => Self::dinov3(ffn),
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

/// The rows of one block's part of the table.
struct BlockTable {
    index: usize,
    prefix: &'static str,
    table: Vec<TensorSpec>,
}

impl BlockTable {
    fn new(index: usize, prefix: &'static str) -> Self {
        let table = Vec::new();
        Self {
            index,
            prefix,
            table,
        }
    }

    fn push(&mut self, role: BlockRole, name: &str, shape: &[usize]) {
        let name = format!("{}.{}.{name}", self.prefix, self.index);
        self.table
            .push(tensor(Role::Block(self.index, role), name, shape));
    }

    /// A weight, and a bias as wide as the weight's first axis.
    fn linear(&mut self, module: &str, weight: (BlockRole, &[usize]), bias: Option<BlockRole>) {
        let (role, shape) = weight;
        self.push(role, &format!("{module}.weight"), shape);
        if let Some(role) = bias {
            self.push(role, &format!("{module}.bias"), &shape[..1]);
        }
    }
}
