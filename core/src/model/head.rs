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

/// The blocks of a vision transformer that a head reads, counted from 1, each after the final norm, concatenated from the
/// shallowest on; none: the last one that is run. (DINOv2's linear evaluation reads the last four.)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<usize>", into = "Vec<usize>")]
pub struct ReadBlocks(u64);

impl ReadBlocks {
    /// The last one that is run.
    pub const LAST: Self = Self(0);
    /// The deepest block that can be named.
    pub const DEEPEST: usize = 64;

    /// These blocks; none unless there is one at least, and they rise from 1 to [`ReadBlocks::DEEPEST`] at most.
    pub fn new(blocks: &[usize]) -> Option<Self> {
        let known = |block: &usize| (1..=Self::DEEPEST).contains(block);
        let rises = blocks.is_sorted_by(|a, b| a < b);
        let fits = !blocks.is_empty() && rises && blocks.iter().all(known);
        let bits = || blocks.iter().fold(0, |bits, block| bits | 1 << (block - 1));
        fits.then(|| Self(bits()))
    }

    /// Whether it is the last one that is run.
    pub fn is_last(&self) -> bool {
        *self == Self::LAST
    }

    /// How many blocks are read.
    pub fn count(self) -> usize {
        (self.0.count_ones() as usize).max(1)
    }

    /// The blocks, ascending, of a backbone that runs `depth`.
    pub fn of(self, depth: usize) -> Vec<usize> {
        match self.is_last() {
            true => vec![depth],
            false => self.into(),
        }
    }
}

impl From<ReadBlocks> for Vec<usize> {
    fn from(blocks: ReadBlocks) -> Self {
        let is_read = |block: &usize| blocks.0 >> (block - 1) & 1 == 1;
        (1..=ReadBlocks::DEEPEST).filter(is_read).collect()
    }
}

impl TryFrom<Vec<usize>> for ReadBlocks {
    type Error = String;

    fn try_from(blocks: Vec<usize>) -> Result<Self, String> {
        Self::new(&blocks).ok_or_else(|| {
            let deepest = Self::DEEPEST;
            format!("blocks {blocks:?}, expected numbers that rise from 1 to {deepest} at most")
        })
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
    /// Its input, of each block that it reads.
    pub features: Features,
    /// The blocks that it reads.
    #[serde(default, skip_serializing_if = "ReadBlocks::is_last")]
    pub blocks: ReadBlocks,
    /// Number of classes K, the width of the logits.
    pub classes: usize,
}

impl HeadSpec {
    /// The width F of its input, for a backbone of width `hidden`.
    pub fn width(&self, hidden: usize) -> usize {
        self.blocks.count() * self.features.width(hidden)
    }

    /// Names and shapes of the head's tensors, for a backbone of width `hidden`; weights are `[out, in]`.
    pub fn tensors(&self, hidden: usize) -> Vec<(String, Vec<usize>)> {
        let width = self.width(hidden);
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
            blocks: ReadBlocks::LAST,
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
            blocks: ReadBlocks::LAST,
            classes: 3,
        };
        let shapes: Vec<_> = mlp.tensors(8).into_iter().map(|(_, shape)| shape).collect();
        assert_eq!(shapes, [vec![5, 16], vec![5], vec![3, 5], vec![3]]);
    }

    #[test]
    fn several_blocks_are_as_many_features_and_the_last_one_alone_is_not_written() {
        let spec = |blocks| HeadSpec {
            kind: HeadKind::Linear,
            features: Features::ClsMeanPatch,
            blocks,
            classes: 3,
        };
        let (last, two) = (
            spec(ReadBlocks::LAST),
            spec(ReadBlocks::new(&[6, 12]).unwrap()),
        );
        assert_eq!((last.width(8), two.width(8)), (16, 32));
        assert_eq!(two.tensors(8)[0].1, [3, 32]);
        assert_eq!(
            (last.blocks.of(12), two.blocks.of(12)),
            (vec![12], vec![6, 12])
        );
        let text = serde_json::to_string(&last).unwrap();
        assert!(!text.contains("blocks"), "{text}");
        let text = serde_json::to_string(&two).unwrap();
        assert!(text.contains("[6,12]"), "{text}");
        assert_eq!(serde_json::from_str::<HeadSpec>(&text).unwrap(), two);
        for wrong in [&[][..], &[0], &[6, 6], &[12, 6], &[65]] {
            assert_eq!(ReadBlocks::new(wrong), None, "{wrong:?}");
        }
        assert_eq!(ReadBlocks::new(&[1, 64]).unwrap().of(64), [1, 64]);
        assert!(serde_json::from_str::<HeadSpec>(&text.replace("[6,12]", "[12,6]")).is_err());
    }
}
