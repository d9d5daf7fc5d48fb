//! Linear layers on their way into a graph: what can be folded into their weights is folded here.

use stage1_core::model::{Role, Weights};

/// `y = W x + b` with `W` as `[out, in]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Linear {
    inputs: usize,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Linear {
    pub(crate) fn new(inputs: usize, weight: Vec<f32>, bias: Option<Vec<f32>>) -> Self {
        Self {
            inputs,
            weight,
            bias,
        }
    }

    /// The layer with this weight, and this bias if the backbone has it.
    pub(crate) fn of(weights: &Weights, weight: Role, bias: Role) -> Self {
        let inputs = weights.shape(weight)[1];
        let bias = weights.has(bias).then(|| weights.get(bias).to_vec());
        Self::new(inputs, weights.get(weight).to_vec(), bias)
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> usize {
        self.weight.len() / self.inputs
    }

    pub(crate) fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// The weight as `[in, out]`.
    pub(crate) fn transposed(&self) -> Vec<f32> {
        /// Rows that are written together, so that a cache line that was fetched is filled.
        const TOGETHER: usize = 16;
        let outputs = self.outputs();
        let mut transposed = vec![0.0; self.weight.len()];
        for (block, rows) in self.weight.chunks(TOGETHER * self.inputs).enumerate() {
            let (first, count) = (block * TOGETHER, rows.len() / self.inputs);
            for (input, line) in transposed.chunks_exact_mut(outputs).enumerate() {
                for (out, value) in line[first..first + count].iter_mut().enumerate() {
                    *value = rows[out * self.inputs + input];
                }
            }
        }
        transposed
    }

    /// The layer followed by a multiplication of output `i` with `factors[i]`.
    pub(crate) fn scaled(mut self, factors: &[f32]) -> Self {
        let rows = self.weight.chunks_exact_mut(self.inputs);
        for (row, factor) in rows.zip(factors) {
            row.iter_mut().for_each(|value| *value *= factor);
        }
        for (value, factor) in self.bias.iter_mut().flatten().zip(factors) {
            *value *= factor;
        }
        self
    }

    /// The layers as one, outputs one after the other; a layer without bias gets zeros if another has one.
    pub(crate) fn stacked<const N: usize>(layers: [Self; N]) -> Self {
        let inputs = layers[0].inputs;
        let biased = layers.iter().any(|layer| layer.bias.is_some());
        let mut stack = Self::new(inputs, Vec::new(), biased.then(Vec::new));
        for layer in layers {
            let outputs = layer.outputs();
            stack.weight.extend(layer.weight);
            if let Some(bias) = &mut stack.bias {
                bias.extend(layer.bias.unwrap_or_else(|| vec![0.0; outputs]));
            }
        }
        stack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_are_those_of_the_formula() {
        let a = Linear::new(2, vec![1.0, 2.0, 3.0, 4.0], Some(vec![5.0, 6.0]));
        let b = Linear::new(2, vec![7.0, 8.0], None);
        let stack = Linear::stacked([a.scaled(&[1.0, 10.0]), b]);
        assert_eq!((stack.inputs(), stack.outputs()), (2, 3));
        assert_eq!(stack.transposed(), [1.0, 30.0, 7.0, 2.0, 40.0, 8.0]);
        assert_eq!(stack.bias(), Some(&[5.0, 60.0, 0.0][..]));
        let bare = Linear::stacked([
            Linear::new(1, vec![1.0], None),
            Linear::new(1, vec![2.0], None),
        ]);
        assert_eq!(bare.bias(), None);
    }
}
