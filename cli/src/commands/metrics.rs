//! `stage1 metrics --logits`.

use crate::{
    args::MetricsArgs,
    output::{Answer, Output},
    tables,
};
use anyhow::{Context, bail};
use serde::Serialize;
use stage1_calibration::metrics::{
    Bootstrap, Levels, Metric, Predictions, Table, caveat, compute_at,
};
use stage1_core::{
    artifact::{Digest, json},
    logits::LogitSet,
    policy::{Calibrator, Policy, Score, Threshold},
};
use std::collections::BTreeMap;

/// One flat document: what was measured, then the metrics by name, each a number, `{estimate, low, high}` or null.
#[derive(Serialize)]
struct Report<'a> {
    n: usize,
    classes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<&'a str>,
    /// Names of the metrics that only describe these rows: biased, or chosen on them.
    descriptive: Vec<&'a str>,
    #[serde(flatten)]
    metrics: &'a Table,
}

pub(crate) fn run(args: &MetricsArgs, output: &Output) -> anyhow::Result<Answer> {
    let policy = policy(args)?;
    let table = tables::read(&args.logits)?;
    table.notes.iter().for_each(|note| output.note(note));
    let mut set = table.set;
    if let Some(split) = &args.split {
        set = of_split(&set, split).with_context(|| args.logits.display().to_string())?;
    }
    let policy = policy.map(|policy| policy.of(set.classes));
    let bootstrap = (args.bootstrap > 0).then_some(Bootstrap {
        resamples: args.bootstrap,
        seed: args.seed,
    });
    if bootstrap.is_some() && set.units.is_some() {
        output.note("resampling whole groups");
    }
    let predictions = Predictions::from_logits(&set, policy.as_ref())
        .with_context(|| args.logits.display().to_string())?;
    let levels = Levels {
        risks: args.at_risk.clone(),
        coverages: args.at_coverage.clone(),
    };
    let metrics = compute_at(&predictions, bootstrap, &levels);
    let report = Report {
        n: set.n(),
        classes: set.classes,
        split: args.split.as_deref(),
        descriptive: descriptive(&metrics),
        metrics: &metrics,
    };
    output.answer(&report, &text(&report))?;
    Ok(Answer::Yes)
}

/// When to answer.
enum Rule {
    Policy(Box<Policy>),
    /// From this softmax probability on.
    Probability(f64),
}

fn policy(args: &MetricsArgs) -> anyhow::Result<Option<Rule>> {
    match (&args.policy, args.threshold) {
        (Some(path), _) => Ok(Some(Rule::Policy(Box::new(json::load(path)?.0)))),
        (None, Some(p)) if (0.0..=1.0).contains(&p) => Ok(Some(Rule::Probability(p))),
        (None, Some(p)) => bail!("--threshold is {p}, a probability from 0 to 1 is needed"),
        (None, None) => Ok(None),
    }
}

impl Rule {
    fn of(self, classes: usize) -> Policy {
        match self {
            Self::Policy(policy) => *policy,
            Self::Probability(at_least) => Policy::new(
                classes,
                Score::MaxProbability { temperature: 1.0 },
                Threshold::OneSided { at_least },
                Calibrator::None,
                Digest::of_bytes(b"a threshold from the command line, without a plan"),
            ),
        }
    }
}

fn of_split(set: &LogitSet, name: &str) -> anyhow::Result<LogitSet> {
    let Some(splits) = &set.split else {
        bail!("--split {name}: the file has no `split` column");
    };
    let rows: Vec<_> = (0..set.n()).filter(|i| splits[*i] == name).collect();
    if rows.is_empty() {
        let mut counts = BTreeMap::<_, usize>::new();
        splits
            .iter()
            .for_each(|split| *counts.entry(split).or_default() += 1);
        let found: Vec<_> = counts
            .iter()
            .map(|(split, n)| format!("{split} ({n} rows)"))
            .collect();
        bail!(
            "--split {name}: no such rows; the file holds {}",
            found.join(", ")
        );
    }
    Ok(set.subset(&rows))
}

fn descriptive(metrics: &Table) -> Vec<&str> {
    let names = metrics.keys().map(AsRef::as_ref);
    names.filter(|name| caveat(name).is_some()).collect()
}

/// Metrics first, then those with a caveat, under it.
fn text(report: &Report) -> String {
    let width = report.metrics.keys().map(|name| name.len()).max();
    let line = |name: &str, value: &str| format!("{name:<0$} {value}", width.unwrap_or(0));
    let mut lines = vec![
        line("rows", &report.n.to_string()),
        line("classes", &report.classes.to_string()),
    ];
    let mut caveats = BTreeMap::<_, Vec<_>>::new();
    for (name, metric) in report.metrics {
        let line = line(name, &shown(*metric));
        match caveat(name) {
            None => lines.push(line),
            Some(why) => caveats.entry(why).or_default().push(line),
        }
    }
    for (why, under) in caveats {
        lines.push(format!("\ndescriptive only: {why}"));
        lines.extend(under);
    }
    lines.join("\n")
}

fn shown(metric: Option<Metric>) -> String {
    match metric {
        None => "not defined on these rows".to_owned(),
        Some(Metric::Number(value)) => format!("{value:.4}"),
        Some(Metric::Interval {
            estimate,
            low,
            high,
        }) => format!("{estimate:.4}  [{low:.4}, {high:.4}]"),
    }
}
