//! Labels that came later: CSV `path,label`.

use super::subject::Subject;
use crate::args::MonitorArgs;
use anyhow::{Context, bail, ensure};
use std::{collections::BTreeMap, path::Path};

/// Labels by path, until a row takes them.
pub(super) struct Labels(BTreeMap<String, String>);

impl Labels {
    pub(super) fn read(args: &MonitorArgs, subject: &Subject) -> anyhow::Result<Self> {
        let Some(path) = &args.labels else {
            return Ok(Self(BTreeMap::new()));
        };
        let labels = read(path, subject)
            .with_context(|| format!("cannot read the labels {}", path.display()))?;
        ensure!(
            subject.alpha.is_some(),
            "--labels: no certificate of the policy promises a rate of errors among answers; say with --alpha what risk the answers \
             are held to"
        );
        Ok(Self(labels))
    }

    pub(super) fn take(&mut self, path: &str) -> Option<String> {
        self.0.remove(path)
    }

    /// How many no row has taken, of those that `count`.
    pub(super) fn left(&self, count: impl Fn(&str) -> bool) -> u64 {
        self.0.keys().filter(|path| count(path)).count() as u64
    }
}

fn read(path: &Path, subject: &Subject) -> anyhow::Result<BTreeMap<String, String>> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(path)?;
    let headers = reader.headers()?.clone();
    let names: Vec<_> = headers
        .iter()
        .map(|name| name.trim_start_matches('\u{feff}'))
        .collect();
    let place = |column| names.iter().position(|name| *name == column);
    let (Some(image), Some(label), 2) = (place("path"), place("label"), names.len()) else {
        bail!(
            "the first line says `{}`, `path,label` is needed",
            names.join(",")
        );
    };
    let mut labels = BTreeMap::new();
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let (image, label) = (record[image].to_owned(), record[label].to_owned());
        ensure!(
            !image.is_empty() && !label.is_empty(),
            "line {line}: a path and a label are needed"
        );
        subject
            .check_label(&label)
            .with_context(|| format!("line {line}"))?;
        if let Some(other) = labels
            .insert(image.clone(), label.clone())
            .filter(|other| *other != label)
        {
            bail!("line {line}: `{image}` is `{label}` here and `{other}` above");
        }
    }
    Ok(labels)
}
