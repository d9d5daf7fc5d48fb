//! The classifier's head.

use crate::{
    Result,
    graph::{Graph, Value},
    linear::Linear,
};
use stage1_core::{
    artifact::tensors::TensorFile,
    model::{HeadKind, HeadSpec},
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
