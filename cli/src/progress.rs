//! Progress on standard error: a bar on a terminal, a line every few seconds elsewhere.

use crate::output::Output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stage1_core::progress::Progress;
use std::{
    io::{self, IsTerminal},
    sync::Mutex,
    time::{Duration, Instant},
};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Draws one step at a time.
pub(crate) struct Steps {
    output: Output,
    on_terminal: bool,
    current: Mutex<Option<Step>>,
}

struct Step {
    name: String,
    total: u64,
    done: u64,
    started: Instant,
    last_line: Instant,
    bar: ProgressBar,
}

impl Steps {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            output,
            on_terminal: io::stderr().is_terminal(),
            current: Mutex::new(None),
        }
    }

    /// Moves the running step to `done` items.
    pub(crate) fn advance_to(&self, done: u64) {
        let already = self.lock().as_ref().map_or(0, |step| step.done);
        self.advance(done.saturating_sub(already));
    }

    /// Tells something in between, above the bar if there is one.
    pub(crate) fn say(&self, text: &str) {
        match self.lock().as_ref() {
            Some(step) if !step.bar.is_hidden() => step.bar.println(text),
            _ => self.output.note(text),
        }
    }

    /// Tells what should worry the reader, above the bar if there is one.
    pub(crate) fn warn(&self, text: &str) {
        match self.lock().as_ref() {
            Some(step) if !step.bar.is_hidden() => step.bar.println(format!("warning: {text}")),
            _ => self.output.warn(text),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Step>> {
        self.current
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Progress for Steps {
    fn start(&self, what: &str, total: u64) {
        self.finish();
        let hidden = self.output.is_quiet() || !self.on_terminal;
        let target = if hidden {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target)
            .with_style(style(total))
            .with_message(what.to_owned());
        let now = Instant::now();
        *self.lock() = Some(Step {
            name: what.to_owned(),
            total,
            done: 0,
            started: now,
            last_line: now,
            bar,
        });
    }

    fn advance(&self, n: u64) {
        let mut current = self.lock();
        let Some(step) = current.as_mut() else { return };
        step.done += n;
        step.bar.set_position(step.done);
        if !self.on_terminal && step.last_line.elapsed() >= LINE_EVERY {
            step.last_line = Instant::now();
            self.output.note(&step.line());
        }
    }

    fn finish(&self) {
        if let Some(step) = self.lock().take() {
            step.bar.finish_and_clear();
            self.output.note(&step.summary());
        }
    }
}

impl Step {
    fn line(&self) -> String {
        match self.total {
            0 => format!("  {}: {}, {:.1}/s", self.name, self.done, self.rate()),
            total => format!(
                "  {}: {} of {total} ({} %), {:.1}/s, {} left",
                self.name,
                self.done,
                100 * self.done / total,
                self.rate(),
                self.rest()
            ),
        }
    }

    /// Items per second.
    fn rate(&self) -> f64 {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-9);
        self.done as f64 / seconds
    }

    /// The time that the rest takes at this rate.
    fn rest(&self) -> String {
        let seconds = self.total.saturating_sub(self.done) as f64 / self.rate().max(1e-9);
        let seconds = seconds.min(1e9) as u64;
        match (seconds / 3600, seconds / 60 % 60) {
            (0, 0) => format!("{seconds} s"),
            (0, minutes) => format!("{minutes} min {} s", seconds % 60),
            (hours, minutes) => format!("{hours} h {minutes} min"),
        }
    }

    fn summary(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        match self.done {
            0 => format!("  {} ({seconds:.1} s)", self.name),
            done => format!(
                "  {}: {done} ({seconds:.1} s, {:.1}/s)",
                self.name,
                self.rate()
            ),
        }
    }
}

fn style(total: u64) -> ProgressStyle {
    let template = match total {
        0 => "  {spinner} {msg} {pos} {per_sec}",
        _ => "  {msg:<28} {bar:30} {pos}/{len} {per_sec} {eta}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
