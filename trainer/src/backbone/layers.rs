//! Tensors by role, and the two layers that everything is made of.

use stage1_core::{
    config::Precision,
    model::{Role, Weights},
};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Weights as libtorch tensors on one device.
pub(super) enum Tensors<'a> {
    /// Copied from where they were read.
    Read(&'a Weights, Device),
    /// Held by others too; they may have a graph.
    Held(&'a BTreeMap<Role, Tensor>),
}

impl Tensors<'_> {
    /// The tensor of a role that this architecture has.
    pub(super) fn get(&self, role: Role) -> Tensor {
        match self {
            Self::Read(weights, device) => {
                let shape: Vec<_> = weights.shape(role).iter().map(|&n| n as i64).collect();
                Tensor::from_slice(weights.get(role))
                    .reshape(shape)
                    .to_device(*device)
            }
            Self::Held(tensors) => tensors[&role].shallow_clone(),
        }
    }

    /// Whether this architecture has the role.
    pub(super) fn has(&self, role: Role) -> bool {
        match self {
            Self::Read(weights, _) => weights.has(role),
            Self::Held(tensors) => tensors.contains_key(&role),
        }
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
            half: None,
        }
    }
}

/// `x Wᵀ + b`.
pub(super) struct Linear {
    /// `[out, in]`.
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
    /// Both in bfloat16, for training in it.
    half: Option<(Tensor, Option<Tensor>)>,
}

impl Linear {
    pub(super) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }

    /// In this precision; bfloat16 only once [`Linear::keep_half`] was called.
    pub(super) fn forward_in(&self, x: &Tensor, precision: Precision) -> Tensor {
        match (precision, &self.half) {
            (Precision::Fp32, _) => self.forward(x),
            (Precision::Bf16, Some((weight, bias))) => {
                x.to_kind(Kind::BFloat16).linear(weight, bias.as_ref())
            }
            (Precision::Bf16, None) => {
                unreachable!("the copies are made before a training in bf16")
            }
        }
    }

    /// Makes copies in bfloat16, so that frozen weights aren't cast in each step.
    pub(super) fn keep_half(&mut self) {
        let half = |tensor: &Tensor| tensor.to_kind(Kind::BFloat16);
        self.half = Some((half(&self.weight), self.bias.as_ref().map(half)));
    }

    pub(super) fn outputs(&self) -> i64 {
        self.weight.size()[0]
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
