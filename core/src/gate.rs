//! `gate.json`: whether a learned gate ranks the images of val_select better than the logits do, and so is deployed.

use crate::{
    artifact::{Digest, Document},
    config::GateLoss,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The comparison of a checkpoint's gate with scores of its logits, on val_select alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateDecision {
    /// Version of the format.
    pub schema_version: u32,
    /// The checkpoint whose gate it is.
    pub checkpoint_digest: Digest,
    /// How it was trained.
    pub loss: GateLoss,
    /// Images of val_select.
    pub images: u64,
    /// Independent units among them, which the bootstrap draws.
    pub units: u64,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// AUGRC of the gate: lower is better.
    pub augrc: f64,
    /// Each score of the logits that the gate was compared with.
    pub rivals: BTreeMap<String, GateRival>,
    /// Whether it is deployed: every interval of the differences lies below 0.
    pub ships: bool,
}

/// A score of the logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateRival {
    /// Its AUGRC.
    pub augrc: f64,
    /// The gate's AUGRC minus its.
    pub difference: f64,
    /// 95 % interval of that, by paired resamples of units.
    pub interval: [f64; 2],
}

impl GateRival {
    /// Whether the gate is better.
    pub fn is_beaten(&self) -> bool {
        self.interval[1] < 0.0
    }
}

impl GateDecision {
    /// In a sentence.
    pub fn sentence(&self) -> String {
        let standing: Vec<_> = self
            .rivals
            .iter()
            .filter(|(_, rival)| !rival.is_beaten())
            .map(|(name, _)| name.as_str())
            .collect();
        match self.ships {
            true => format!(
                "the gate is deployed: on val_select its AUGRC {:.4} is below that of {}, with intervals below 0",
                self.augrc,
                self.rivals.keys().cloned().collect::<Vec<_>>().join(", ")
            ),
            false => format!(
                "the gate isn't deployed: on val_select its AUGRC {:.4} isn't shown to be below that of {}; decisions rest on \
                 the logits",
                self.augrc,
                standing.join(", ")
            ),
        }
    }

    /// One line per rival.
    pub fn table(&self) -> Vec<String> {
        let line = |(name, rival): (&String, &GateRival)| {
            let [low, high] = rival.interval;
            format!(
                "{name}: AUGRC {:.4}; gate minus this {:+.4} [{low:+.4}, {high:+.4}]",
                rival.augrc, rival.difference
            )
        };
        self.rivals.iter().map(line).collect()
    }
}

impl Document for GateDecision {
    const KIND: &'static str = "gate.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        if self.rivals.is_empty() {
            return Err("the gate was compared with nothing".to_owned());
        }
        match self.ships == self.rivals.values().all(GateRival::is_beaten) {
            true => Ok(()),
            false => Err(format!(
                "ships is {}, the intervals say otherwise",
                self.ships
            )),
        }
    }
}
