//! `stage1 ab-test`: trains each arm with each seed on the same splits, and compares what they answer on val_select, or on a
//! fold of train. Nothing is trained on an image of val_calib or val_test, or judged by one; where an arm trains on unlabelled
//! folders (`explora.data`) they are opened, to leave their copies out.

mod arms;
mod report;

pub(crate) use report::AbTest;

use super::{Run, train};
use crate::plots::{self, Curve, Estimate, Panel};
use anyhow::{Context, ensure};
use arms::ArmScore;
use report::{ArmRecord, Training};
use stage1_calibration::{
    comparison::{self, Answers, Comparison, Measure, Rows, Settings},
    metrics::{Bootstrap, Ranking, selective},
};
use stage1_core::{
    artifact::{Digest, Document, atomic, json},
    config::{Arm, Config},
    logits::LogitSet,
    policy::{Score, argmax},
    split::{Split, SplitManifest},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The name of the configuration as it is.
pub(crate) const BASE: &str = "base";
/// The share of train's units that `--on train-fold` judges by.
const FOLD: f64 = 0.25;
/// Fewer seeds don't show how much they matter.
pub(crate) const SEEDS: usize = 3;

/// What is to be compared.
pub(crate) struct Plan {
    /// The configuration as it is, then the others.
    pub(crate) arms: Vec<Arm>,
    pub(crate) seeds: Vec<u64>,
    /// The arm that the others are compared with.
    pub(crate) reference: usize,
    pub(crate) primary: Measure,
    pub(crate) resamples: usize,
    pub(crate) on: JudgedOn,
    /// Where everything goes.
    pub(crate) out: PathBuf,
}

/// The images that arms are judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JudgedOn {
    ValSelect,
    TrainFold,
}

impl JudgedOn {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ValSelect => "val_select",
            Self::TrainFold => "a fold of train",
        }
    }
}

/// Trains what isn't trained yet, and compares.
pub(crate) fn compare(run: &Run, plan: &Plan) -> anyhow::Result<AbTest> {
    let scores = arms::check(run, plan)?;
    let splits = splits(run, plan)?;
    plan_trainings(run, plan, &splits)?;
    let (mut arms, mut records) = (Vec::new(), Vec::new());
    let mut shared = None;
    for (n, arm) in plan.arms.iter().enumerate() {
        let mut trainings = Vec::new();
        let mut runs = Vec::new();
        for (m, seed) in plan.seeds.iter().enumerate() {
            let number = n * plan.seeds.len() + m + 1;
            let all = plan.arms.len() * plan.seeds.len();
            run.output.note(&format!(
                "arm {}, seed {seed} ({number} of {all})",
                arm.name
            ));
            let (mut training, set) = trained(run, plan, arm, *seed, &splits)
                .with_context(|| format!("arm {}, seed {seed}", arm.name))?;
            let one = config(run, plan, arm, *seed)?;
            let (answers, by) = answers(&one, &set, training.checkpoint_digest, &scores[n])?;
            runs.push(answers);
            training.score = by.to_owned();
            check_same_rows(&mut shared, &set)
                .with_context(|| format!("arm {}, seed {seed}", arm.name))?;
            trainings.push(training);
        }
        arms.push(comparison::Arm {
            name: arm.name.clone(),
            runs,
        });
        records.push(ArmRecord {
            name: arm.name.clone(),
            overrides: arm.overrides.clone(),
            trainings,
        });
    }
    let rows = rows(&shared.context("there are no arms")?);
    let mut settings = Settings::new(plan.primary, run.config.calibrate.alpha, run.config.seed);
    settings.bootstrap.resamples = plan.resamples;
    let found = comparison::compare(&rows, &plan.seeds, &arms, plan.reference, &settings)?;
    let test = AbTest::new(plan, &splits, looks_for_copies(run, plan)?, records, found);
    save(&plan.out, &test, &rows, &arms)?;
    Ok(test)
}

/// Whether an arm trains on unlabelled folders by itself.
fn looks_for_copies(run: &Run, plan: &Plan) -> anyhow::Result<bool> {
    for arm in &plan.arms {
        let config = config(run, plan, arm, plan.seeds[0])?;
        let explora = &config.explora;
        if config.phase.pretrains() && explora.from.is_none() && !explora.data.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the trainer refuses of any arm (names of layers, starts of other splits, what is in the way), it refuses before the first
/// one is trained.
fn plan_trainings(run: &Run, plan: &Plan, splits: &SplitManifest) -> anyhow::Result<()> {
    for arm in &plan.arms {
        let seed = plan.seeds[0];
        let context = || format!("arm {}, seed {seed}", arm.name);
        let one = run
            .beside(&overrides(run, plan, arm, seed))
            .with_context(context)?;
        place_splits(&one, splits)?;
        train::plan(&one, train::Begin::Anywhere).with_context(context)?;
    }
    Ok(())
}

/// The overrides of an arm's training.
fn overrides(run: &Run, plan: &Plan, arm: &Arm, seed: u64) -> Vec<String> {
    let quoted = |path: &Path| serde_json::Value::from(path.display().to_string());
    let dir = plan.out.join(&arm.name).join(format!("seed-{seed}"));
    let mut overrides = arm.overrides.clone();
    overrides.extend([
        format!("seed={seed}"),
        format!("run_dir={}", quoted(&dir)),
        format!("train.cache_dir={}", quoted(&run.config.cache_dir())),
    ]);
    overrides
}

fn config(run: &Run, plan: &Plan, arm: &Arm, seed: u64) -> anyhow::Result<Config> {
    let mut all = run.source.overrides.clone();
    all.extend(overrides(run, plan, arm, seed));
    Ok(Config::load(&run.source.config, &all)?)
}

/// The splits that arms train on. Those of the run are taken as they are, without a look at the images; only where there are
/// none yet are they made.
fn splits(run: &Run, plan: &Plan) -> anyhow::Result<SplitManifest> {
    let path = run.config.splits_path();
    let manifest = match path.exists() {
        true => json::load::<SplitManifest>(&path)?.0,
        false => super::split::ensure(run)?.manifest,
    };
    match plan.on {
        JudgedOn::ValSelect => Ok(manifest),
        JudgedOn::TrainFold => manifest.nested_fold(FOLD, run.config.split.seed).with_context(|| {
            format!(
                "{}: train has too few independent images for a fold; judge on val_select (--on val-select)",
                path.display()
            )
        }),
    }
}

/// A training of an arm, and its logits: those that are there, if they are of the same.
fn trained(
    run: &Run,
    plan: &Plan,
    arm: &Arm,
    seed: u64,
    splits: &SplitManifest,
) -> anyhow::Result<(Training, LogitSet)> {
    let one = run.beside(&overrides(run, plan, arm, seed))?;
    place_splits(&one, splits)?;
    let predictions = one.config.run_dir.join("predictions.safetensors");
    let checkpoint = train::ensure_with_logits(&one, &predictions)?;
    one.record()?;
    let set = LogitSet::load(&predictions)?;
    set.validate()?;
    let training = Training {
        seed,
        run_dir: one.config.run_dir.clone(),
        config_digest: one.config.digest(),
        checkpoint_digest: checkpoint.digest(),
        epoch: checkpoint.epoch,
        score: String::new(),
        predictions,
    };
    Ok((training, set))
}

fn place_splits(run: &Run, splits: &SplitManifest) -> anyhow::Result<()> {
    let path = run.config.splits_path();
    if !path.exists() || run.overwrite {
        json::save(splits, &path)?;
        return Ok(());
    }
    let (known, _) = json::load::<SplitManifest>(&path)?;
    ensure!(
        known == *splits,
        "{} is of other splits: an earlier A/B test lies there; set another --out, or replace it with --overwrite",
        path.display()
    );
    Ok(())
}

/// All trainings must have answered the same images, in one order.
fn check_same_rows(shared: &mut Option<LogitSet>, set: &LogitSet) -> anyhow::Result<()> {
    let Some(first) = shared else {
        *shared = Some(set.clone());
        return Ok(());
    };
    ensure!(
        first.ids == set.ids && first.labels == set.labels,
        "it answered {} images and the first training {}: an image was lost or changed in between",
        set.n(),
        first.n()
    );
    Ok(())
}

/// Classes, and how sure the training is of them: by the arm's score, or by its gate where that would be deployed; and the name of
/// what says so.
fn answers<'a>(
    config: &Config,
    set: &LogitSet,
    checkpoint: Digest,
    score: &'a ArmScore,
) -> anyhow::Result<(Answers, &'a str)> {
    let deploys_gate = match &set.gate {
        None => false,
        Some(_) => {
            let bootstrap = Bootstrap {
                resamples: config.gate.resamples,
                seed: config.seed,
            };
            comparison::judge_gate(set, checkpoint, config.gate.loss, bootstrap)?.ships
        }
    };
    let (score, name) = match deploys_gate {
        true => (&Score::Gate, "gate"),
        false => (&score.score, score.name),
    };
    let rows = || (0..set.n()).map(|row| set.model_row(row));
    let answers = Answers {
        predicted: rows().map(|row| argmax(row.logits)).collect(),
        score: rows().map(|row| score.value(row)).collect(),
    };
    Ok((answers, name))
}

fn rows(set: &LogitSet) -> Rows {
    let label =
        |label: &i64| usize::try_from(*label).expect("a validated set's labels are classes");
    Rows {
        classes: set.classes,
        labels: set.labels.iter().map(label).collect(),
        units: set.units.clone(),
    }
}

fn save(out: &Path, test: &AbTest, rows: &Rows, arms: &[comparison::Arm]) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let differences = plots::forest(&panels(&test.comparison));
    let curves: Vec<_> = arms
        .iter()
        .map(|arm| risk_over_coverage(rows, arm))
        .collect();
    let curves = plots::curves(
        "coverage",
        "error rate among answers, mean of the seeds",
        &curves,
    );
    atomic::write_bytes(&out.join(report::DIFFERENCES), differences.as_bytes())?;
    atomic::write_bytes(&out.join(report::CURVES), curves.as_bytes())?;
    atomic::write_bytes(&out.join(report::MARKDOWN), test.markdown().as_bytes())?;
    json::save(test, &out.join(AbTest::KIND))?;
    Ok(())
}

fn panels(found: &Comparison) -> Vec<Panel> {
    let reference = found.arms.iter().find(|arm| arm.name == found.reference);
    let panel = |measure: Measure| {
        let estimates = found.arms.iter().filter_map(|arm| {
            let difference = arm.differences.get(&measure)?;
            let theirs = reference?.measures[&measure].by_seed.iter();
            let ours = arm.measures[&measure].by_seed.iter();
            Some(Estimate {
                name: arm.name.clone(),
                estimate: difference.estimate,
                low: difference.low,
                high: difference.high,
                each: ours
                    .zip(theirs)
                    .map(|(ours, theirs)| ours - theirs)
                    .collect(),
            })
        });
        Panel {
            title: report::difference_name(measure, found.risk),
            estimates: estimates.collect(),
        }
    };
    Measure::ALL.map(panel).into()
}

/// The mean over seeds of the error rate among the surest rows.
fn risk_over_coverage(rows: &Rows, arm: &comparison::Arm) -> Curve {
    let once = vec![1; rows.labels.len()];
    let sorted: Vec<_> = arm
        .runs
        .iter()
        .map(|run| {
            let answers = rows.labels.iter().zip(&run.predicted);
            let wrong: Vec<_> = answers
                .map(|(label, predicted)| label != predicted)
                .collect();
            (Ranking::new(&run.score), wrong)
        })
        .collect();
    let at = |coverage: f64| {
        let risk = |(ranking, wrong): &(Ranking, Vec<bool>)| {
            selective::risk_at_coverage(ranking, wrong, &once, coverage).unwrap_or(0.0)
        };
        sorted.iter().map(risk).sum::<f64>() / sorted.len() as f64
    };
    let shares = (1..=100).map(|percent| f64::from(percent) / 100.0);
    Curve {
        name: arm.name.clone(),
        points: shares.map(|share| (share, at(share))).collect(),
    }
}

/// Images that arms are judged by.
fn judged_images(splits: &SplitManifest) -> u64 {
    splits.rows_in(Split::ValSelect)
}
