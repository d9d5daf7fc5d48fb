//! Further precisions of the bundle's float32 model: made from it, compared with it, and added only when they pass.

use super::{
    Run,
    export::{Deployed, Outcome, session_options, weights},
    scoring,
    split::Splits,
};
use anyhow::{Context, ensure};
use stage1_core::{
    artifact::{Digest, Document},
    bundle::{self, Bundle, FP32, FileRef, FlipRate, MODEL, NewVariant, Parity, Recipe, Variant},
    certificate::BatchMode,
    checkpoint::Checkpoint,
    config::{Target, VariantPrecision},
    data::OnBadImage,
    policy::argmax,
    preprocess::{Normalisation, Preprocessor},
    split::Split,
};
use stage1_exporter::{
    Attention, Exported, ExternalData, Int8Options, Observed, Runtime, Sample, Tolerances, fp16,
    int8,
};
use stage1_runtime::{CandidateFiles, OrtSession, Scorer, SessionOptions, cpu_isa};
use std::error::Error;

/// The bundle with this precision: as it is there, or made anew.
pub(crate) fn ensure(
    run: &Run,
    splits: &Splits,
    checkpoint: &Checkpoint,
    bundle: Bundle,
    precision: VariantPrecision,
) -> anyhow::Result<Outcome> {
    let name = precision.name();
    check_target(precision, run.config.export.target)?;
    let source = bundle.variant(FP32)?.model.clone();
    let settings = settings(run, precision);
    if let Some(recipe) = bundle.variant(name).ok().map(|_| bundle.recipe(name)) {
        if recipe?
            .is_some_and(|r| r.settings_digest == settings && r.source_digest == source.digest)
        {
            run.reused(&format!("export of {name}"));
            return Ok(Outcome::Exported(Box::new(bundle)));
        }
        ensure!(
            run.overwrite,
            "{} holds the variant {name}, made under other settings; replace it, and its policy, with --overwrite",
            bundle.dir().display()
        );
    }
    let made = make(run, splits, checkpoint, &bundle, precision)?;
    judge(run, splits, checkpoint, bundle, precision, made)
}

/// int8 is made only for what can read it.
fn check_target(precision: VariantPrecision, target: Target) -> anyhow::Result<()> {
    ensure!(
        (precision, target) != (VariantPrecision::Int8, Target::TensorRt),
        "int8: TensorRT reads symmetric int8 only, and these models have zero points; take --precision fp16, or --target \
         portable"
    );
    Ok(())
}

/// A model that isn't in the bundle yet.
struct Made {
    model: Exported,
    recipe: Recipe,
}

fn settings(run: &Run, precision: VariantPrecision) -> Digest {
    let export = &run.config.export;
    let common = (export.max_flip_rate, run.config.seed, cpu_isa());
    match precision {
        VariantPrecision::Fp16 => Digest::of_json(&(common, &export.fp16, export.target)),
        VariantPrecision::Int8 => Digest::of_json(&(common, &export.int8)),
    }
}

/// ONNX Runtime adds products of bytes in 16 bits on x86-64 without VNNI (`vpmaddubsw`), which saturates with weights of
/// 8 bits.
fn weight_bits(isa: &str) -> u8 {
    match isa.starts_with("x86_64") && !isa.contains("vnni") {
        true => 7,
        false => 8,
    }
}

fn attention(target: Target) -> Attention {
    match target {
        Target::Portable => Attention::Half,
        Target::TensorRt => Attention::Single,
    }
}

fn make(
    run: &Run,
    splits: &Splits,
    checkpoint: &Checkpoint,
    bundle: &Bundle,
    precision: VariantPrecision,
) -> anyhow::Result<Made> {
    let export = &run.config.export;
    let wanted = match precision {
        VariantPrecision::Fp16 => export.fp16.images,
        VariantPrecision::Int8 => export.int8.images,
    };
    let (images, pixels) = training_images(run, splits, checkpoint, wanted)?;
    run.output.note(&format!(
        "{}: looking at {} training images",
        precision.name(),
        images.len()
    ));
    let (height, width) = checkpoint.preprocess.output_size();
    let sample = Sample::new(&pixels, [3, height, width])?;
    let source = &bundle.variant(FP32)?.model;
    let float32 = Exported {
        model: bundle.read(source)?,
        digest: source.digest,
        data: data_beside(bundle)?,
    };
    let mut runtime = Temporary {
        options: session_options(run),
        normalisation: checkpoint.preprocess.normalisation(),
    };
    let mut recipe = Recipe {
        schema_version: Recipe::SCHEMA_VERSION,
        source_digest: source.digest,
        settings_digest: settings(run, precision),
        target: export.target,
        cpu_isa: cpu_isa(),
        weight_bits: None,
        images,
        error: None,
        lowered: 0,
        float32: std::collections::BTreeMap::new(),
    };
    let model = match precision {
        VariantPrecision::Fp16 => {
            let attention = attention(export.target);
            let made = fp16(&float32, sample, &mut runtime, attention)?;
            (recipe.lowered, recipe.float32) = (made.half, made.kept);
            made.model
        }
        VariantPrecision::Int8 => {
            let weight_bits = export.int8.weight_bits.unwrap_or(weight_bits(&cpu_isa()));
            let options = Int8Options {
                weight_bits,
                max_error: export.int8.max_error,
            };
            let made = int8(&float32, sample, &mut runtime, options)?;
            recipe.weight_bits = Some(weight_bits);
            recipe.error = Some(made.error);
            (recipe.lowered, recipe.float32) = (made.quantised.len(), made.kept);
            made.model
        }
    };
    Ok(Made { model, recipe })
}

/// The float32 model's weights, where they lie beside it.
fn data_beside(bundle: &Bundle) -> anyhow::Result<Option<ExternalData>> {
    let Some(file) = &bundle.variant(FP32)?.data else {
        return Ok(None);
    };
    Ok(Some(ExternalData {
        name: format!("{MODEL}.data"),
        bytes: bundle.read(file)?,
        digest: file.digest,
    }))
}

/// Some images of `train`, by seeded hash, with their names; val_calib stays untouched.
fn training_images(
    run: &Run,
    splits: &Splits,
    checkpoint: &Checkpoint,
    wanted: usize,
) -> anyhow::Result<(Vec<String>, Vec<f32>)> {
    let samples = splits.manifest.shuffled(Split::Train, run.config.seed);
    let mut preprocessor = Preprocessor::new(checkpoint.preprocess.clone())?;
    let (mut names, mut pixels) = (Vec::new(), Vec::new());
    for sample in samples {
        if names.len() == wanted {
            break;
        }
        let path = splits.root.join(&sample.path);
        match preprocessor.decode_file(&path, super::limits(&run.config)) {
            Ok(image) => {
                pixels.extend(preprocessor.run(&image)?);
                names.push(sample.path.clone());
            }
            Err(_) if run.config.data.options.on_bad_image == OnBadImage::Skip => {}
            Err(error) => return Err(error).context("cannot look at the training images"),
        }
    }
    Ok((names, pixels))
}

/// Compares what was made with the trainer and the float32 model, and adds it to the bundle if it passes.
fn judge(
    run: &Run,
    splits: &Splits,
    checkpoint: &Checkpoint,
    bundle: Bundle,
    precision: VariantPrecision,
    made: Made,
) -> anyhow::Result<Outcome> {
    let name = precision.name();
    let reference = checkpoint.reference_file(&run.config.checkpoint_dir())?;
    let normalisation = checkpoint.preprocess.normalisation();
    let mut session = Deployed {
        session: OrtSession::with_weights(
            &made.model.model,
            made.model.data.as_ref().map(weights),
            name,
            &session_options(run),
        )?,
        normalisation,
        has_gate: bundle.manifest().gate.is_some(),
    };
    let export = &run.config.export;
    let tolerances = Tolerances {
        reference: match precision {
            VariantPrecision::Fp16 => export.fp16.parity_tolerance,
            VariantPrecision::Int8 => export.int8.parity_tolerance,
        },
        ..Tolerances::default()
    };
    let mut parity = stage1_exporter::parity(&mut session, &reference, normalisation, tolerances)?;
    let batch_mode = batch_mode(&parity);
    let float32 = bundle.variant(FP32)?;
    let candidate = Variant {
        precision: name.to_owned(),
        batch_mode,
        model: FileRef {
            path: format!("variants/{name}/{MODEL}"),
            digest: made.model.digest,
        },
        data: made.model.data.as_ref().map(|data| FileRef {
            path: format!("variants/{name}/{}", data.name),
            digest: data.digest,
        }),
        policy: None,
        certificate: None,
        sessions: Vec::new(),
        ..float32.clone()
    };
    let options = scoring::options(run);
    let files = CandidateFiles {
        model: &made.model.model,
        weights: made.model.data.as_ref().map(weights),
    };
    let scorer = Scorer::candidate(bundle.clone(), candidate, &files, &options)?;
    let flips = flips(run, splits, &scorer)?;
    parity.passed = parity.max_abs_error <= parity.tolerance * parity.scale && flips.passed();
    parity.flips = Some(flips);
    if !parity.passed {
        return Ok(Outcome::ParityFailed {
            variant: name,
            parity,
        });
    }
    if batch_mode == BatchMode::Single {
        run.output.warn(&format!(
            "{name}: an image's logits depend on its batch (by {:.1e}): it runs one image at a time",
            parity.batch_max_abs_error
        ));
    }
    let (_, golden_inputs) = bundle.golden()?.f32("pixel_values")?;
    let golden = scorer.scores(&golden_inputs)?;
    let golden_gates: Option<Vec<f32>> = golden.iter().map(|one| one.gate).collect();
    let golden_logits: Vec<f32> = golden.into_iter().flat_map(|one| one.logits).collect();
    let new = NewVariant {
        name,
        precision: name,
        batch_mode,
        model: &made.model.model,
        data: made.model.data.as_ref().map(|data| data.bytes.as_slice()),
        parity: &parity,
        recipe: &made.recipe,
        golden_logits: &golden_logits,
        golden_gates: golden_gates.as_deref(),
    };
    let bundle = bundle::add_variant(bundle.dir(), &new)?;
    Ok(Outcome::Exported(Box::new(bundle)))
}

/// Images whose logits depend on their neighbours run, and are certified, one at a time.
fn batch_mode(parity: &Parity) -> BatchMode {
    match parity.batch_max_abs_error <= parity.batch_tolerance * parity.scale {
        true => BatchMode::Any,
        false => BatchMode::Single,
    }
}

/// On val_select, from image bytes, both models in the sessions that are deployed.
fn flips(run: &Run, splits: &Splits, candidate: &Scorer) -> anyhow::Result<FlipRate> {
    let float32 = scoring::open_to_compare(run, FP32)?;
    let want = scoring::logits(run, splits, &float32, Split::ValSelect)?;
    let got = scoring::logits(run, splits, candidate, Split::ValSelect)?;
    ensure!(
        want.ids == got.ids,
        "the images of val_select changed between two models; run it again"
    );
    let differs = |i: &usize| argmax(want.row(*i)) != argmax(got.row(*i));
    Ok(FlipRate {
        images: want.n() as u64,
        flips: (0..want.n()).filter(differs).count() as u64,
        max_rate: run.config.export.max_flip_rate,
    })
}

/// Opens temporary models.
struct Temporary {
    options: SessionOptions,
    normalisation: Normalisation,
}

impl Runtime for Temporary {
    fn open(
        &mut self,
        model: &Exported,
    ) -> Result<Box<dyn Observed>, Box<dyn Error + Send + Sync>> {
        Ok(Box::new(Deployed {
            session: OrtSession::with_weights(
                &model.model,
                model.data.as_ref().map(weights),
                "a temporary model",
                &self.options,
            )?,
            normalisation: self.normalisation,
            has_gate: false,
        }))
    }
}

impl Observed for Deployed {
    fn run(
        &mut self,
        pixel_values: &[f32],
        shape: [usize; 4],
        outputs: &[&str],
    ) -> Result<Vec<Vec<f32>>, Box<dyn Error + Send + Sync>> {
        let outputs =
            self.session
                .run_normalised(pixel_values, shape, self.normalisation, outputs)?;
        Ok(outputs.into_iter().map(|tensor| tensor.values).collect())
    }
}

/// One line about how far a variant's model is from what it was made from.
pub(crate) fn describe(variant: &str, parity: &Parity, recipe: Option<&Recipe>) -> String {
    let mut text = format!(
        "  {variant}: parity on {} images: max |Δlogit| {:.2e}, mean {:.2e} of scale {:.3} (tolerance {} of scale), alone against in a batch {:.2e}",
        parity.images,
        parity.max_abs_error,
        parity.mean_abs_error,
        parity.scale,
        parity.tolerance,
        parity.batch_max_abs_error
    );
    if let Some(flips) = &parity.flips {
        text += &format!(
            "\n    another class than fp32: {} of {} images of val_select, {:.2} % (limit {:.2} %)",
            flips.flips,
            flips.images,
            100.0 * flips.rate(),
            100.0 * flips.max_rate
        );
    }
    if let Some(recipe) = recipe {
        let bits = recipe
            .weight_bits
            .map_or_else(String::new, |bits| format!(" of {bits}-bit weights"));
        text += &format!(
            "\n    for {}: {} layers{bits}; {} stay in float32; chosen on {} training images",
            recipe.target.name(),
            recipe.lowered,
            recipe.float32.len(),
            recipe.images.len()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_a_bit_less_where_sums_saturate() {
        let cases = [
            ("x86_64", 7),
            ("x86_64-avx2", 7),
            ("x86_64-avx512f", 7),
            ("x86_64-avx512-vnni", 8),
            ("aarch64-neon", 8),
        ];
        for (isa, want) in cases {
            assert_eq!(weight_bits(isa), want, "{isa}");
        }
    }
    #[test]
    fn what_depends_on_its_batch_is_certified_one_image_at_a_time() {
        let parity = |batch_max_abs_error| Parity {
            schema_version: Parity::SCHEMA_VERSION,
            images: 8,
            scale: 5.9,
            max_abs_error: 0.0,
            mean_abs_error: 0.0,
            tolerance: 0.1,
            batch_max_abs_error,
            batch_tolerance: 1e-5,
            same_labels: true,
            flips: None,
            passed: true,
        };
        // Dynamic int8, whose scale is the whole batch's, was off by 0.3 to 0.4.
        let cases = [
            (0.0, BatchMode::Any),
            (5e-5, BatchMode::Any),
            (6e-5, BatchMode::Single),
            (0.3, BatchMode::Single),
            (f64::NAN, BatchMode::Single),
        ];
        for (error, want) in cases {
            assert_eq!(batch_mode(&parity(error)), want, "{error}");
        }
    }
}
