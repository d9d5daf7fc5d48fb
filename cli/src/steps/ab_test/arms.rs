//! What arms may differ in, and what each of them is judged by; all of it is settled before anything is trained.

use super::{Plan, Run, config};
use crate::steps::train;
use anyhow::{Context, bail, ensure};
use stage1_core::{
    artifact::Digest,
    config::{CalibrateConfig, Config, DeployConfig, ExportConfig, ScoreChoice, ValidateConfig},
    policy::Score,
};
use std::collections::BTreeMap;

/// How sure an arm is of its answers.
pub(super) struct ArmScore {
    pub(super) score: Score,
    pub(super) name: &'static str,
}

/// Arms may differ in how they train and in their score, and in nothing that makes them incomparable; their scores.
pub(super) fn check(run: &Run, plan: &Plan) -> anyhow::Result<Vec<ArmScore>> {
    let mut known: BTreeMap<Digest, (&str, Config)> = BTreeMap::new();
    let mut scores = Vec::new();
    for arm in &plan.arms {
        let config =
            config(run, plan, arm, plan.seeds[0]).with_context(|| format!("arm {}", arm.name))?;
        check_shared(run, &arm.name, &config)?;
        let sets = |key: &str| {
            let mut keys = arm.overrides.iter();
            keys.any(|o| o.split_once('=').is_some_and(|(k, _)| k.trim() == key))
        };
        for (key, instead) in [
            ("seed", "seeds are shared: --seeds 1,2,3"),
            ("run_dir", "each training gets its own folder below --out"),
            (
                "train.cache_dir",
                "arms share features: set it in the configuration",
            ),
        ] {
            ensure!(!sets(key), "arm {}: it sets `{key}`; {instead}", arm.name);
        }
        train::check_backbone(&config).with_context(|| format!("arm {}", arm.name))?;
        let score = score(run, &config).with_context(|| format!("arm {}", arm.name))?;
        if let Some((same, other)) = known.get(&recipe(&config, &score)?) {
            let keys = differing(&config, other);
            ensure!(
                keys.is_empty(),
                "arm {} differs from arm {same} in {} only, which changes neither what is trained nor how it is judged here: \
                 nothing would be compared. Give it a key of `train`, `head`, `peft`, `backbone` ..., or `calibrate.score`",
                arm.name,
                keys.join(", ")
            );
            bail!(
                "arm {} is the same as arm {same}: nothing would be compared",
                arm.name
            );
        }
        known.insert(recipe(&config, &score)?, (&arm.name, config));
        scores.push(score);
    }
    Ok(scores)
}

fn check_shared(run: &Run, name: &str, config: &Config) -> anyhow::Result<()> {
    let base = &run.config;
    let shared = [
        ("data", config.data == base.data),
        ("split", config.split == base.split),
        ("threads", config.threads == base.threads),
        (
            "calibrate.alpha",
            config.calibrate.alpha.to_bits() == base.calibrate.alpha.to_bits(),
        ),
    ];
    if let Some((key, _)) = shared.iter().find(|(_, same)| !same) {
        bail!(
            "arm {name}: it changes `{key}`, which all arms share: images, splits, threads and the target risk are those of the \
             configuration; change it there"
        );
    }
    Ok(())
}

/// The arm's score, as far as it needs no fit: what is fitted for a score is fitted on val_select, by which arms are judged here.
fn score(run: &Run, config: &Config) -> anyhow::Result<ArmScore> {
    let choice = config.calibrate.score;
    let max_probability = ArmScore {
        score: Score::MaxProbability { temperature: 1.0 },
        name: "max_probability",
    };
    Ok(match choice {
        ScoreChoice::Auto | ScoreChoice::MaxProbability => max_probability,
        // Of two classes, it is how far z1 - z0 lies from 0 on either side.
        ScoreChoice::Margin | ScoreChoice::BinaryMargin => ArmScore {
            score: Score::Margin,
            name: "margin",
        },
        ScoreChoice::Energy => ArmScore {
            score: Score::Energy,
            name: "energy",
        },
        // The configuration's own, which all arms share.
        _ if choice == run.config.calibrate.score => max_probability,
        _ => bail!(
            "it changes `calibrate.score` to one that is fitted on val_select, or that a model must bring along; arms can be judged \
             by max_probability, margin and energy, and with `phase: gate` by a gate that wins"
        ),
    })
}

/// The digest of what an arm is here: how it is trained, which files it names, and what it is judged by.
fn recipe(config: &Config, score: &ArmScore) -> anyhow::Result<Digest> {
    let mut trained = config.clone();
    (trained.calibrate, trained.export) = (CalibrateConfig::default(), ExportConfig::default());
    (trained.deploy, trained.validate) = (DeployConfig::default(), ValidateConfig::default());
    let files = (
        &config.backbone.path,
        &config.backbone.adapter,
        &config.train.init_from,
        &config.explora.from,
        &config.explora.data,
    );
    let text = serde_json::to_string(&(trained.digest(), score.name, files))?;
    Ok(Digest::of_bytes(text.as_bytes()))
}

/// The parts that two configurations of one recipe differ in.
fn differing(a: &Config, b: &Config) -> Vec<&'static str> {
    let parts = [
        ("`calibrate`", a.calibrate != b.calibrate),
        ("`export`", a.export != b.export),
        ("`deploy`", a.deploy != b.deploy),
        ("`validate`", a.validate != b.validate),
    ];
    let parts = parts.into_iter().filter(|(_, differs)| *differs);
    parts.map(|(part, _)| part).collect()
}
