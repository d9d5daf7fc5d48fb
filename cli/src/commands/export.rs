use crate::{
    args::{ExportArgs, Periods, Precision},
    commands::inspect,
    output::{Answer, Output},
    steps::{self, Run, export::Outcome, variants::describe},
};
use anyhow::{Context, bail};
use serde_json::json;
use stage1_core::{
    artifact::atomic,
    bundle::{Bundle, FP32, Parity},
    config::{self, BackboneConfig},
    model::{Blocks, RopePeriods},
};
use std::{collections::BTreeMap, path::Path};

pub(crate) fn run(args: &ExportArgs, output: &Output) -> anyhow::Result<Answer> {
    if let Some(path) = args.inspect.as_ref().and_then(Option::as_ref) {
        if args.backbone.is_some() {
            bail!("--inspect with a path looks at what is there; leave the path or --backbone out");
        }
        return inspect::run(path, output);
    }
    match (&args.backbone, args.image_size, &args.out) {
        (Some(backbone), Some(size), Some(out)) => {
            let backbone = BackboneConfig {
                path: backbone.clone(),
                adapter: args.adapter.clone(),
                blocks: args.blocks.map_or(Blocks::All, Blocks::First),
                rope_periods: match args.rope_periods {
                    Periods::Fp32 => RopePeriods::Fp32,
                    Periods::Bf16 => RopePeriods::Bf16,
                },
            };
            embedding(&backbone, size, out, args, output)
        }
        (Some(_), _, _) => bail!("--backbone needs --image-size H[xW] and --out FILE"),
        (None, ..) => classifier(args, output),
    }
}

fn classifier(args: &ExportArgs, output: &Output) -> anyhow::Result<Answer> {
    let run = Run::open(&args.step, *output)?;
    steps::train::find_trainer()?;
    let splits = steps::split::ensure(&run)?;
    let checkpoint = steps::train::ensure(&run)?;
    run.record()?;
    let precisions = match args.precision {
        None => run.config.export.variants.clone(),
        Some(Precision::Fp32) => Vec::new(),
        Some(Precision::Fp16) => vec![config::Precision::Fp16],
        Some(Precision::Int8) => vec![config::Precision::Int8],
    };
    match steps::export::ensure_with(&run, &splits, &checkpoint, &precisions)? {
        Outcome::Exported(bundle) => exported(&bundle, args, output),
        Outcome::ParityFailed { variant, parity } => parity_failed(variant, &parity, output),
    }
}

fn exported(bundle: &Bundle, args: &ExportArgs, output: &Output) -> anyhow::Result<Answer> {
    let mut lines = vec![format!("bundle {}", bundle.dir().display())];
    let mut variants = BTreeMap::new();
    for name in bundle.manifest().variants.keys() {
        let (parity, recipe) = (bundle.parity(name)?, bundle.recipe(name)?);
        lines.push(describe(name, &parity, recipe.as_ref()));
        variants.insert(name, json!({"parity": parity, "recipe": recipe}));
    }
    let document = json!({
        "bundle": bundle.dir(),
        "digest": bundle.digest(),
        "parity": bundle.parity(FP32)?,
        "variants": variants,
    });
    let found = args.inspect.as_ref().map(|_| inspect::bundle(bundle));
    let (document, text) = inspect::append(found.transpose()?, document, lines.join("\n"));
    output.answer(&document, &text)?;
    Ok(Answer::Yes)
}

/// The model answers differently from the one that was trained: it isn't written.
pub(crate) fn parity_failed(
    variant: &str,
    parity: &Parity,
    output: &Output,
) -> anyhow::Result<Answer> {
    let advice = match variant {
        FP32 => "the bundle is not written",
        _ => {
            "the bundle keeps the variants that it has; make this one more exact (`export.int8.max_error`), or raise its limits"
        }
    };
    let text = format!(
        "parity of {variant} failed: {advice}\n{}",
        describe(variant, parity, None)
    );
    let document = json!({"bundle": null, "variant": variant, "parity": parity});
    output.answer(&document, &text)?;
    Ok(Answer::No)
}

fn embedding(
    backbone: &BackboneConfig,
    (height, width): (usize, usize),
    out: &Path,
    args: &ExportArgs,
    output: &Output,
) -> anyhow::Result<Answer> {
    if out.exists() && !args.step.overwrite {
        bail!(
            "{} exists; choose another name with --out, or replace it with --overwrite",
            out.display()
        );
    }
    let weights = backbone.open()?;
    let exported = stage1_exporter::export_embedding(&weights, height, width)?;
    atomic::write_bytes(out, &exported.model).context("cannot write the model")?;
    let tokens = weights.spec().token_count(height, width)?;
    let hidden = weights.spec().hidden();
    let document = json!({
        "model": out,
        "digest": exported.digest,
        "input": {"pixel_values": ["N", 3, height, width]},
        "outputs": {"tokens": ["N", tokens, hidden], "features": ["N", hidden]},
    });
    let text = format!(
        "wrote {} ({:.1} MB)\n  pixel_values [N, 3, {height}, {width}] -> tokens [N, {tokens}, {hidden}], features [N, {hidden}]",
        out.display(),
        exported.model.len() as f64 / 1e6,
    );
    let found = args
        .inspect
        .as_ref()
        .map(|_| inspect::model(&exported.model));
    let (document, text) = inspect::append(found.transpose()?, document, text);
    output.answer(&document, &text)?;
    Ok(Answer::Yes)
}
