//! `stage1 monitor`: is what comes in still what was calibrated?

mod labels;
mod log;
mod report;
mod state;
mod stream;
mod subject;

use crate::{
    args::MonitorArgs,
    commands::calibrate_logits::division::Division,
    output::{Answer, Output},
};
use anyhow::Context;
use labels::Labels;
use report::{Counts, Report};
use stage1_calibration::{
    monitor::{Monitor, Settings},
    rows::{CalibRows, SelectRows},
    shift,
};
use stage1_core::artifact::{Digest, Lock};
use state::State;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};
use stream::Row;
use subject::Subject;

/// How long one waits for another that has the same state.
const PATIENCE: Duration = Duration::from_secs(60);

/// Exits 1 if an alarm is, or was, raised.
///
/// The order of things: what decided, the rows that fix the bins, the state of the last time, then the rows that came
/// since. The state is written when all of them were read, so that a failure changes nothing.
pub(crate) fn run(args: &MonitorArgs, output: &Output) -> anyhow::Result<Answer> {
    let subject = Subject::open(args)?;
    let reference = reference(args, &subject, *output)?;
    let calib = CalibRows::new(&reference.calib, args.seed)?;
    // Held until the state is saved: another monitor would read what this one is about to replace.
    let _lock = args.state.as_deref().map(lock).transpose()?;
    let mut state = State::open(
        args,
        subject.digest,
        start(args, &subject, &reference, &calib)?,
    )?;
    let mut counts = Counts::default();
    let rows = stream::read(args, &subject, &mut state.read, &mut counts, *output)?;
    let labels = Labels::read(args, &subject)?;
    observe(&mut state.monitor, &rows, labels, &mut counts);
    counts.tell(state.monitor.risk.is_some(), *output);
    let label_shift = args
        .label_shift
        .then(|| label_shift(&subject, &calib, &rows));
    if let Some(path) = &args.state {
        state.save(path)?;
    }
    let report = Report::new(&state.monitor, counts, label_shift);
    output.answer(&report, &report.text())?;
    Ok(if report.alarm {
        Answer::No
    } else {
        Answer::Yes
    })
}

fn lock(state: &Path) -> anyhow::Result<Lock> {
    Ok(Lock::take(&state.with_added_extension("lock"), PATIENCE)?)
}

/// val_select and val_calib.
fn reference(args: &MonitorArgs, subject: &Subject, output: Output) -> anyhow::Result<Division> {
    let path = args.reference.clone().unwrap_or_else(|| beside(args));
    let division = if path.is_dir() {
        let split = |name: &str| path.join(format!("{name}.safetensors"));
        Division::read(
            &split("val_calib"),
            Some(&split("val_select")),
            args.seed,
            output,
        )
    } else {
        Division::read(&path, args.select.as_deref(), args.seed, output)
    };
    let division = division.with_context(|| match args.reference {
        Some(_) => "cannot read the reference".to_owned(),
        None => format!(
            "the logits of val_select and val_calib aren't at {}; name the run's folder `logits` with --reference",
            path.display()
        ),
    })?;
    for (split, set) in [
        ("val_select", &division.select),
        ("val_calib", &division.calib),
    ] {
        subject.check_reference(split, set)?;
    }
    Ok(division)
}

/// A run keeps its bundle and its logits side by side.
fn beside(args: &MonitorArgs) -> PathBuf {
    args.bundle.clone().unwrap_or_default().join("../logits")
}

/// A monitor that has seen nothing yet.
fn start(
    args: &MonitorArgs,
    subject: &Subject,
    reference: &Division,
    calib: &CalibRows,
) -> anyhow::Result<Monitor> {
    let select = SelectRows::new(&reference.select, args.seed)?;
    let settings = Settings {
        level: args.level,
        seed: args.seed,
        alpha: subject.alpha,
    };
    Ok(Monitor::start(
        &select,
        calib,
        subject.policy.score.clone(),
        &settings,
    )?)
}

/// Every new row is a draw for drift; a labelled answer is one for the risk, also if its row was read before.
fn observe(monitor: &mut Monitor, rows: &[Row], mut labels: Labels, counts: &mut Counts) {
    for row in rows {
        if row.is_new && !monitor.observe(row.unit, row.score) {
            counts.of_a_seen_unit += 1;
        }
        let recorded = row.truth.clone().filter(|_| row.is_new);
        let Some(truth) = labels.take(&row.path).or(recorded) else {
            continue;
        };
        match &row.answer {
            None => counts.labelled_deferred += 1,
            Some(_) if !row.certified => counts.labelled_uncertified += 1,
            Some(answer) => {
                let counted = monitor.observe_answer(row.labelled_unit(), *answer != truth);
                counts.labelled_again +=
                    u64::from(!counted && row.is_new && monitor.risk.is_some());
            }
        }
    }
    // Those that were counted another time have their row in another log.
    let is_unknown = |path: &str| !monitor.has_answer_of(unit_of_path(path));
    counts.labels_without_row = labels.left(is_unknown);
}

/// One row per unit, whether it is new or not. That nothing can be estimated is an answer, too.
fn label_shift(subject: &Subject, calib: &CalibRows, rows: &[Row]) -> report::LabelShift {
    let mut units = BTreeSet::new();
    let first = rows
        .iter()
        .filter(|row| row.unit.is_none_or(|unit| units.insert(unit)));
    let logits: Vec<f32> = first.flat_map(|row| row.logits.iter().copied()).collect();
    let estimate = shift::estimate(calib, &logits, &subject.policy.calibrator);
    report::LabelShift::new(subject.class_names(), estimate)
}

/// The unit of a name that isn't a group's.
fn unit_of_path(path: &str) -> u64 {
    Digest::of_bytes(format!("path\0{path}").as_bytes()).as_u64()
}
