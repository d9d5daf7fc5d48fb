//! The classifier's head, and the features that it reads.

use crate::{
    Result,
    graph::{Graph, Value},
    linear::Linear,
    vit::Vit,
};
use stage1_core::{
    artifact::tensors::TensorFile,
    model::{Features, HeadKind, HeadSpec},
};

/// A head with its weights.
pub(crate) struct Head {
    kind: HeadKind,
    layers: Vec<Linear>,
}

impl Head {
    /// Takes the tensors of [`HeadSpec::tensors`] from a file.
    pub(crate) fn read(spec: &HeadSpec, hidden: usize, file: &TensorFile) -> Result<Self> {
        let tensors = spec.tensors(hidden);
        let layer = |pair: &[(String, Vec<usize>)]| -> Result<Linear> {
            let [(weight, shape), (bias, bias_shape)] = pair else {
                unreachable!("a linear layer is a weight and a bias");
            };
            let weight = file.f32_of_shape(weight, shape)?;
            let bias = file.f32_of_shape(bias, bias_shape)?;
            Ok(Linear::new(shape[1], weight, Some(bias)))
        };
        let layers = tensors.chunks(2).map(layer).collect::<Result<_>>()?;
        Ok(Self {
            kind: spec.kind,
            layers,
        })
    }

    /// The value `logits`, [N, K].
    pub(crate) fn logits(&self, graph: &mut Graph, features: &Value) -> Value {
        match self.kind {
            HeadKind::Linear => graph.linear("logits", features, &self.layers[0]),
            HeadKind::Mlp { .. } => {
                let inner = graph.linear("head.fc1", features, &self.layers[0]);
                let inner = graph.gelu("head.gelu", &inner);
                graph.linear("logits", &inner, &self.layers[1])
            }
        }
    }
}

/// The features [N, F] of tokens [N, T, D] that aren't normed yet.
pub(crate) fn features(graph: &mut Graph, vit: &Vit<'_>, kind: Features, tokens: &Value) -> Value {
    match kind {
        Features::Cls => {
            // The norm works token by token: that of the class token is enough.
            let class = graph.first("class_token", tokens);
            vit.norm(graph, "features", &class)
        }
        Features::ClsMeanPatch => {
            let normed = vit.norm(graph, "norm", tokens);
            let class = graph.first("class_token", &normed);
            let (start, end) = (vit.prefix_tokens(), vit.token_count());
            let patches = graph.rows("patch_tokens", &normed, start, end);
            let mean = graph.mean_rows("patch_tokens.mean", &patches);
            graph.concat("features", &[&class, &mean], 1)
        }
    }
}
