//! Tensors by role, and the two layers that everything is made of.

use stage1_core::model::{Role, Weights};
use tch::{Device, Tensor};

/// Weights as libtorch tensors on one device.
pub(super) struct Tensors<'a> {
    weights: &'a Weights,
    device: Device,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(weights: &'a Weights, device: Device) -> Self {
        Self { weights, device }
    }

    /// The tensor of a role that this architecture has.
    pub(super) fn get(&self, role: Role) -> Tensor {
        let shape: Vec<_> = self.weights.shape(role).iter().map(|&n| n as i64).collect();
        Tensor::from_slice(self.weights.get(role))
            .reshape(shape)
            .to_device(self.device)
    }

    /// Whether this architecture has the role.
    pub(super) fn has(&self, role: Role) -> bool {
        self.weights.has(role)
    }

    /// The tensor of a role that this architecture may lack.
    pub(super) fn find(&self, role: Role) -> Option<Tensor> {
        self.has(role).then(|| self.get(role))
    }

    pub(super) fn norm(&self, weight: Role, bias: Role, epsilon: f64) -> LayerNorm {
        LayerNorm {
            weight: self.get(weight),
            bias: self.get(bias),
            epsilon,
        }
    }

    pub(super) fn linear(&self, weight: Role, bias: Role) -> Linear {
        Linear {
            weight: self.get(weight),
            bias: self.find(bias),
        }
    }
}

/// `x Wᵀ + b`.
pub(super) struct Linear {
    /// `[out, in]`.
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// Layer norm over the last axis.
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(
            self.weight.size(),
            Some(&self.weight),
            Some(&self.bias),
            self.epsilon,
            false,
        )
    }
}
