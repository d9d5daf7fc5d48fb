//! The only place that prints: answers to standard output, the story to standard error.

use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::EnvFilter;

/// Whether what was asked holds; decides between exit codes 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
}

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    pub(crate) fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Library warnings go to standard error; ONNX Runtime is talkative below `warn`.
    pub(crate) fn start_tracing(self) {
        let filter =
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,ort=warn"));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .without_time()
            .with_target(false)
            .init();
    }

    /// Prints the answer: `document` as JSON, or `text` for people.
    pub(crate) fn answer(self, document: &impl Serialize, text: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, document).map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}", text.trim_end())?;
        }
        Ok(out.flush()?)
    }

    /// Prints text that is the answer as it is, JSON or not.
    pub(crate) fn raw(self, text: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.trim_end())?;
        Ok(out.flush()?)
    }

    /// Tells what happens.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            self.tell(text);
        }
    }

    /// Tells what should worry the reader.
    pub(crate) fn warn(self, text: &str) {
        self.tell(&format!("warning: {text}"));
    }

    /// Tells why it failed; causes follow on the same line. With `--json` standard output gets `{"error": …}` too, so
    /// that a program that reads it isn't left with nothing.
    pub(crate) fn error(self, error: &anyhow::Error) {
        self.tell(&format!("error: {error:#}"));
        if self.json {
            let document = serde_json::json!({ "error": format!("{error:#}") });
            // Nobody may be listening any more; there is no one left to tell.
            _ = writeln!(io::stdout(), "{document}");
        }
    }

    fn tell(self, text: &str) {
        // A closed standard error must not end the work.
        _ = writeln!(io::stderr(), "{text}");
    }
}
