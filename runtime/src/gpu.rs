//! Which NVIDIA GPUs there are, and who drives them, from what the driver tells in `/proc`.

use std::{fs, path::Path};

/// `driver 580.65.06`, and the GPUs' names; nothing without a driver.
pub(crate) fn told() -> Vec<String> {
    told_in(Path::new("/proc/driver/nvidia"))
}

fn told_in(dir: &Path) -> Vec<String> {
    let mut told = Vec::new();
    if let Ok(text) = fs::read_to_string(dir.join("version")) {
        told.extend(driver(&text).map(|version| format!("driver {version}")));
    }
    let cards = fs::read_dir(dir.join("gpus"))
        .into_iter()
        .flatten()
        .flatten();
    let mut cards: Vec<_> = cards
        .filter_map(|card| model(&fs::read_to_string(card.path().join("information")).ok()?))
        .collect();
    cards.sort();
    told.extend(cards);
    told
}

/// The first word of the module's line that looks like a version.
fn driver(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("NVRM"))?;
    let is_version =
        |word: &&str| word.contains('.') && word.split('.').all(|part| part.parse::<u32>().is_ok());
    line.split_whitespace().find(is_version)
}

fn model(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_says_what_it_drives() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(told_in(dir.path()), [""; 0]);
        let version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version:  gcc 12.2.0\n";
        fs::write(dir.path().join("version"), version).unwrap();
        let card = dir.path().join("gpus/0000:01:00.0");
        fs::create_dir_all(&card).unwrap();
        let information = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 131\n";
        fs::write(card.join("information"), information).unwrap();
        assert_eq!(told_in(dir.path()), ["driver 580.65.06", "NVIDIA H200"]);
    }
}
