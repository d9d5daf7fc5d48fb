//! What the tensors of a backbone are for: names and shapes follow from roles in `vit` and `convnext`.

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
    /// A tensor of the transformer block with this index, counted from the input.
    Block(usize, BlockRole),
    /// A tensor of the step down into the convolutional stage with this index.
    Stage(usize, StageRole),
    /// A tensor of a convolutional layer, by its stage and its index in it.
    Layer(usize, usize, LayerRole),
    /// `[D]`, of the final norm.
    NormWeight,
    /// `[D]`, of the final norm.
    NormBias,
}

/// What a tensor of a transformer block is for. Weights of linear layers are `[out, in]`; H is the inner width of the
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

impl BlockRole {
    /// Where gate and up are one tensor of twice as many rows as `inner`: what holds this one, and its first row there.
    pub(super) fn packed(self, inner: usize) -> (Self, usize) {
        match self {
            Self::GateWeight => (Self::GateUpWeight, 0),
            Self::UpWeight => (Self::GateUpWeight, inner),
            Self::GateBias => (Self::GateUpBias, 0),
            Self::UpBias => (Self::GateUpBias, inner),
            role => (role, 0),
        }
    }
}

/// What a tensor of the step down into a stage is for. C is the stage's width, B that of the stage before (3 at first).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StageRole {
    /// `[C, B, 4, 4]` into the first stage, `[C, B, 2, 2]` into the others; the stride is the kernel's side.
    ConvWeight,
    /// `[C]`.
    ConvBias,
    /// `[C]` in the first stage, where the norm follows the convolution; `[B]` in the others, where it precedes it.
    NormWeight,
    /// As the weight.
    NormBias,
}

/// What a tensor of a convolutional layer is for. C is the stage's width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerRole {
    /// `[C, 1, 7, 7]`, one filter per channel.
    ConvWeight,
    /// `[C]`.
    ConvBias,
    /// `[C]`.
    NormWeight,
    /// `[C]`.
    NormBias,
    /// `[4C, C]`.
    UpWeight,
    /// `[4C]`.
    UpBias,
    /// `[C, 4C]`.
    DownWeight,
    /// `[C]`.
    DownBias,
    /// `[C]`: LayerScale.
    Scale,
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

impl TensorSpec {
    pub(super) fn new(role: Role, name: impl Into<String>, shape: &[usize]) -> Self {
        Self {
            role,
            name: name.into(),
            shape: shape.to_vec(),
        }
    }
}

/// The rows of one module: they share the start of their names and a kind of role.
pub(super) struct Table<F> {
    prefix: String,
    role: F,
    rows: Vec<TensorSpec>,
}

impl<F> Table<F> {
    pub(super) fn new(prefix: String, role: F) -> Self {
        Self {
            prefix,
            role,
            rows: Vec::new(),
        }
    }

    pub(super) fn push<R>(&mut self, role: R, name: &str, shape: &[usize])
    where
        F: Fn(R) -> Role,
    {
        let name = format!("{}.{name}", self.prefix);
        self.rows
            .push(TensorSpec::new((self.role)(role), name, shape));
    }

    /// A weight, and a bias as wide as the weight's first axis.
    pub(super) fn layer<R>(&mut self, module: &str, weight: (R, &[usize]), bias: Option<R>)
    where
        F: Fn(R) -> Role,
    {
        let (role, shape) = weight;
        self.push(role, &format!("{module}.weight"), shape);
        if let Some(role) = bias {
            self.push(role, &format!("{module}.bias"), &shape[..1]);
        }
    }

    pub(super) fn rows(self) -> Vec<TensorSpec> {
        self.rows
    }
}
