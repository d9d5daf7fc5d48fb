//! Decision logs: one JSON record per line, as `stage1 predict --json` writes them.
//!
//! | key | holds |
//! |---|---|
//! | `path`, `decision`, `label`, `probability`, `logits`, `certified`, `reason`, `error` | what `predict` wrote |
//! | `group` (optional, added by you) | text or a number: of one group (a video, a patient) the first row counts |
//! | `label_true` (optional, added by you) | the true class by name, for a random sample of answered images |

use super::{state::Mark, stream::Row, subject::Subject};
use anyhow::{Context, anyhow, bail};
use serde_json::{Map, Value};
use stage1_core::{
    artifact::Hasher,
    bundle::{DecisionKind, Prediction},
    logits::LogitSet,
    policy::{self, Outcome},
};
use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
};

/// A log that was read.
pub(super) struct Log {
    pub(super) rows: Vec<Row>,
    /// New records of images that couldn't be judged.
    pub(super) not_judged: u64,
    /// Whether the last line has no end yet, nor makes a record.
    pub(super) is_unfinished: bool,
    /// How far it was read.
    pub(super) mark: Mark,
}

/// Reads a log; what `marks` say was read before isn't new.
pub(super) fn read(path: &Path, marks: &[Mark], subject: &Subject) -> anyhow::Result<Log> {
    let mut lines = BufReader::new(File::open(path)?);
    let mut hasher = Hasher::new();
    let mut log = Log {
        rows: Vec::new(),
        not_judged: 0,
        is_unfinished: false,
        mark: Mark::of_nothing(),
    };
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        match record(&line, subject) {
            Ok(None) => {}
            Ok(Some(Record::Decided(row))) => log.rows.push(row),
            Ok(Some(Record::NotJudged)) => log.not_judged += 1,
            // Somebody may be writing it at this moment.
            Err(_) if !line.ends_with(b"\n") => {
                log.is_unfinished = true;
                break;
            }
            Err(error) => return Err(error.context(format!("line {number}"))),
        }
        hasher.write_all(&line)?;
        log.advance(line.len(), &hasher, marks);
    }
    log.mark.digest = hasher.finish();
    Ok(log)
}

impl Log {
    /// If just so much was read before, nothing up to here is new.
    fn advance(&mut self, bytes: usize, hasher: &Hasher, marks: &[Mark]) {
        self.mark.bytes += bytes as u64;
        // A digest costs more than a line: it is asked for only where it may be known.
        let known = marks.iter().filter(|mark| mark.bytes == self.mark.bytes);
        let digest = known.clone().next().map(|_| hasher.clone().finish());
        if let Some(mark) = known.into_iter().find(|mark| Some(mark.digest) == digest) {
            self.mark.before = Some(mark.digest);
            self.rows.iter_mut().for_each(|row| row.is_new = false);
            self.not_judged = 0;
        }
    }
}

enum Record {
    Decided(Row),
    NotJudged,
}

/// None for an empty line.
fn record(line: &[u8], subject: &Subject) -> anyhow::Result<Option<Record>> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let mut fields: Map<String, Value> =
        serde_json::from_slice(line).context("not a record of `stage1 predict --json`")?;
    let unit = fields
        .remove("group")
        .map_or(Ok(None), |group| unit(&group))?;
    let truth = fields.remove("label_true").map_or(Ok(None), text)?;
    // Strict: a misspelt `group` would turn a video into independent images.
    let prediction: Prediction = serde_json::from_value(Value::Object(fields)).context(
        "not a record of `stage1 predict --json` (with `group` and `label_true`, if wanted)",
    )?;
    if prediction.decision == DecisionKind::Error {
        return Ok(Some(Record::NotJudged));
    }
    truth
        .iter()
        .try_for_each(|label| subject.check_label(label))?;
    decided(prediction, unit, truth, subject).map(|row| Some(Record::Decided(row)))
}

fn unit(group: &Value) -> anyhow::Result<Option<u64>> {
    match group {
        Value::Null => Ok(None),
        Value::String(name) if !name.is_empty() => Ok(Some(LogitSet::unit_of_name(name))),
        Value::Number(number) => Ok(Some(LogitSet::unit_of_name(&number.to_string()))),
        other => bail!("`group` is {other}: text or a number is needed"),
    }
}

fn text(label: Value) -> anyhow::Result<Option<String>> {
    match label {
        Value::Null => Ok(None),
        Value::String(label) => Ok(Some(label)),
        other => bail!("`label_true` is {other}: the name of a class is needed"),
    }
}

/// The log must be this policy's: another one's decisions say nothing about it.
fn decided(
    prediction: Prediction,
    unit: Option<u64>,
    truth: Option<String>,
    subject: &Subject,
) -> anyhow::Result<Row> {
    let logits = prediction
        .logits
        .ok_or_else(|| anyhow!("the record has no logits"))?;
    let decision = subject.policy.decide(policy::Row {
        logits: &logits,
        gate: prediction.gate,
    })?;
    let agrees = match (decision.outcome, &prediction.label) {
        (Outcome::Answer { label }, Some(answer)) => {
            prediction.decision == DecisionKind::Answer && subject.is_called(label, answer)
        }
        (Outcome::Defer, None) => prediction.decision == DecisionKind::Defer,
        _ => false,
    };
    if !agrees {
        bail!(
            "`{}` was {}, but the policy would {}: was this log written by another bundle?",
            prediction.path,
            match (&prediction.decision, &prediction.label) {
                (DecisionKind::Answer, Some(answer)) => format!("answered `{answer}`"),
                (DecisionKind::Answer, None) => "answered without a label".to_owned(),
                _ => "deferred".to_owned(),
            },
            match decision.outcome {
                Outcome::Answer { label } => format!("answer `{}`", subject.class_name(label)),
                Outcome::Defer => "defer it".to_owned(),
            }
        );
    }
    Ok(Row {
        path: prediction.path,
        unit,
        logits,
        score: decision.score,
        answer: prediction.label,
        truth,
        certified: prediction.certified,
        is_new: true,
    })
}
