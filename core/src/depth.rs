//! `depth.json`: which block of the backbone a training lets its head read, and how each candidate did on val_select.

use crate::{
    artifact::{Digest, Document},
    config::SelectionMetric,
    events::Metrics,
};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// The choice, and what it rests on: heads that were trained on `train` and judged on val_select, nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepthChoice {
    /// Version of the format.
    pub schema_version: u32,
    /// The digest of everything that the choice depended on.
    pub inputs_digest: Digest,
    /// The splits that named the images.
    pub splits_digest: Digest,
    /// What heads were compared by.
    pub metric: SelectionMetric,
    /// How much worse than the best one the chosen one may be.
    pub tolerance: f64,
    /// Blocks that the backbone has.
    pub layers: usize,
    /// Images of val_select.
    pub images: usize,
    /// Independent units among them, which the intervals resample.
    pub units: usize,
    /// The blocks, ascending.
    pub candidates: Vec<DepthCandidate>,
    /// The best one.
    pub best: usize,
    /// The shallowest one within the tolerance.
    pub chosen: usize,
}

/// A block and its head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepthCandidate {
    /// How many blocks are run.
    pub blocks: usize,
    /// The epoch that the head is from.
    pub epoch: usize,
    /// All metrics on val_select.
    pub metrics: Metrics,
    /// 95 % percentile interval of the compared metric, by units of val_select.
    pub interval: [f64; 2],
    /// How much worse than the best block, in the metric's unit; 0 of the best one.
    pub behind: f64,
    /// 95 % percentile interval of that, from the same resamples for both.
    pub behind_interval: [f64; 2],
}

impl Document for DepthChoice {
    const KIND: &'static str = "depth.json";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        let blocks: Vec<_> = self.candidates.iter().map(|c| c.blocks).collect();
        if !blocks.is_sorted_by(|a, b| a < b) {
            return Err(format!("candidates are {blocks:?}, expected ascending"));
        }
        for named in [self.best, self.chosen] {
            if !blocks.contains(&named) {
                return Err(format!("block {named} isn't among {blocks:?}"));
            }
        }
        if let Some(c) = self.candidates.iter().find(|c| !c.behind.is_finite()) {
            return Err(format!("block {} is {} behind", c.blocks, c.behind));
        }
        Ok(())
    }
}

impl DepthChoice {
    /// In a sentence.
    pub fn sentence(&self) -> String {
        format!(
            "block {} of {}: the shallowest one whose head is within {} ({}) of the best, block {}",
            self.chosen,
            self.layers,
            self.tolerance,
            self.metric.name(),
            self.best
        )
    }

    /// A table, one candidate to the line.
    pub fn table(&self) -> Vec<String> {
        self.candidates
            .iter()
            .map(|candidate| self.line(candidate))
            .collect()
    }

    /// One line of the table.
    pub fn line(&self, candidate: &DepthCandidate) -> String {
        let name = self.metric.name();
        let [low, high] = candidate.interval;
        let mut line = format!(
            "block {:>2}: {name} {:.4} [{low:.4}, {high:.4}]",
            candidate.blocks, candidate.metrics[name]
        );
        if candidate.blocks != self.best {
            let [low, high] = candidate.behind_interval;
            _ = write!(
                line,
                ", {:.4} [{low:.4}, {high:.4}] behind the best",
                candidate.behind
            );
        }
        if candidate.blocks == self.best {
            line.push_str(", the best");
        }
        if candidate.blocks == self.chosen {
            line.push_str(", chosen");
        }
        line
    }
}
