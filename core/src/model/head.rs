use serde::{Deserialize, Serialize};

/// What the head sees of the backbone's tokens, both after the final norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// The class token: width D.
    Cls,
    /// The class token, then the mean of the patch tokens (registers left out): width 2D.
    ClsMeanPatch,
}

impl Features {
    /// The width for a backbone of width `hidden`.
    pub fn width(self, hidden: usize) -> usize {
        match self {
            Self::Cls => hidden,
            Self::ClsMeanPatch => 2 * hidden,
        }
    }
}

/// The form of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HeadKind {
    /// One linear layer.
    Linear,
    /// Linear, exact (erf) GELU, dropout in training, linear.
    Mlp {
        /// Width between the two layers.
        hidden: usize,
    },
}

/// The classifier on top of a backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadSpec {
    /// Its form.
    pub kind: HeadKind,
    /// Its input.
    pub features: Features,
    /// Number of classes K, the width of the logits.
    pub classes: usize,
}

impl HeadSpec {
    /// Names and shapes of the head's tensors, for a backbone of width `hidden`; weights are `[out, in]`.
    pub fn tensors(&self, hidden: usize) -> Vec<(String, Vec<usize>)> {
        let width = self.features.width(hidden);
        match self.kind {
            HeadKind::Linear => linear("head", width, self.classes).to_vec(),
            HeadKind::Mlp { hidden } => {
                let first = linear("head.fc1", width, hidden);
                let second = linear("head.fc2", hidden, self.classes);
                first.into_iter().chain(second).collect()
            }
        }
    }
}

/// A learned gate beside the classes, on the hidden layer of an MLP: linear, exact (erf) GELU, linear to one number, which is
/// larger where the classes are more likely right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSpec {
    /// Width between the two layers.
    pub hidden: usize,
}

impl GateSpec {
    /// Names and shapes of its tensors, on a hidden layer of width `trunk`; weights are `[out, in]`.
    pub fn tensors(&self, trunk: usize) -> Vec<(String, Vec<usize>)> {
        let first = linear("gate.fc1", trunk, self.hidden);
        let second = linear("gate.fc2", self.hidden, 1);
        first.into_iter().chain(second).collect()
    }
}

impl HeadSpec {
    /// The width of the hidden layer, if there is one.
    pub fn trunk(&self) -> Option<usize> {
        match self.kind {
            HeadKind::Linear => None,
            HeadKind::Mlp { hidden } => Some(hidden),
        }
    }
}

fn linear(name: &str, input: usize, output: usize) -> [(String, Vec<usize>); 2] {
    [
        (format!("{name}.weight"), vec![output, input]),
        (format!("{name}.bias"), vec![output]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_follow_from_kind_and_features() {
        let linear = HeadSpec {
            kind: HeadKind::Linear,
            features: Features::Cls,
            classes: 3,
        };
        assert_eq!(
            linear.tensors(8),
            [
                ("head.weight".to_owned(), vec![3, 8]),
                ("head.bias".to_owned(), vec![3])
            ]
        );
        let mlp = HeadSpec {
            kind: HeadKind::Mlp { hidden: 5 },
            features: Features::ClsMeanPatch,
            classes: 3,
        };
        let shapes: Vec<_> = mlp.tensors(8).into_iter().map(|(_, shape)| shape).collect();
        assert_eq!(shapes, [vec![5, 16], vec![5], vec![3, 5], vec![3]]);
    }
}
