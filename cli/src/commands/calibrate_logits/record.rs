//! The ledger of a file of logits. It lies beside the file and goes by its name, whatever the file holds: neither a new
//! output folder nor more rows nor another model's logits of the same rows make a first attempt of a later one.

use super::division::{Division, contents_of};
use crate::{output::Output, steps::calibrate::check_spending};
use anyhow::ensure;
use stage1_calibration::{promise, rows::Shape};
use stage1_core::{
    artifact::Digest,
    certificate::{AnyPlan, Attempts, Certificate, Guarantee},
    config::CalibrateConfig,
    ledger::{self, Attempt, Entry, Kind, Ledger, LedgerState, Outcome},
    logits::LogitSet,
};
use std::path::{Path, PathBuf};

/// Rows without a bundle have no variant; ledgers name one.
const VARIANT: &str = "logits";

pub(super) struct Record {
    ledger: Ledger,
    /// Of the files of further sessions, whose rows are used, too.
    others: Vec<Ledger>,
    /// What the model says of the rows that certify: it stands for both.
    model: Digest,
    variant: String,
    output: Output,
}

/// Beside the file itself, whatever link leads to it.
pub(crate) fn ledger_of(logits: &Path, kind: Kind) -> ledger::Result<Ledger> {
    let file = logits.canonicalize().unwrap_or_else(|_| logits.to_owned());
    // A file of logits has no splits that it could be keyed by.
    Ledger::open(&file, Digest::of_bytes(b"a file of logits"), kind)
}

/// Other sessions beside the first are another attempt.
fn variant(sessions: &[LogitSet]) -> String {
    if sessions.is_empty() {
        return VARIANT.to_owned();
    }
    let each: Vec<Digest> = sessions.iter().map(contents_of).collect();
    let digest = Digest::of_json(&each);
    format!("{VARIANT} with {} ({})", sessions.len(), digest.short())
}

impl Record {
    /// `sessions` are those that certify with the first.
    pub(super) fn open(
        logits: &Path,
        joint: &[PathBuf],
        division: &Division,
        sessions: &[LogitSet],
        output: Output,
    ) -> anyhow::Result<Self> {
        let calib = &division.calib;
        Ok(Self {
            ledger: ledger_of(logits, Kind::Calib)?,
            others: joint
                .iter()
                .map(|path| ledger_of(path, Kind::Calib))
                .collect::<Result<_, _>>()?,
            model: contents_of(calib),
            variant: variant(sessions),
            output,
        })
    }

    /// Records the attempt, unless it is one that was made before; returns its number.
    pub(super) fn begin(
        &mut self,
        calib: Shape,
        settings: &CalibrateConfig,
        plan: &dyn Fn(u64) -> stage1_calibration::Result<AnyPlan>,
    ) -> anyhow::Result<u64> {
        let (model_digest, variant) = (self.model, self.variant.clone());
        let attempt = |number| -> anyhow::Result<Attempt> {
            Ok(promise::attempt(
                &plan(number)?,
                model_digest,
                variant.clone(),
                calib,
            ))
        };
        for ledger in self.ledgers() {
            check_spending(ledger, settings)?;
        }
        let number = self.number(&attempt)?;
        let mut is_new = false;
        for ledger in self.ledgers_mut() {
            let begun = ledger.begin_attempt_from(number, attempt)?;
            ensure!(
                begun.number == number,
                "{}: another calibration of these rows has begun just now; run this one again",
                ledger.path().display()
            );
            is_new |= !begun.repeated;
        }
        if !is_new {
            self.output.note(&format!(
                "the same as attempt {number}, which the ledger has"
            ));
        } else if number > 1 && settings.attempts == Attempts::Single {
            let what = match settings.guarantee {
                Guarantee::Expectation => "expectation",
                _ => "confidence",
            };
            let paths: Vec<_> = self
                .ledgers()
                .map(|l| l.path().display().to_string())
                .collect();
            self.output.warn(&format!(
                "attempt {number} on the rows of this file ({}): the {what} holds for one attempt; rows that are all new belong \
                 in a file of another name",
                paths.join(", ")
            ));
        }
        Ok(number)
    }

    /// One that no ledger has given to another attempt.
    fn number(&self, attempt: &dyn Fn(u64) -> anyhow::Result<Attempt>) -> anyhow::Result<u64> {
        let mut number = 1;
        loop {
            let mut all = number;
            for ledger in self.ledgers() {
                all = all.max(ledger.number_from(number, attempt)?.number);
            }
            if all == number {
                return Ok(number);
            }
            number = all;
        }
    }

    fn ledgers(&self) -> impl Iterator<Item = &Ledger> {
        std::iter::once(&self.ledger).chain(&self.others)
    }

    fn ledgers_mut(&mut self) -> impl Iterator<Item = &mut Ledger> {
        std::iter::once(&mut self.ledger).chain(&mut self.others)
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
        for ledger in self.ledgers_mut() {
            if ledger.outcome(attempt) != Some(&outcome) {
                ledger.append(Entry::Outcome(outcome.clone()))?;
            }
        }
        Ok(())
    }

    /// What an earlier certificate of the same rows recorded must still be there.
    pub(super) fn check(&mut self, earlier: &Certificate) {
        self.ledger.check(&earlier.calib_ledger);
        if let LedgerState::Unknown { reason } = self.ledger.state() {
            self.output.warn(&format!(
                "how often these rows were tried isn't known any more ({reason}): the certificate will say so"
            ));
        }
    }

    pub(super) fn state_at(&self, attempt: u64) -> LedgerState {
        self.ledger.state_at(attempt)
    }
}
