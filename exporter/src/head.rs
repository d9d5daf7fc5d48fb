//! The classifier's head, and its gate.

use crate::{
    Result,
    graph::{Graph, Value},
    linear::Linear,
};
use stage1_core::{artifact::tensors::TensorFile, checkpoint::Checkpoint, model::HeadKind};

/// A head with its weights.
pub(crate) struct Head {
    kind: HeadKind,
    layers: Vec<Linear>,
    /// The gate's two layers, on the hidden layer; none without a gate.
    gate: Vec<Linear>,
}

/// What a classifier says.
pub(crate) struct Outputs {
    /// The value `logits`, [N, K].
    pub(crate) logits: Value,
    /// The value `gate`, [N].
    pub(crate) gate: Option<Value>,
}

impl Head {
    /// Takes the tensors of head and gate from a checkpoint's file.
    pub(crate) fn read(checkpoint: &Checkpoint, file: &TensorFile) -> Result<Self> {
        let head = checkpoint.head.tensors(checkpoint.backbone.hidden());
        Ok(Self {
            kind: checkpoint.head.kind,
            layers: layers(&head, file)?,
            gate: layers(&checkpoint.gate_tensors(), file)?,
        })
    }

    pub(crate) fn outputs(&self, graph: &mut Graph, features: &Value) -> Outputs {
        match self.kind {
            HeadKind::Linear => Outputs {
                logits: graph.linear("logits", features, &self.layers[0]),
                gate: None,
            },
            HeadKind::Mlp { .. } => {
                let inner = graph.linear("head.fc1", features, &self.layers[0]);
                let inner = graph.gelu("head.gelu", &inner);
                Outputs {
                    logits: graph.linear("logits", &inner, &self.layers[1]),
                    gate: self.gate(graph, &inner),
                }
            }
        }
    }

    fn gate(&self, graph: &mut Graph, hidden: &Value) -> Option<Value> {
        let [first, second] = self.gate.as_slice() else {
            return None;
        };
        let inner = graph.linear("gate.fc1", hidden, first);
        let inner = graph.gelu("gate.gelu", &inner);
        let gate = graph.linear("gate.fc2", &inner, second);
        // The number of images, by its name: ONNX infers no shape from -1.
        Some(graph.reshape("gate", &gate, &[0]))
    }
}

/// Pairs of a weight and a bias.
fn layers(tensors: &[(String, Vec<usize>)], file: &TensorFile) -> Result<Vec<Linear>> {
    let layer = |pair: &[(String, Vec<usize>)]| -> Result<Linear> {
        let [(weight, shape), (bias, bias_shape)] = pair else {
            unreachable!("a linear layer is a weight and a bias");
        };
        let weight = file.f32_of_shape(weight, shape)?;
        let bias = file.f32_of_shape(bias, bias_shape)?;
        Ok(Linear::new(shape[1], weight, Some(bias)))
    };
    tensors.chunks(2).map(layer).collect()
}
