//! `stage1 embed`: images to features, through a backbone alone.

use super::session;
use crate::{
    args::{EmbedArgs, OnBadImage, Periods, Pipeline, SessionArgs},
    features::FeatureFile,
    inputs::{Image, Inputs},
    output::{Answer, Output},
    progress::Steps,
};
use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use stage1_core::{
    artifact::Digest,
    config::{BackboneConfig, DepthConfig},
    data::Listing,
    model::{Blocks, RopePeriods},
    preprocess::{Arithmetic, Limits, PixelFormat, PreprocessSpec},
    progress::Progress,
};
use stage1_runtime::{Embedder, EmbedderOptions, OrtSession, SessionOptions, Weights, climb};
use std::{collections::BTreeMap, ops::ControlFlow};

/// The side of the images that a backbone gets where nothing else is said.
const SIDE: usize = 224;

/// Exits 0 if at least one image has features; those that have none, where that is allowed, are counted and named.
pub(crate) fn run(args: &EmbedArgs, output: &Output) -> anyhow::Result<Answer> {
    FeatureFile::check(&args.out, args.overwrite)?;
    session::check(&args.session)?;
    let images = Inputs::new(&args.paths, args.root.as_deref())?.collect()?;
    let model = open(args, *output)?;
    let (spec, origin) = (model.spec.clone(), model.origin);
    let options = EmbedderOptions {
        threads: args.session.threads.unwrap_or(0),
        batch: args.session.batch,
        limits: limits(&args.session),
    };
    let embedder = Embedder::new(model.session, spec.clone(), &options)?;
    let metadata = metadata(&embedder, &spec, origin);

    let mut file = FeatureFile::create(&args.out, embedder.width())?;
    let progress = Steps::new(*output);
    progress.start("embed", images.len() as u64);
    let skipped = fill(&mut file, &embedder, &images, args.on_bad_image, &progress);
    progress.finish();
    let skipped = skipped?;
    let rows = file.len();
    if rows == 0 {
        bail!(
            "none of the images ({}) could be read, nothing was written: {}",
            images.len(),
            skipped.examples.join("; ")
        );
    }
    file.finish(&metadata)?;
    conclude(args, &embedder, rows, &skipped, &metadata, *output)
}

/// A session, what images must look like for it, and where its weights come from.
struct Model {
    session: OrtSession,
    spec: PreprocessSpec,
    origin: Option<Digest>,
}

fn open(args: &EmbedArgs, output: Output) -> anyhow::Result<Model> {
    let options = SessionOptions {
        providers: args.session.devices.providers()?,
        intra_threads: args.session.threads.unwrap_or(0),
        ..SessionOptions::default()
    };
    let Some(path) = &args.model else {
        return open_backbone(args, &options, output);
    };
    let session = on_device(args, &options, output, |options| {
        OrtSession::open(path, options)
    })?;
    let shape = &session.input().shape;
    let sides = match session.pixels() {
        PixelFormat::Float32 => &shape[2..],
        PixelFormat::Uint8 => &shape[1..3],
    };
    let &[Some(height), Some(width)] = sides else {
        bail!(
            "{}: its input is {shape:?}, expected a fixed size; export the model with `stage1 export --backbone`",
            path.display()
        );
    };
    let spec = spec(args.preprocess, (height, width))?;
    if session.pixels() == PixelFormat::Uint8 && spec.arithmetic == Arithmetic::Float32 {
        bail!(
            "{}: it takes grey levels (uint8), and the preprocessing `{}` makes fractions of them; give --preprocess dinov2, or export \
             the model with `--input float32`",
            path.display(),
            args.preprocess
                .to_possible_value()
                .map_or_else(String::new, |v| v.get_name().to_owned())
        );
    }
    Ok(Model {
        spec,
        session,
        origin: None,
    })
}

/// The backbone as the exporter writes it, in memory.
fn open_backbone(
    args: &EmbedArgs,
    options: &SessionOptions,
    output: Output,
) -> anyhow::Result<Model> {
    let path = args
        .backbone
        .as_deref()
        .context("--backbone or --model is needed")?;
    let (height, width) = args.image_size.unwrap_or((SIDE, SIDE));
    let spec = spec(args.preprocess, (height, width))?;
    let config = BackboneConfig {
        path: path.to_owned(),
        adapter: args.adapter.clone(),
        blocks: args.blocks.map_or(Blocks::All, Blocks::First).into(),
        rope_periods: match args.rope_periods {
            Periods::Fp32 => RopePeriods::Fp32,
            Periods::Bf16 => RopePeriods::Bf16,
        },
        depth: DepthConfig::default(),
    };
    let weights = config.open()?;
    let exported = stage1_exporter::export_features(&weights, height, width)?;
    let origin = Some(weights.digest());
    drop(weights);
    let name = path.display().to_string();
    let outside = exported.data.map(|data| Weights {
        name: data.name,
        bytes: data.bytes.into(),
    });
    Ok(Model {
        session: on_device(args, options, output, |options| {
            OrtSession::with_weights(&exported.model, outside.clone(), &name, options)
        })?,
        spec,
        origin,
    })
}

/// Opens the session on the first device on which it opens.
fn on_device(
    args: &EmbedArgs,
    options: &SessionOptions,
    output: Output,
    open: impl Fn(&SessionOptions) -> stage1_runtime::Result<OrtSession>,
) -> anyhow::Result<OrtSession> {
    let ladder = &args.session.devices.device;
    let (session, climb) = climb(ladder, |device| {
        open(&SessionOptions {
            device,
            ..options.clone()
        })
    })?;
    session::tell(ladder, &climb, output);
    Ok(session)
}

fn spec(pipeline: Pipeline, (height, width): (usize, usize)) -> anyhow::Result<PreprocessSpec> {
    let side =
        |side: usize| u32::try_from(side).with_context(|| format!("{side} pixels are too many"));
    let (height, width) = (side(height)?, side(width)?);
    let spec = match pipeline {
        Pipeline::Dinov3 => PreprocessSpec::dinov3(height, width),
        // 256 for 224, as published.
        Pipeline::Dinov2 => {
            let short_side = u64::from(height.max(width)) * 8 / 7;
            PreprocessSpec::dinov2(short_side.try_into()?, height, width)
        }
    };
    spec.validate()?;
    Ok(spec)
}

fn limits(args: &SessionArgs) -> Limits {
    Limits {
        max_pixels: args.max_pixels,
        ..Limits::default()
    }
}

/// What the features depend on, to be kept with them.
fn metadata(
    embedder: &Embedder,
    spec: &PreprocessSpec,
    origin: Option<Digest>,
) -> BTreeMap<String, String> {
    let facts = embedder.facts();
    let json = serde_json::to_string(spec).expect("plain data has a JSON form");
    let mut pairs = vec![
        ("stage1.model_digest", facts.model_digest.to_string()),
        ("stage1.preprocess", json),
        ("stage1.preprocessing_digest", spec.digest().to_string()),
        ("stage1.provider", facts.provider.to_owned()),
        ("stage1.provider_version", facts.provider_version.clone()),
    ];
    pairs.extend(origin.map(|digest| ("stage1.backbone_digest", digest.to_string())));
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// Computes all rows; returns the images that have none.
fn fill(
    file: &mut FeatureFile,
    embedder: &Embedder,
    images: &[Image],
    on_bad_image: OnBadImage,
    progress: &dyn Progress,
) -> anyhow::Result<Listing> {
    let mut skipped = Listing::default();
    let mut outcome = Ok(());
    let mut ids = images.iter().map(|image| &image.id);
    embedder.scan(images.iter().map(|image| &image.path), |path, features| {
        progress.advance(1);
        let id = ids.next().expect("one id per path");
        match features {
            Ok(features) if features.iter().all(|x| x.is_finite()) => {
                outcome = file
                    .push(id.clone(), features)
                    .context("cannot keep the features");
            }
            Ok(_) => {
                outcome = Err(anyhow::anyhow!(
                    "{}: the model's features aren't finite",
                    path.display()
                ));
            }
            // The error names the file.
            Err(error) if on_bad_image == OnBadImage::Skip => skipped.push(error.to_string()),
            Err(error) => {
                outcome = Err(anyhow::anyhow!(
                    "{error}; nothing was written; --on-bad-image skip leaves such images out"
                ));
            }
        }
        match outcome {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    outcome.map(|()| skipped)
}

fn conclude(
    args: &EmbedArgs,
    embedder: &Embedder,
    rows: usize,
    skipped: &Listing,
    metadata: &BTreeMap<String, String>,
    output: Output,
) -> anyhow::Result<Answer> {
    if skipped.count > 0 {
        output.warn(&format!(
            "{} images could not be read and have no row: {}",
            skipped.count,
            skipped.examples.join("; ")
        ));
    }
    let made: BTreeMap<_, _> = metadata
        .iter()
        .map(|(key, value)| (key.trim_start_matches("stage1."), told(key, value)))
        .collect();
    let document = json!({
        "features": args.out,
        "rows": rows,
        "width": embedder.width(),
        "skipped": skipped,
        "made": made,
    });
    let text = format!(
        "wrote {}: {rows} rows of {} features",
        args.out.display(),
        embedder.width()
    );
    output.answer(&document, &text)?;
    Ok(Answer::Yes)
}

/// The preprocessing is a document, all else is text.
fn told(key: &str, value: &str) -> Value {
    match key {
        "stage1.preprocess" => serde_json::from_str(value).unwrap_or(Value::Null),
        _ => value.into(),
    }
}
