//! Records as JSON lines, which `stage1 monitor` reads.

use super::{Records, resume::Done};
use anyhow::Context;
use stage1_core::bundle::Prediction;
use std::io::{self, BufRead, Write};

pub(super) struct JsonLines<W> {
    out: W,
    line: Vec<u8>,
}

impl<W: Write> JsonLines<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            line: Vec::new(),
        }
    }
}

impl<W: Write> Records for JsonLines<W> {
    fn push(&mut self, record: Prediction) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, &record)?;
        self.line.push(b'\n');
        self.out.write_all(&self.line)?;
        self.out.flush()
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}

/// The whole lines of a file that was being written.
pub(super) fn read<'a>(
    mut file: impl BufRead + 'a,
) -> impl Iterator<Item = anyhow::Result<Done>> + 'a {
    let mut end = 0;
    let mut line = Vec::new();
    std::iter::from_fn(move || {
        line.clear();
        match file.read_until(b'\n', &mut line) {
            Ok(_) if !line.ends_with(b"\n") => return None,
            Ok(read) => end += read as u64,
            Err(error) => return Some(Err(error.into())),
        }
        let parsed = serde_json::from_slice::<Prediction>(&line).context("not a record");
        Some(parsed.map(|record| Done {
            path: record.path,
            decision: record.decision,
            end,
        }))
    })
}
