//! The only place that prints: answers to standard output, the story to standard error.

use crate::args::LogFormat;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::EnvFilter;

/// Whether what was asked holds; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
    /// It failed, and everything that is to be said has been: records must not be followed by a document of errors.
    Failed,
}

/// The error and its causes on one line. Many errors of libraries tell their cause themselves: it isn't told twice.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !last.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        last = cause;
    }
    text
}

/// `p = 0.042`, `p = 3.1e-7`: three decimals would make zeros of small ones, and no p-value is zero.
pub(crate) fn p_equals(p: f64) -> String {
    if p <= 0.0 {
        // Below the smallest number that a float holds.
        format!("p < {:.0e}", f64::MIN_POSITIVE)
    } else if p < 0.001 {
        format!("p = {p:.1e}")
    } else {
        format!("p = {p:.3}")
    }
}

/// A level: `0.05`, `1e-30` and not thirty zeros.
pub(crate) fn level(level: f64) -> String {
    match level < 1e-4 {
        true => format!("{level:e}"),
        false => level.to_string(),
    }
}

/// `12.5 %`; as many more decimals as it takes where something would become nothing, or almost all become all.
pub(crate) fn percent(share: f64, decimals: usize) -> String {
    let percent = 100.0 * share;
    let least = 0.5 * 0.1_f64.powi(i32::try_from(decimals).unwrap_or(i32::MAX));
    let from_end = percent.min(100.0 - percent);
    if from_end <= 0.0 || from_end >= least {
        return format!("{percent:.decimals$} %");
    }
    if percent < 1e-6 {
        return format!("{percent:.1e} %");
    }
    if from_end < 1e-6 {
        return "> 99.9999 %".to_owned();
    }
    let places = (-from_end.log10()).ceil().max(0.0) as usize + 1;
    let text = format!("{percent:.places$}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// With two decimals where they say something: `12.5 %`, `3 %`.
pub(crate) fn short_percent(share: f64) -> String {
    let text = percent(share, 2);
    match text.strip_suffix(" %") {
        Some(number) if number.contains('.') && !number.contains('e') => {
            format!("{} %", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// What a program gets that asked for JSON. Nobody may be listening any more; there is no one left to tell.
pub(crate) fn json_error(text: &str) {
    let document = serde_json::json!({ "error": text });
    _ = writeln!(io::stdout(), "{document}");
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

    /// Library warnings go to standard error; ONNX Runtime is talkative below `warn`. A server keeps a log: `log` is its form.
    pub(crate) fn start_tracing(self, log: Option<LogFormat>) {
        let usual = match (log, self.quiet) {
            (Some(_), false) => "info,ort=warn",
            _ => "warn,ort=warn",
        };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal());
        match log {
            None => subscriber.without_time().with_target(false).init(),
            Some(LogFormat::Text) => subscriber.with_target(false).init(),
            Some(LogFormat::Json) => subscriber.json().flatten_event(true).init(),
        }
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

    /// Tells why it failed, on standard error alone.
    pub(crate) fn failure(self, text: &str) {
        self.tell(&format!("error: {text}"));
    }

    /// Tells why it failed; causes follow on the same line. With `--json` standard output gets `{"error": …}` too, so
    /// that a program that reads it isn't left with nothing. `log` is a server's form of what it tells.
    pub(crate) fn error(self, error: &anyhow::Error, log: Option<LogFormat>) {
        let text = with_causes(error);
        match log {
            Some(LogFormat::Json) => tracing::error!(error = text, "stage1 serve failed"),
            _ => self.tell(&format!("error: {text}")),
        }
        if self.json {
            json_error(&text);
        }
    }

    fn tell(self, text: &str) {
        // A closed standard error must not end the work.
        _ = writeln!(io::stderr(), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[derive(Debug, thiserror::Error)]
    #[error("a.csv: {source}")]
    struct TellsItsCause {
        source: io::Error,
    }

    #[test]
    fn no_p_value_reads_zero() {
        for (p, want) in [
            (1.0, "p = 1.000"),
            (0.0421, "p = 0.042"),
            (0.001, "p = 0.001"),
            (0.000_999, "p = 1.0e-3"),
            (3.14e-7, "p = 3.1e-7"),
            (f64::MIN_POSITIVE / 8.0, "p = 2.8e-309"),
            (0.0, "p < 2e-308"),
        ] {
            assert_eq!(p_equals(p), want);
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let told = TellsItsCause {
            source: io::Error::other("no space"),
        };
        let error = Err::<(), _>(told).context("cannot split").unwrap_err();
        assert_eq!(with_causes(&error), "cannot split: a.csv: no space");
        let error = Err::<(), _>(io::Error::other("no space"))
            .context("cannot save")
            .unwrap_err();
        assert_eq!(with_causes(&error), "cannot save: no space");
    }
}
