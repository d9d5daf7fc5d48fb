//! What was done with val_calib and val_test, in files that only grow.
//!
//! A ledger lies beside `splits.json` and is keyed by its digest, so that the same splits keep their history. It is a file
//! of JSON lines, each with the digest of the line before. A line is appended under a lock and synced before
//! [`Ledger::append`] returns; only then may the labels be read that it stands for.
//!
//! Run directories share it ([`Ledger::open_of_run`]): a second file, in the folder `.stage1` of the data (of a table of
//! paths: where these begin, and beside the table), holds the same lines. Whichever of the two is shorter (a copied run directory's) or missing (a new one's) is brought up to date by the
//! next append, so that no run directory of the same splits starts anew. Where the data's folder can't be written to, the
//! folder above the run directory takes its place.
//!
//! - A last line without its end is an append that was interrupted: it was not acknowledged, so nothing depended on it. It
//!   is completed if only the newline is missing, and otherwise cut off by the next append.
//! - Any other line that is wrong makes the ledger *unknown*: nothing is appended to it any more.
//! - A ledger that lacks entries which a certificate recorded ([`Ledger::check`]) is unknown, too. The next append then
//!   writes a [`Entry::Break`] first, so that it stays unknown.

mod chain;
mod copies;
mod entry;
mod error;

pub use entry::{Attempt, Break, Entry, Opening, Outcome, Ruling, Verdict};
pub use error::{Error, Result};

use crate::artifact::Digest;
use chain::Chain;
use copies::{Copies, Places};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Which ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Attempts on val_calib.
    Calib,
    /// Openings of val_test.
    Test,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Calib => "calib",
            Self::Test => "test",
        }
    }
}

/// What is known of a ledger; certificates record it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum LedgerState {
    /// All its entries are there.
    Known {
        /// How many.
        entries: u64,
        /// The digest of the last one (of nothing but the splits' digest and the ledger's kind, if there is none).
        head: Digest,
    },
    /// Entries are missing or were changed: how often the split was used can't be told.
    Unknown {
        /// What is wrong with it.
        reason: String,
    },
}

/// An attempt or an opening that may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Its number, from 1.
    pub number: u64,
    /// Whether the ledger had it already: repeating it is no further use of the split.
    pub repeated: bool,
}

/// A ledger, as it was read last.
#[derive(Debug)]
pub struct Ledger {
    places: Places,
    start: Digest,
    chain: Chain,
    /// Entries that were recorded elsewhere aren't there.
    lost: Option<String>,
    is_private: bool,
}

impl Ledger {
    /// Reads the ledger beside `splits_path`; a file that isn't there is a ledger without entries. Nothing is written.
    ///
    /// # Errors
    /// [`Error::Io`]. A damaged ledger is no error here: see [`Ledger::state`].
    pub fn open(splits_path: &Path, splits_digest: Digest, kind: Kind) -> Result<Self> {
        let path = splits_path.with_file_name(file_name(splits_path, splits_digest, kind));
        Self::read(Places::alone(path), splits_digest, kind)
    }

    /// As [`Ledger::open`], for the splits of a run directory, shared with all others of the same splits: `source` are the
    /// images, a folder or a table of their paths, and `root` the folder that these begin in, if it is named.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_of_run(
        splits_path: &Path,
        (source, root): (&Path, Option<&Path>),
        splits_digest: Digest,
        kind: Kind,
    ) -> Result<Self> {
        let own = splits_path.with_file_name(file_name(splits_path, splits_digest, kind));
        Self::read(Places::of_run(own, source, root), splits_digest, kind)
    }

    fn read(places: Places, splits_digest: Digest, kind: Kind) -> Result<Self> {
        let start = Digest::of_json(&("stage1 ledger", kind.name(), splits_digest));
        Ok(Self {
            chain: places.read(start)?,
            places,
            start,
            lost: None,
            is_private: false,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.places.own
    }

    /// Whether the last append didn't reach the data's folder, which can't be written to: run directories of the same splits
    /// elsewhere don't see it.
    pub const fn is_private(&self) -> bool {
        self.is_private
    }

    /// Its entries, up to the first line that is wrong.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.chain.lines.iter().map(|line| &line.entry)
    }

    /// Compares it with what was recorded of it elsewhere (in a certificate): entries that were there then and aren't now
    /// make it unknown.
    pub fn check(&mut self, recorded: &LedgerState) {
        let LedgerState::Known { entries, head } = recorded else {
            return;
        };
        if self.chain.head_after(*entries) == Some(*head) {
            return;
        }
        let reason = match self.chain.lines.len() as u64 {
            0 => format!("{}: missing, {entries} entries are recorded", self.name()),
            n if n < *entries => format!("{}: {n} entries, {entries} are recorded", self.name()),
            _ => format!(
                "{}: its first {entries} entries aren't those that are recorded",
                self.name()
            ),
        };
        self.lost.get_or_insert(reason);
    }

    /// What is known of it.
    pub fn state(&self) -> LedgerState {
        let broken = self.entries().find_map(|entry| match entry {
            Entry::Break(Break { reason }) => Some(reason.clone()),
            _ => None,
        });
        let fault = self
            .chain
            .fault
            .as_ref()
            .map(|fault| format!("{}: {fault}", self.name()));
        match fault.or(broken).or_else(|| self.lost.clone()) {
            Some(reason) => LedgerState::Unknown { reason },
            None => LedgerState::Known {
                entries: self.chain.lines.len() as u64,
                head: self.chain.head(),
            },
        }
    }

    /// What was known of it when this attempt began, whatever came later: the same attempt, repeated, gets the same
    /// certificate.
    pub fn state_at(&self, attempt: u64) -> LedgerState {
        let begins = |entry: &Entry| matches!(entry, Entry::Attempt(one) if one.number == attempt);
        let place = self.entries().position(begins);
        match (self.state(), place) {
            (LedgerState::Known { .. }, Some(place)) => LedgerState::Known {
                entries: place as u64 + 1,
                head: self.chain.lines[place].digest,
            },
            (state, _) => state,
        }
    }

    /// Adds an entry; when this returns, it is on the disk. Returns the new head.
    ///
    /// Attempts and openings get their numbers by [`Ledger::begin_attempt`] and [`Ledger::begin_opening`].
    ///
    /// # Errors
    /// [`Error::Damaged`] if a line is wrong, [`Error::Rewritten`] if lines that were read before are gone, [`Error::Io`].
    pub fn append(&mut self, entry: Entry) -> Result<Digest> {
        self.locked(|ledger, copies| ledger.write(copies, entry))
    }

    /// Records an attempt before the labels of val_calib are read, unless the very same is recorded. `attempt` gives it for
    /// a number from 1, on which its plan may depend (its level, if attempts are spending).
    ///
    /// # Errors
    /// As [`Ledger::append`], and those of `attempt`.
    pub fn begin_attempt<E: From<Error>>(
        &mut self,
        attempt: impl Fn(u64) -> Result<Attempt, E>,
    ) -> Result<Begun, E> {
        self.begin_attempt_from(1, attempt)
    }

    /// As [`Ledger::begin_attempt`], with a number from `least` on: what is on record in several ledgers has one number in all.
    ///
    /// # Errors
    /// As [`Ledger::begin_attempt`].
    pub fn begin_attempt_from<E: From<Error>>(
        &mut self,
        least: u64,
        attempt: impl Fn(u64) -> Result<Attempt, E>,
    ) -> Result<Begun, E> {
        self.locked(|ledger, copies| {
            let begun = ledger.number_from(least, &attempt)?;
            if !begun.repeated {
                ledger.write(copies, Entry::Attempt(attempt(begun.number)?))?;
            }
            Ok(begun)
        })
    }

    /// What [`Ledger::begin_attempt_from`] would return; nothing is written.
    ///
    /// # Errors
    /// Those of `attempt`.
    pub fn number_from<E>(
        &self,
        least: u64,
        attempt: impl Fn(u64) -> Result<Attempt, E>,
    ) -> Result<Begun, E> {
        for known in self.attempts().filter(|known| known.number >= least) {
            if attempt(known.number)? == *known {
                return Ok(Begun {
                    number: known.number,
                    repeated: true,
                });
            }
        }
        let last = self.attempts().map(|attempt| attempt.number).max();
        Ok(Begun {
            number: last.map_or(1, |last| last + 1).max(least),
            repeated: false,
        })
    }

    /// Records an opening of val_test before its labels are read, unless this bundle has opened it before; judging it
    /// again at another `gamma` is refused.
    ///
    /// # Errors
    /// As [`Ledger::append`]; [`Error::OtherLevel`].
    pub fn begin_opening(&mut self, bundle_digest: Digest, gamma: f64) -> Result<Begun> {
        self.locked(|ledger, copies| {
            let same = |opening: &&Opening| opening.bundle_digest == bundle_digest;
            if let Some(opening) = ledger.openings().find(same) {
                if opening.gamma.to_bits() != gamma.to_bits() {
                    return Err(Error::OtherLevel {
                        path: ledger.path().to_owned(),
                        opening: opening.number,
                        recorded: opening.gamma,
                        asked: gamma,
                    });
                }
                return Ok(Begun {
                    number: opening.number,
                    repeated: true,
                });
            }
            let number = ledger.openings().count() as u64 + 1;
            ledger.write(
                copies,
                Entry::Opening(Opening {
                    number,
                    bundle_digest,
                    gamma,
                }),
            )?;
            Ok(Begun {
                number,
                repeated: false,
            })
        })
    }

    /// The attempts on val_calib.
    pub fn attempts(&self) -> impl DoubleEndedIterator<Item = &Attempt> {
        self.entries().filter_map(|entry| match entry {
            Entry::Attempt(attempt) => Some(attempt),
            _ => None,
        })
    }

    /// The openings of val_test.
    pub fn openings(&self) -> impl DoubleEndedIterator<Item = &Opening> {
        self.entries().filter_map(|entry| match entry {
            Entry::Opening(opening) => Some(opening),
            _ => None,
        })
    }

    /// The outcome of an attempt, if it came to one.
    pub fn outcome(&self, attempt: u64) -> Option<&Outcome> {
        self.entries().find_map(|entry| match entry {
            Entry::Outcome(outcome) if outcome.attempt == attempt => Some(outcome),
            _ => None,
        })
    }

    /// The verdict of an opening, if it came to one.
    pub fn verdict(&self, opening: u64) -> Option<&Verdict> {
        self.entries().find_map(|entry| match entry {
            Entry::Verdict(verdict) if verdict.opening == opening => Some(verdict),
            _ => None,
        })
    }

    /// The file's name, for states that are written into certificates: no folders.
    fn name(&self) -> String {
        self.path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Runs `change` on what the files hold now, while no other process can write to them.
    fn locked<T, E: From<Error>>(
        &mut self,
        change: impl FnOnce(&mut Self, &mut Copies) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut copies = self.places.lock()?;
        self.is_private = !copies.are_shared() && self.places.are_shared();
        self.read_again()?;
        copies.catch_up(&self.chain)?;
        self.record_loss(&mut copies)?;
        change(self, &mut copies)
        // Dropping the files releases their locks.
    }

    /// Takes in what other processes appended.
    fn read_again(&mut self) -> Result<()> {
        let now = self.places.read(self.start)?;
        if let Some(fault) = now.fault {
            return Err(Error::Damaged {
                path: self.places.damaged(self.start).to_owned(),
                fault,
            });
        }
        let entries = self.chain.lines.len() as u64;
        if now.head_after(entries) != Some(self.chain.head()) {
            return Err(Error::Rewritten {
                path: self.path().to_owned(),
                entries,
            });
        }
        self.chain = now;
        Ok(())
    }

    /// Writes down that entries are missing, once.
    fn record_loss(&mut self, copies: &mut Copies) -> Result<()> {
        let recorded = self.entries().any(|entry| matches!(entry, Entry::Break(_)));
        match self.lost.take().filter(|_| !recorded) {
            Some(reason) => self
                .write(copies, Entry::Break(Break { reason }))
                .map(|_| ()),
            None => Ok(()),
        }
    }

    fn write(&mut self, copies: &mut Copies, entry: Entry) -> Result<Digest> {
        let line = self.chain.next(entry);
        copies.append(&line)?;
        self.chain.lines.push(line);
        Ok(self.chain.head())
    }
}

fn file_name(splits_path: &Path, splits_digest: Digest, kind: Kind) -> String {
    let stem = splits_path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    format!(
        "{stem}.{}.{}-ledger.jsonl",
        splits_digest.short(),
        kind.name()
    )
}
