//! Low-rank changes of linear layers while they are trained: LoRA, rsLoRA (by its scale) and DoRA, as Hugging Face PEFT
//! computes them.

use super::layers::Linear;
use stage1_core::{config::Precision, model::BlockRole};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// The change of one linear layer, or of some rows of it. The tensors may have a graph.
pub struct Change {
    /// Its first row.
    pub first_row: i64,
    /// What B A is multiplied with.
    pub scale: f64,
    /// A: `[rank, in]`.
    pub down: Tensor,
    /// B: `[rows, rank]`.
    pub up: Tensor,
    /// DoRA's length of each row, `[rows]`.
    pub magnitude: Option<Tensor>,
}

/// The changes of one block, by the weight that they change.
pub type BlockChanges = BTreeMap<BlockRole, Vec<Change>>;

/// How a block is run.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// What is changed in it.
    pub changes: Option<&'a BlockChanges>,
    /// What it computes in.
    pub precision: Precision,
    /// Dropout of the changes' inputs; 0 draws nothing.
    pub dropout: f64,
}

impl Pass<'_> {
    /// As the weights are, in float32.
    pub(super) const PLAIN: Self = Self {
        changes: None,
        precision: Precision::Fp32,
        dropout: 0.0,
    };

    /// The layer's output of `x`, with its changes.
    pub(super) fn linear(&self, layer: &Linear, role: BlockRole, x: &Tensor) -> Tensor {
        let base = layer.forward_in(x, self.precision);
        let Some(changes) = self.changes.and_then(|changes| changes.get(&role)) else {
            return base;
        };
        let mut parts = Vec::new();
        let mut done = 0;
        for change in changes {
            let (first, end) = (change.first_row, change.first_row + change.rows());
            if first > done {
                parts.push(base.slice(-1, done, first, 1));
            }
            parts.push(self.changed(change, layer, x, &base.slice(-1, first, end, 1)));
            done = end;
        }
        if done < layer.outputs() {
            parts.push(base.slice(-1, done, None, 1));
        }
        match parts.len() {
            1 => parts.remove(0),
            _ => Tensor::cat(&parts, -1),
        }
    }

    /// The changed rows' output; `base` is what they give unchanged.
    fn changed(&self, change: &Change, layer: &Linear, x: &Tensor, base: &Tensor) -> Tensor {
        let kind = base.kind();
        let cast = |tensor: &Tensor| tensor.to_kind(kind);
        let dropped = (self.dropout > 0.0).then(|| x.dropout(self.dropout, true));
        let input = cast(dropped.as_ref().unwrap_or(x));
        let inner = input.linear(&cast(&change.down), None::<Tensor>);
        let low = inner.linear(&cast(&change.up), None::<Tensor>) * change.scale;
        let Some(magnitude) = &change.magnitude else {
            return base + low;
        };
        let (first, end) = (change.first_row, change.first_row + change.rows());
        let weight = layer.weight.slice(0, first, end, 1);
        let merged =
            weight.detach() + change.up.detach().matmul(&change.down.detach()) * change.scale;
        // The paper's section 4.3: the length is a constant for the gradient.
        let length = merged.norm_scalaropt_dim(2.0, [1], false);
        let stretch = cast(&(magnitude / length));
        let unbiased = match (&dropped, &layer.bias) {
            // PEFT stretches the product with the dropped input, and leaves the plain one beside it.
            (Some(_), _) => input.linear(&cast(&weight), None::<Tensor>),
            (None, Some(bias)) => base - cast(&bias.slice(0, first, end, 1)),
            (None, None) => base.shallow_clone(),
        };
        base + (&stretch - 1.0) * unbiased + stretch * low
    }
}

impl Change {
    fn rows(&self) -> i64 {
        self.up.size()[0]
    }
}

/// `tensor` in float32, as norms and sums over layers want it.
pub(super) fn single(tensor: &Tensor) -> Tensor {
    tensor.to_kind(Kind::Float)
}
