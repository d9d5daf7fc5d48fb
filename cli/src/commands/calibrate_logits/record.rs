//! The ledger of a file of logits. It lies beside the file and goes by its name, whatever the file holds: neither a new
//! output folder nor more rows nor another model's logits of the same rows make a first attempt of a later one.

use super::division::{Division, contents_of};
use crate::output::Output;
use stage1_core::{
    artifact::Digest,
    certificate::Plan,
    ledger::{Attempt, Entry, Kind, Ledger, LedgerState, Outcome},
};
use std::path::Path;

/// Rows without a bundle have no variant; ledgers name one.
const VARIANT: &str = "logits";

pub(super) struct Record {
    ledger: Ledger,
    /// What the model says of the rows that certify: it stands for both.
    model: Digest,
    rows: u64,
    output: Output,
}

impl Record {
    pub(super) fn open(logits: &Path, division: &Division, output: Output) -> anyhow::Result<Self> {
        let calib = &division.calib;
        Ok(Self {
            ledger: Ledger::open(logits, Digest::of_bytes(b"a file of logits"), Kind::Calib)?,
            model: contents_of(calib),
            rows: calib.n() as u64,
            output,
        })
    }

    /// Records the attempt, unless it is one that was made before; returns its number.
    pub(super) fn begin(
        &mut self,
        units: u64,
        plan: &dyn Fn(u64) -> stage1_calibration::Result<Plan>,
    ) -> anyhow::Result<u64> {
        let (model_digest, rows) = (self.model, self.rows);
        let attempt = |number| -> anyhow::Result<Attempt> {
            let plan = plan(number)?;
            Ok(Attempt {
                number,
                model_digest,
                plan_digest: plan.digest(),
                variant: VARIANT.to_owned(),
                alpha: plan.alpha,
                delta: plan.delta,
                level: plan.level,
                rows,
                units,
            })
        };
        let begun = self.ledger.begin_attempt(attempt)?;
        if begun.repeated {
            self.output.note(&format!(
                "the same as attempt {}, which the ledger has",
                begun.number
            ));
        } else if begun.number > 1 {
            self.output.warn(&format!(
                "attempt {} on the rows of this file ({}): the confidence holds for one attempt; rows that are all new belong \
                 in a file of another name",
                begun.number,
                self.ledger.path().display()
            ));
        }
        Ok(begun.number)
    }

    /// Records what the attempt came to, once.
    pub(super) fn conclude(
        &mut self,
        attempt: u64,
        policy_digest: Option<Digest>,
    ) -> anyhow::Result<()> {
        let outcome = Outcome {
            attempt,
            policy_digest,
        };
        if self.ledger.outcome(attempt) != Some(&outcome) {
            self.ledger.append(Entry::Outcome(outcome))?;
        }
        Ok(())
    }

    pub(super) fn state(&self) -> LedgerState {
        self.ledger.state()
    }
}
