use crate::{
    args::{ExportArgs, Periods, PictureInput, Precision},
    commands::inspect,
    output::{Answer, Output},
    steps::{
        self, Run,
        export::{Outcome, input},
        triton,
        variants::describe,
    },
};
use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::json;
use stage1_core::{
    artifact::atomic,
    bundle::{Bundle, FP32, Parity},
    config::{BackboneConfig, BatchSize, DepthConfig, VariantPrecision},
    model::{Blocks, RopePeriods},
    preprocess::{IMAGENET_MEAN, IMAGENET_STD, Normalisation, PixelFormat},
};
use stage1_exporter::{Exported, Form};
use std::{collections::BTreeMap, ffi::OsStr, fs, path::Path};

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
                blocks: args.blocks.map_or(Blocks::All, Blocks::First).into(),
                rope_periods: match args.rope_periods {
                    Periods::Fp32 => RopePeriods::Fp32,
                    Periods::Bf16 => RopePeriods::Bf16,
                },
                depth: DepthConfig::default(),
            };
            embedding(&backbone, size, out, args, output)
        }
        (Some(_), _, _) => bail!("--backbone needs --image-size H[xW] and --out FILE"),
        (None, ..) => classifier(args, output),
    }
}

fn classifier(args: &ExportArgs, output: &Output) -> anyhow::Result<Answer> {
    let mut step = args.step.clone();
    if let Some(batch) = args.batch {
        let value = batch
            .fixed()
            .map_or("dynamic".to_owned(), |n| n.to_string());
        step.source.overrides.push(format!("export.batch={value}"));
    }
    if let Some(input) = args.input {
        let value = name_of(input);
        step.source.overrides.push(format!("export.input={value}"));
    }
    if let Some(target) = args.target {
        let value = name_of(target);
        step.source.overrides.push(format!("export.target={value}"));
    }
    let run = Run::open(&step, *output)?;
    steps::train::find_trainer()?;
    let splits = steps::split::ensure(&run)?;
    let checkpoint = steps::train::ensure(&run)?;
    run.record()?;
    let precisions = match args.precision {
        None => run.config.export.variants.clone(),
        Some(Precision::Fp32) => Vec::new(),
        Some(Precision::Fp16) => vec![VariantPrecision::Fp16],
        Some(Precision::Int8) => vec![VariantPrecision::Int8],
    };
    match steps::export::ensure_with(&run, &splits, &checkpoint, &precisions)? {
        Outcome::Exported(bundle) => {
            let repository = args.triton.as_deref().map(|dir| {
                let name = run_name(&run);
                triton::write(&bundle, &name, dir, args.step.overwrite)
            });
            exported(&bundle, repository.transpose()?.as_deref(), args, output)
        }
        Outcome::ParityFailed { variant, parity } => parity_failed(variant, &parity, output),
    }
}

/// A choice as it is written on the command line and in configurations.
fn name_of(choice: impl ValueEnum) -> String {
    let value = choice.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The name of the run's folder, as Triton's models may be called.
fn run_name(run: &Run) -> String {
    let name = run.config.run_dir.file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect()
}

fn exported(
    bundle: &Bundle,
    triton: Option<&[String]>,
    args: &ExportArgs,
    output: &Output,
) -> anyhow::Result<Answer> {
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
        "triton": args.triton.as_ref().map(|dir| json!({"repository": dir, "models": triton})),
    });
    if let (Some(dir), Some(models)) = (&args.triton, triton) {
        lines.push(format!(
            "Triton model repository {}: {} (logits alone: the policy isn't part of it)",
            dir.display(),
            models.join(", ")
        ));
    }
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
    let data = out.with_added_extension("data");
    if let Some(taken) = [out, &data].into_iter().find(|path| path.exists())
        && !args.step.overwrite
    {
        bail!(
            "{} exists; choose another name with --out, or replace it with --overwrite",
            taken.display()
        );
    }
    let weights = backbone.open()?;
    let format = args
        .input
        .map_or(PixelFormat::Float32, PictureInput::format);
    let form = Form {
        file_name: out
            .file_name()
            .and_then(OsStr::to_str)
            .with_context(|| format!("{} is not a file name in UTF-8", out.display()))?
            .to_owned(),
        external_above: args.external_above,
        batch: args.batch.and_then(BatchSize::fixed),
        input: input(format, Normalisation::new(IMAGENET_MEAN, IMAGENET_STD)),
    };
    let exported = stage1_exporter::export_embedding_as(&weights, height, width, &form)?;
    write(&exported, out, &data).context("cannot write the model")?;
    let licences = steps::export::licences_of(&backbone.path, weights.spec(), *output)?;
    for (name, text) in &licences {
        let beside = out.with_added_extension(name);
        atomic::write_bytes(&beside, text.as_bytes()).context("cannot write the licence")?;
    }
    let tokens = weights.spec().token_count(height, width)?;
    let hidden = weights.spec().hidden();
    let images = form.batch.map_or(json!("N"), |n| json!(n));
    let (kind, sides) = match format {
        PixelFormat::Float32 => ("float32", [3, height, width]),
        PixelFormat::Uint8 => ("uint8", [height, width, 3]),
    };
    let [a, b, c] = sides;
    let n = form.batch.map_or("N".to_owned(), |n| n.to_string());
    let document = json!({
        "model": out,
        "digest": exported.digest,
        "data": exported.data.as_ref().map(|_| &data),
        "licences": licences.keys().map(|name| out.with_added_extension(name)).collect::<Vec<_>>(),
        "input": {"pixel_values": [images, a, b, c], "type": kind},
        "outputs": {"tokens": [images, tokens, hidden], "features": [images, hidden]},
    });
    let text = format!(
        "wrote {} ({:.1} MB)\n  pixel_values {kind} [{n}, {a}, {b}, {c}] -> tokens [{n}, {tokens}, {hidden}], features [{n}, {hidden}]",
        out.display(),
        exported.model.len() as f64 / 1e6,
    );
    let text = match &exported.data {
        None => text,
        Some(outside) => format!(
            "{text}\n  its weights are in {} ({:.1} MB)",
            data.display(),
            outside.bytes.len() as f64 / 1e6
        ),
    };
    let found = args
        .inspect
        .as_ref()
        .map(|_| inspect::model(&exported.model));
    let (document, text) = inspect::append(found.transpose()?, document, text);
    output.answer(&document, &text)?;
    Ok(Answer::Yes)
}

/// Writes the weights before the model that refers to them; those of a replaced model go with it.
fn write(exported: &Exported, out: &Path, data: &Path) -> anyhow::Result<()> {
    if let Some(outside) = &exported.data {
        atomic::write_bytes(data, &outside.bytes)?;
    }
    atomic::write_bytes(out, &exported.model)?;
    if exported.data.is_none() && data.exists() {
        fs::remove_file(data).with_context(|| format!("cannot remove {}", data.display()))?;
    }
    Ok(())
}
