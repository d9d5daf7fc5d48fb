//! Lines that name the line before: a change anywhere shows.

use super::Entry;
use crate::artifact::Digest;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// One line of a ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    schema_version: u32,
    /// Counts lines from 1.
    number: u64,
    /// The digest of the line before; of the splits' digest and the ledger's kind for the first.
    previous: Digest,
    pub(super) entry: Entry,
    /// The digest of all above.
    pub(super) digest: Digest,
}

impl Line {
    fn new(number: u64, previous: Digest, entry: Entry) -> Self {
        let digest = Digest::of_json(&(VERSION, number, previous, &entry));
        Self {
            schema_version: VERSION,
            number,
            previous,
            entry,
            digest,
        }
    }

    /// Its bytes in the file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("plain data has a JSON form");
        bytes.push(b'\n');
        bytes
    }
}

/// How a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// With a newline.
    Whole,
    /// With a whole line but for its newline.
    NoNewline,
    /// With part of a line, from this byte: a write that was interrupted, and that nobody was told had succeeded.
    Partial(u64),
}

/// The lines of a file, up to the first that is wrong.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    start: Digest,
    pub(super) lines: Vec<Line>,
    /// The first line that is wrong, and how.
    pub(super) fault: Option<String>,
    pub(super) tail: Tail,
}

impl Chain {
    pub(super) fn parse(start: Digest, bytes: &[u8]) -> Self {
        let mut chain = Self {
            start,
            lines: Vec::new(),
            fault: None,
            tail: Tail::Whole,
        };
        let end = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let (whole, rest) = bytes.split_at(end);
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            if let Err(reason) = chain.take(line) {
                chain.fault = Some(format!("line {} {reason}", chain.lines.len() + 1));
                return chain;
            }
        }
        if !rest.is_empty() {
            let taken = chain.take(rest).is_ok();
            chain.tail = if taken {
                Tail::NoNewline
            } else {
                Tail::Partial(end as u64)
            };
        }
        chain
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let line: Line =
            serde_json::from_slice(bytes).map_err(|error| format!("can't be read: {error}"))?;
        if line.schema_version != VERSION {
            return Err(format!(
                "has schema_version {}, expected {VERSION}",
                line.schema_version
            ));
        }
        if line.previous != self.head() || line.number != self.lines.len() as u64 + 1 {
            return Err(
                "doesn't follow the line before: lines are missing, or from another ledger"
                    .to_owned(),
            );
        }
        let want = Line::new(line.number, line.previous, line.entry.clone());
        if line != want {
            return Err("was changed after it was written".to_owned());
        }
        self.lines.push(line);
        Ok(())
    }

    /// What two files of one ledger say together: the lines of the longer one, which must go on where the other ends.
    pub(super) fn joined(self, other: Self) -> Self {
        let (mut longer, other) = match self.lines.len() >= other.lines.len() {
            true => (self, other),
            false => (other, self),
        };
        let differs = longer.head_after(other.lines.len() as u64) != Some(other.head());
        let fault = longer.fault.take().or(other.fault);
        longer.fault = fault.or_else(|| {
            differs.then(|| {
                "its copies hold different entries, of attempts that didn't know of each other"
                    .to_owned()
            })
        });
        longer
    }

    /// What the first line follows.
    pub(super) const fn start(&self) -> Digest {
        self.start
    }

    /// The line that would come next.
    pub(super) fn next(&self, entry: Entry) -> Line {
        Line::new(self.lines.len() as u64 + 1, self.head(), entry)
    }

    /// The digest of the last line.
    pub(super) fn head(&self) -> Digest {
        self.lines.last().map_or(self.start, |line| line.digest)
    }

    /// The digest of the first `entries` lines, if there are so many.
    pub(super) fn head_after(&self, entries: u64) -> Option<Digest> {
        match usize::try_from(entries).ok()? {
            0 => Some(self.start),
            entries => self.lines.get(entries - 1).map(|line| line.digest),
        }
    }
}
