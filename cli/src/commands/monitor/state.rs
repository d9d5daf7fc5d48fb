//! What is kept between two times.

use crate::args::MonitorArgs;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use stage1_calibration::monitor::Monitor;
use stage1_core::artifact::{Digest, Document, json};
use std::path::Path;

/// The state file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    schema_version: u32,
    /// Of the policy and the model that decide.
    subject: Digest,
    /// Of the monitor before its first row: bins, bag, and all settings.
    origin: Digest,
    /// Files that were read, and how far.
    pub(super) read: Vec<Mark>,
    pub(super) monitor: Monitor,
}

/// The first `bytes` bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    pub(super) bytes: u64,
    pub(super) digest: Digest,
    /// The mark that this one goes on from.
    #[serde(skip)]
    pub(super) before: Option<Digest>,
}

impl Mark {
    pub(super) fn of_nothing() -> Self {
        Self {
            bytes: 0,
            digest: Digest::of_bytes(b""),
            before: None,
        }
    }

    /// Takes the place of the mark that it goes on from.
    pub(super) fn replace_in(self, marks: &mut Vec<Self>) {
        marks.retain(|mark| Some(mark.digest) != self.before && mark.digest != self.digest);
        if self.bytes > 0 {
            marks.push(self);
        }
    }
}

impl Document for State {
    const KIND: &'static str = "state of a monitor";
    const SCHEMA_VERSION: u32 = 1;

    fn validate(&self) -> Result<(), String> {
        self.monitor.validate()
    }
}

impl State {
    /// The state that `args` names, if it is one of this subject and began as `fresh`; else a new one.
    pub(super) fn open(
        args: &MonitorArgs,
        subject: Digest,
        fresh: Monitor,
    ) -> anyhow::Result<Self> {
        let new = Self {
            schema_version: Self::SCHEMA_VERSION,
            subject,
            origin: Digest::of_json(&fresh),
            read: Vec::new(),
            monitor: fresh,
        };
        let Some(path) = args.state.as_ref().filter(|path| path.exists()) else {
            return Ok(new);
        };
        let (found, _) = json::load::<Self>(path)?;
        found.check(&new).with_context(|| {
            format!(
                "{} can't be gone on with; name another file with --state to begin anew",
                path.display()
            )
        })?;
        Ok(found)
    }

    fn check(&self, new: &Self) -> anyhow::Result<()> {
        if self.subject != new.subject {
            bail!("it is of another bundle or policy");
        }
        let (was, is) = (&self.monitor, &new.monitor);
        if differ(was.drift.level(), is.drift.level()) {
            bail!(
                "it was begun with --level {}, now it is {}",
                was.drift.level(),
                is.drift.level()
            );
        }
        if was.drift.seed() != is.drift.seed() {
            bail!(
                "it was begun with --seed {}, now it is {}",
                was.drift.seed(),
                is.drift.seed()
            );
        }
        let alpha = |monitor: &Monitor| monitor.risk.as_ref().map(|risk| risk.alpha());
        match (alpha(was), alpha(is)) {
            (Some(was), Some(is)) if differ(was, is) => {
                bail!("it holds answers to a risk of {was}, now it is {is}")
            }
            (Some(was), None) => bail!("it holds answers to a risk of {was}, now there is none"),
            (None, Some(is)) => bail!("it was begun without a risk, now answers are held to {is}"),
            _ => {}
        }
        if self.origin != new.origin {
            bail!("the reference has changed: the logits of val_select or val_calib are others");
        }
        Ok(())
    }

    pub(super) fn save(&self, path: &Path) -> anyhow::Result<()> {
        json::save(self, path)?;
        Ok(())
    }
}

/// Numbers that were written by this program come back bit by bit.
fn differ(a: f64, b: f64) -> bool {
    a.to_bits() != b.to_bits()
}
