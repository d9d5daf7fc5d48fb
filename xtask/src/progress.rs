//! Progress on stderr: bars on a terminal (indicatif hides them elsewhere), plain lines always.

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// A bar over bytes.
pub(crate) fn bytes(label: &str, total: u64) -> ProgressBar {
    bar(
        label,
        total,
        "{msg:28} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec}",
    )
}

/// A bar over things that are counted.
pub(crate) fn items(label: &str, total: u64) -> ProgressBar {
    bar(label, total, "{msg:28} [{bar:32}] {pos}/{len}")
}

fn bar(label: &str, total: u64, template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total)
        .with_style(style.progress_chars("=> "))
        .with_message(label.to_owned())
}

/// Says one line of the story.
pub(crate) fn say(line: impl AsRef<str>) {
    eprintln!("{}", line.as_ref());
}

/// A size as people read it, such as `506.02 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}
