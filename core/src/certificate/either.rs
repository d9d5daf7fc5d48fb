//! Documents of either kind of promise.

use super::{ExpectationPlan, Guarantee, NotCertified, NotControlled, Plan};
use crate::artifact::{Digest, Document, json};
use serde::{Deserialize, Serialize};

/// `plan.json`, whatever is to be promised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AnyPlan {
    /// With confidence 1 − δ.
    Pac(Plan),
    /// On average.
    Expectation(ExpectationPlan),
}

impl AnyPlan {
    /// The digest that policy, certificate and ledger refer to: of the document's bytes.
    pub fn digest(&self) -> Digest {
        Digest::of_bytes(&json::to_bytes(self))
    }

    /// What is to be promised.
    pub fn guarantee(&self) -> Guarantee {
        match self {
            Self::Pac(_) => Guarantee::Pac,
            Self::Expectation(_) => Guarantee::Expectation,
        }
    }

    /// Number of the attempt on val_calib, from 1.
    pub fn attempt(&self) -> u64 {
        match self {
            Self::Pac(plan) => plan.attempt,
            Self::Expectation(plan) => plan.attempt,
        }
    }

    /// How many thresholds it names.
    pub fn thresholds(&self) -> usize {
        match self {
            Self::Pac(plan) => plan.candidates.len(),
            Self::Expectation(plan) => plan.candidates.len(),
        }
    }
}

impl Document for AnyPlan {
    const KIND: &'static str = Plan::KIND;
    const SCHEMA_VERSION: u32 = Plan::SCHEMA_VERSION;

    fn validate(&self) -> Result<(), String> {
        match self {
            Self::Pac(plan) => plan.validate(),
            Self::Expectation(plan) => plan.validate(),
        }
    }
}

/// `not-certified.json`, whatever was to be promised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AnyRefusal {
    /// With confidence 1 − δ.
    Pac(NotCertified),
    /// On average.
    Expectation(NotControlled),
}

impl Document for AnyRefusal {
    const KIND: &'static str = NotCertified::KIND;
    const SCHEMA_VERSION: u32 = NotCertified::SCHEMA_VERSION;

    fn validate(&self) -> Result<(), String> {
        match self {
            Self::Pac(refusal) => refusal.validate(),
            Self::Expectation(refusal) => refusal.validate(),
        }
    }
}
