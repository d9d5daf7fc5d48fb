use crate::{
    args::{AbTestArgs, JudgedOn as On, MeasureName},
    output::{Answer, Output},
    steps::{
        Run,
        ab_test::{self, BASE, JudgedOn, Plan, SEEDS},
        train,
    },
};
use anyhow::{Context, bail, ensure};
use stage1_calibration::comparison::Measure;
use stage1_core::config::Arm;
use std::collections::BTreeSet;

pub(crate) fn run(args: &AbTestArgs, output: &Output) -> anyhow::Result<Answer> {
    let arms = arms(args)?;
    let run = Run::open(&args.step, *output)?;
    train::find_trainer()?;
    let seeds = seeds(args, run.config.seed)?;
    let reference = arms.iter().position(|arm| arm.name == args.reference);
    let names = || arms.iter().map(|arm| arm.name.as_str()).collect::<Vec<_>>();
    let plan = Plan {
        reference: reference.with_context(|| {
            format!(
                "--reference {}: the arms are {}",
                args.reference,
                names().join(", ")
            )
        })?,
        arms,
        seeds,
        primary: match args.by {
            MeasureName::Mcc => Measure::Mcc,
            MeasureName::Augrc => Measure::Augrc,
            MeasureName::Coverage => Measure::Coverage,
        },
        resamples: args.resamples,
        on: match args.on {
            On::ValSelect => JudgedOn::ValSelect,
            On::TrainFold => JudgedOn::TrainFold,
        },
        out: args
            .out
            .clone()
            .unwrap_or_else(|| run.config.run_dir.join("ab-test")),
    };
    let test = ab_test::compare(&run, &plan)?;
    output.answer(&test, &test.text(&plan.out))?;
    Ok(match args.require_better && !test.any_better {
        true => Answer::No,
        false => Answer::Yes,
    })
}

/// The configuration as it is, then the arms as they were given.
fn arms(args: &AbTestArgs) -> anyhow::Result<Vec<Arm>> {
    let mut arms = vec![Arm {
        name: BASE.to_owned(),
        overrides: Vec::new(),
    }];
    for text in &args.arms {
        arms.push(Arm::parse(text)?);
    }
    if let Some(file) = &args.file {
        arms.extend(Arm::load_all(file)?);
    }
    ensure!(
        arms.len() > 1,
        "nothing to compare: name an arm, e.g. `--arm 'wide:head.kind=mlp,head.hidden=1024'`, or a file of arms with --arms"
    );
    let mut names = BTreeSet::new();
    if let Some(twice) = arms.iter().find(|arm| !names.insert(&arm.name)) {
        bail!(
            "two arms are called {}; `{BASE}` is the configuration as it is",
            twice.name
        );
    }
    Ok(arms)
}

fn seeds(args: &AbTestArgs, first: u64) -> anyhow::Result<Vec<u64>> {
    let seeds = match args.seeds.as_slice() {
        [] => (0..SEEDS as u64).map(|n| first.wrapping_add(n)).collect(),
        given => given.to_vec(),
    };
    let distinct: BTreeSet<_> = seeds.iter().collect();
    ensure!(
        distinct.len() == seeds.len(),
        "--seeds: a seed is there twice, which would count its trainings twice"
    );
    ensure!(
        seeds.len() >= SEEDS || args.allow_few_seeds,
        "--seeds: {} given, at least {SEEDS} are needed to see how much seeds matter; --allow-few-seeds compares anyway",
        seeds.len()
    );
    Ok(seeds)
}
