//! The vision transformers as graphs, for one image size.
//!
//! Folded into weights and tables, each exact up to float32 rounding:
//! q, k and v are one product; the attention's 1/sqrt(head width) is in q; LayerScale is in the layer before it; class
//! token, registers and learned positions are one table, added to the zero-padded patches; the rotary tables hold
//! cos = 1, sin = 0 for the tokens that aren't rotated, and the sign of the rotation.
//!
//! Where only the class token is read, the last block computes only that token's query, projection and feed-forward
//! network; keys and values are still those of all tokens.

use super::{Body, Picture, Reads};
use crate::{
    graph::{Conv, Graph, Value},
    linear::Linear,
};
use stage1_core::model::{
    BlockRole, Ffn, Positions, ReadBlocks, Role, VitSpec, Weights, position_embeddings, rope_tables,
};

/// What the last block leaves, not normed, and all tokens after the others that are read.
pub(super) fn body(
    graph: &mut Graph,
    spec: &VitSpec,
    weights: &Weights,
    grid: (usize, usize),
    picture: &Picture,
    (reads, blocks): (Reads, ReadBlocks),
) -> (Body, Vec<(usize, Value)>) {
    let mut vit = Vit {
        spec,
        weights,
        grid,
        rope: None,
    };
    if let Positions::Rope { .. } = spec.positions {
        vit.rope = Some(vit.rope_constants(graph));
    }
    let mut x = vit.embed(graph, picture);
    let last = spec.layers - 1;
    let (read, mut shallower) = (blocks.of(spec.layers), Vec::new());
    for index in 0..last {
        x = vit.block(graph, index, &x);
        if read.contains(&(index + 1)) {
            shallower.push((index + 1, x.clone()));
        }
    }
    let body = match reads {
        Reads::Tokens => Body::Sequence(vit.block(graph, last, &x)),
        Reads::Class => Body::Class(vit.class_block(graph, last, &x)),
    };
    (body, shallower)
}

/// What is folded, for people.
pub(super) fn folded(spec: &VitSpec, reads: Reads) -> Vec<&'static str> {
    let mut folded = vec![
        "q, k and v into one product",
        "the attention's scale into q",
        "LayerScale into the layer before it",
    ];
    if spec.ffn == Ffn::SwiGlu {
        folded.push("gate and up into one product");
    }
    folded.push(match spec.positions {
        Positions::Learned { .. } => {
            "class token, registers and interpolated positions into one table"
        }
        Positions::Rope { .. } => "class token and registers into one table",
    });
    if let Positions::Rope { .. } = spec.positions {
        folded.push("rotary positions into constant tables");
    }
    if reads == Reads::Class {
        folded.push("left out: all tokens but the class token in the last block");
    }
    folded
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

    fn embed(&self, graph: &mut Graph, picture: &Picture) -> Value {
        let conv = Conv {
            weight: self.weights.get(Role::PatchWeight),
            bias: self.weights.get(Role::PatchBias),
            side: self.spec.patch,
            stride: self.spec.patch,
            padding: 0,
            groups: 1,
        };
        let patches = picture.conv(graph, "embeddings.patches", &conv);
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
        let normed = self.norm1(graph, index, x);
        let attended = self.attention(graph, index, &normed);
        self.add_branches(graph, index, x, &attended)
    }

    /// The block's class token alone, [N, D].
    fn class_block(&self, graph: &mut Graph, index: usize, x: &Value) -> Value {
        let normed = self.norm1(graph, index, x);
        let attended = self.class_attention(graph, index, &normed);
        let class = graph.first(&format!("blocks.{index}.class_token"), x);
        self.add_branches(graph, index, &class, &attended)
    }

    /// The attention's result added to `x`, then the feed-forward network's; for any number of tokens.
    fn add_branches(&self, graph: &mut Graph, index: usize, x: &Value, attended: &Value) -> Value {
        let name = format!("blocks.{index}");
        let x = graph.add(&format!("{name}.attn.residual"), x, attended);
        let norm = [BlockRole::Norm2Weight, BlockRole::Norm2Bias];
        let normed = self.layer_norm(graph, &format!("{name}.norm2"), &x, index, norm);
        let fed = self.feed_forward(graph, index, &normed);
        graph.add(&name, &x, &fed)
    }

    fn norm1(&self, graph: &mut Graph, index: usize, x: &Value) -> Value {
        let norm = [BlockRole::Norm1Weight, BlockRole::Norm1Bias];
        self.layer_norm(graph, &format!("blocks.{index}.norm1"), x, index, norm)
    }

    fn layer_norm(
        &self,
        graph: &mut Graph,
        name: &str,
        x: &Value,
        index: usize,
        roles: [BlockRole; 2],
    ) -> Value {
        let [weight, bias] = roles.map(|role| self.weights.get(Role::Block(index, role)));
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

    /// What the class token takes from all tokens, [N, D]. Its query isn't rotated: it has no place.
    fn class_attention(&self, graph: &mut Graph, index: usize, x: &Value) -> Value {
        let name = |part: &str| format!("blocks.{index}.attn.{part}");
        let (heads, width) = (self.spec.heads, self.spec.head_dim());
        let class = graph.first(&name("class_token"), x);
        let q = graph.linear(&name("q"), &class, &self.query(index));
        let q = graph.reshape(&name("q.heads"), &q, &[0, heads as i64, 1, width as i64]);
        let packed = graph.linear(&name("kv"), x, &Linear::stacked(self.key_and_value(index)));
        let shape = [0, self.token_count() as i64, 2 * heads as i64, width as i64];
        let split = graph.reshape(&name("kv.heads"), &packed, &shape);
        let by_head = graph.transpose(&name("kv.by_head"), &split, &[0, 2, 1, 3]);
        let parts = [(&*name("k"), heads), (&*name("v"), heads)];
        let [k, v] = graph.split(&by_head, 1, parts);
        let k = self.rotate(graph, &name("k.rotated"), k);
        let k = graph.transpose(&name("k.transposed"), &k, &[0, 1, 3, 2]);
        let scores = graph.matmul(&name("scores"), &q, &k);
        let probabilities = graph.softmax(&name("probabilities"), &scores);
        let mixed = graph.matmul(&name("mixed"), &probabilities, &v);
        let joined = graph.reshape(&name("mixed.joined"), &mixed, &[0, self.spec.hidden as i64]);
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
        let [k, v] = self.key_and_value(index);
        Linear::stacked([self.query(index), k, v])
    }

    /// With the attention's scale.
    fn query(&self, index: usize) -> Linear {
        let scale = (self.spec.head_dim() as f64).sqrt().recip() as f32;
        self.linear(index, BlockRole::QWeight, BlockRole::QBias)
            .scaled(&vec![scale; self.spec.hidden])
    }

    fn key_and_value(&self, index: usize) -> [Linear; 2] {
        [
            self.linear(index, BlockRole::KWeight, BlockRole::KBias),
            self.linear(index, BlockRole::VWeight, BlockRole::VBias),
        ]
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
                let [gate, up] = graph.split(&both, -1, parts);
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
