//! The vision transformers as graphs, for one image size.
//!
//! Folded into weights and tables, each exact up to float32 rounding:
//! q, k and v are one product; the attention's 1/sqrt(head width) is in q; LayerScale is in the layer before it; class
//! token, registers and learned positions are one table, added to the zero-padded patches; the rotary tables hold
//! cos = 1, sin = 0 for the tokens that aren't rotated, and the sign of the rotation.

use crate::{
    graph::{Conv, Graph, Value},
    linear::Linear,
};
use stage1_core::model::{
    BlockRole, Ffn, Positions, Role, VitSpec, Weights, position_embeddings, rope_tables,
};

/// The tokens after the last block, not normed: [N, T, D].
pub(super) fn tokens(
    graph: &mut Graph,
    spec: &VitSpec,
    weights: &Weights,
    grid: (usize, usize),
    pixel_values: &Value,
) -> Value {
    let mut vit = Vit {
        spec,
        weights,
        grid,
        rope: None,
    };
    if let Positions::Rope { .. } = spec.positions {
        vit.rope = Some(vit.rope_constants(graph));
    }
    let mut x = vit.embed(graph, pixel_values);
    for index in 0..spec.layers {
        x = vit.block(graph, index, &x);
    }
    x
}

struct Vit<'a> {
    spec: &'a VitSpec,
    weights: &'a Weights,
    grid: (usize, usize),
    /// Cosines and signed sines.
    rope: Option<(Value, Value)>,
}

impl Vit<'_> {
    fn token_count(&self) -> usize {
        self.spec.prefix_tokens() + self.patches()
    }

    fn patches(&self) -> usize {
        self.grid.0 * self.grid.1
    }

    fn embed(&self, graph: &mut Graph, pixel_values: &Value) -> Value {
        let conv = Conv {
            weight: self.weights.get(Role::PatchWeight),
            bias: self.weights.get(Role::PatchBias),
            side: self.spec.patch,
            stride: self.spec.patch,
            padding: 0,
            groups: 1,
        };
        let patches = graph.conv("embeddings.patches", pixel_values, &conv);
        let shape = [0, self.spec.hidden as i64, self.patches() as i64];
        let flat = graph.reshape("embeddings.flat", &patches, &shape);
        let rows = graph.transpose("embeddings.rows", &flat, &[0, 2, 1]);
        let padded = graph.pad_front("embeddings.padded", &rows, self.spec.prefix_tokens());
        let shape = [1, self.token_count(), self.spec.hidden];
        let table = graph.f32("embeddings.table", &shape, &self.token_table());
        graph.add("embeddings", &padded, &table)
    }

    /// What is added to every token, `[T, D]`: prefix tokens (over zeros), then the patches' positions.
    fn token_table(&self) -> Vec<f32> {
        let mut class = self.weights.get(Role::ClsToken).to_vec();
        let mut patches = vec![0.0; self.patches() * self.spec.hidden];
        if let Positions::Learned { .. } = self.spec.positions {
            let table = position_embeddings(self.spec, self.weights, self.grid.0, self.grid.1);
            let (of_class, of_patches) = table.split_at(self.spec.hidden);
            class
                .iter_mut()
                .zip(of_class)
                .for_each(|(token, position)| *token += position);
            patches.copy_from_slice(of_patches);
        }
        let registers: &[f32] = match self.weights.has(Role::RegisterTokens) {
            true => self.weights.get(Role::RegisterTokens),
            false => &[],
        };
        [&class, registers, &patches].concat()
    }

    /// Cosines and signed sines, `[T, head width]`.
    fn rope_constants(&self, graph: &mut Graph) -> (Value, Value) {
        let width = self.spec.head_dim();
        let (cos, mut sin) = rope_tables(self.spec, self.grid.0, self.grid.1);
        // rotate([a, b]) = [-b, a]: halves are swapped by the graph, the minus is written here.
        for row in sin.chunks_exact_mut(width) {
            row[..width / 2]
                .iter_mut()
                .for_each(|value| *value = -*value);
        }
        let prefix = self.spec.prefix_tokens() * width;
        let table = |graph: &mut Graph, name, fill, values: Vec<f32>| {
            let rows = [vec![fill; prefix], values].concat();
            graph.f32(name, &[self.token_count(), width], &rows)
        };
        (
            table(graph, "rope.cos", 1.0, cos),
            table(graph, "rope.sin", 0.0, sin),
        )
    }

    fn block(&self, graph: &mut Graph, index: usize, x: &Value) -> Value {
        let name = format!("blocks.{index}");
        let role = |role| Role::Block(index, role);
        let (weight, bias) = (role(BlockRole::Norm1Weight), role(BlockRole::Norm1Bias));
        let normed = self.layer_norm(graph, &format!("{name}.norm1"), x, weight, bias);
        let attended = self.attention(graph, index, &normed);
        let x = graph.add(&format!("{name}.attn.residual"), x, &attended);
        let (weight, bias) = (role(BlockRole::Norm2Weight), role(BlockRole::Norm2Bias));
        let normed = self.layer_norm(graph, &format!("{name}.norm2"), &x, weight, bias);
        let fed = self.feed_forward(graph, index, &normed);
        graph.add(&name, &x, &fed)
    }

    fn layer_norm(
        &self,
        graph: &mut Graph,
        name: &str,
        x: &Value,
        weight: Role,
        bias: Role,
    ) -> Value {
        let (weight, bias) = (self.weights.get(weight), self.weights.get(bias));
        graph.layer_norm(name, x, weight, bias, self.spec.norm_eps)
    }

    fn linear(&self, index: usize, weight: BlockRole, bias: BlockRole) -> Linear {
        Linear::of(
            self.weights,
            Role::Block(index, weight),
            Role::Block(index, bias),
        )
    }

    fn attention(&self, graph: &mut Graph, index: usize, x: &Value) -> Value {
        let name = |part: &str| format!("blocks.{index}.attn.{part}");
        let (heads, width) = (self.spec.heads, self.spec.head_dim());
        let tokens = self.token_count() as i64;
        let packed = graph.linear(&name("qkv"), x, &self.qkv(index));
        let shape = [0, tokens, 3 * heads as i64, width as i64];
        let split = graph.reshape(&name("qkv.heads"), &packed, &shape);
        let by_head = graph.transpose(&name("qkv.by_head"), &split, &[0, 2, 1, 3]);
        let parts = [(&*name("qk"), 2 * heads), (&*name("v"), heads)];
        let [qk, v] = graph.split(&by_head, 1, parts);
        let qk = self.rotate(graph, &name("qk.rotated"), qk);
        let [q, k] = graph.split(&qk, 1, [(&*name("q"), heads), (&*name("k"), heads)]);
        let k = graph.transpose(&name("k.transposed"), &k, &[0, 1, 3, 2]);
        let scores = graph.matmul(&name("scores"), &q, &k);
        let probabilities = graph.softmax(&name("probabilities"), &scores);
        let mixed = graph.matmul(&name("mixed"), &probabilities, &v);
        let by_token = graph.transpose(&name("mixed.by_token"), &mixed, &[0, 2, 1, 3]);
        let shape = [0, tokens, self.spec.hidden as i64];
        let joined = graph.reshape(&name("mixed.joined"), &by_token, &shape);
        graph.linear(&name("proj"), &joined, &self.projection(index))
    }

    fn rotate(&self, graph: &mut Graph, name: &str, x: Value) -> Value {
        let Some((cos, sin)) = &self.rope else {
            return x;
        };
        let half = self.spec.head_dim() / 2;
        let (a, b) = (format!("{name}.a"), format!("{name}.b"));
        let [a, b] = graph.split(&x, 3, [(&*a, half), (&*b, half)]);
        let swapped = graph.concat(&format!("{name}.swapped"), &[&b, &a], 3);
        let along = graph.mul(&format!("{name}.cos"), &x, cos);
        let across = graph.mul(&format!("{name}.sin"), &swapped, sin);
        graph.add(name, &along, &across)
    }

    fn qkv(&self, index: usize) -> Linear {
        use BlockRole as R;
        let layer = |weight, bias| self.linear(index, weight, bias);
        let scale = (self.spec.head_dim() as f64).sqrt().recip() as f32;
        let q = layer(R::QWeight, R::QBias).scaled(&vec![scale; self.spec.hidden]);
        Linear::stacked([q, layer(R::KWeight, R::KBias), layer(R::VWeight, R::VBias)])
    }

    fn projection(&self, index: usize) -> Linear {
        let layer = self.linear(index, BlockRole::ProjWeight, BlockRole::ProjBias);
        layer.scaled(self.weights.get(Role::Block(index, BlockRole::Scale1)))
    }

    fn feed_forward(&self, graph: &mut Graph, index: usize, x: &Value) -> Value {
        let name = |part: &str| format!("blocks.{index}.ffn.{part}");
        let inner = match self.spec.ffn {
            Ffn::Mlp => {
                let up = self.linear(index, BlockRole::UpWeight, BlockRole::UpBias);
                let up = graph.linear(&name("up"), x, &up);
                graph.gelu(&name("gelu"), &up)
            }
            Ffn::SwiGlu => {
                let both = graph.linear(&name("gate_up"), x, &self.gate_and_up(index));
                let width = self.spec.ffn_hidden;
                let parts = [(&*name("gate"), width), (&*name("up"), width)];
                let [gate, up] = graph.split(&both, 2, parts);
                let open = graph.silu(&name("silu"), &gate);
                graph.mul(&name("gated"), &open, &up)
            }
        };
        let down = self.linear(index, BlockRole::DownWeight, BlockRole::DownBias);
        let scale = self.weights.get(Role::Block(index, BlockRole::Scale2));
        graph.linear(&name("down"), &inner, &down.scaled(scale))
    }

    /// Gate, then up: DINOv2 stores them so, DINOv3 apart.
    fn gate_and_up(&self, index: usize) -> Linear {
        use BlockRole as R;
        let layer = |weight, bias| self.linear(index, weight, bias);
        match self.weights.has(Role::Block(index, R::GateUpWeight)) {
            true => layer(R::GateUpWeight, R::GateUpBias),
            false => Linear::stacked([
                layer(R::GateWeight, R::GateBias),
                layer(R::UpWeight, R::UpBias),
            ]),
        }
    }
}
