//! Exports one backbone in the forms that `benches/peers/export` times.
//!
//! `cargo run --release -p stage1-benches --example export -- FOLDER`: reads `backbone/` (a Hugging Face folder),
//! `head.cls.safetensors` and `head.mean.safetensors` (linear heads), and `sample.safetensors` (`pixel_values`, for the
//! ranges of int8), and writes `stage1.<form>.onnx`. Prints one JSON object: what int8 and fp16 chose.

use serde_json::json;
use stage1_core::{
    artifact::{Digest, Document as _, tensors::TensorFile},
    checkpoint::Checkpoint,
    config::Phase,
    model::{Blocks, Features, HeadKind, HeadSpec, ReadBlocks, Weights},
    preprocess::PreprocessSpec,
};
use stage1_exporter::{
    Attention, Exported, Int8Options, Observed, Runtime, Sample, export_classifier, fp16, int8,
};
use stage1_runtime::{OrtSession, SessionOptions};
use std::{collections::BTreeMap, error::Error, fs, io::Write as _, path::Path};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Of a ViT-S's twelve blocks.
const HALF: usize = 6;

/// All layers go into integers: with random weights an error says nothing.
const ANY_ERROR: f64 = 1e3;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).ok_or("usage: export FOLDER")?;
    let folder = Path::new(&folder);
    let file = TensorFile::open(&folder.join("sample.safetensors"))?;
    let (shape, pixels) = file.f32("pixel_values")?;
    let [_, 3, height, width] = shape[..] else {
        return Err(format!("pixel_values have shape {shape:?}, expected [N, 3, H, W]").into());
    };
    let sample = Sample::new(&pixels, [3, height, width])?;
    let export = |blocks, features| export(folder, blocks, features, (height, width));
    let write = |form: &str, model: &Exported| {
        fs::write(folder.join(format!("stage1.{form}.onnx")), &model.model)
    };

    let mean = export(Blocks::All, Features::ClsMeanPatch)?;
    write("mean", &mean)?;
    write("cls", &export(Blocks::All, Features::Cls)?)?;
    let half = export(Blocks::First(HALF), Features::ClsMeanPatch)?;
    write("half", &half)?;
    let lowered = fp16(&mean, sample, &mut Ort, Attention::Half)?;
    write("fp16", &lowered.model)?;
    let mut report = BTreeMap::from([("fp16".to_owned(), json!({"nodes": lowered.half}))]);
    for weight_bits in [7, 8] {
        let options = Int8Options {
            weight_bits,
            max_error: ANY_ERROR,
        };
        let lowered = int8(&mean, sample, &mut Ort, options)?;
        let name = format!("int8-{weight_bits}bit");
        write(&name, &lowered.model)?;
        report.insert(
            name,
            json!({"layers": lowered.quantised.len(), "error": lowered.error}),
        );
    }
    let text = json!({"lowered": report}).to_string();
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

fn export(
    folder: &Path,
    blocks: Blocks,
    features: Features,
    (height, width): (usize, usize),
) -> Result<Exported> {
    let weights = Weights::open_blocks(&folder.join("backbone"), blocks)?;
    let name = match features {
        Features::Cls => "cls",
        Features::ClsMeanPatch => "mean",
    };
    let head = TensorFile::open(&folder.join(format!("head.{name}.safetensors")))?;
    let (shape, _) = head.f32("head.weight")?;
    let classes = shape[0];
    let digest = Digest::of_bytes(b"bench");
    let checkpoint = Checkpoint {
        schema_version: Checkpoint::SCHEMA_VERSION,
        phase: Phase::Baseline,
        backbone: weights.spec().clone(),
        backbone_digest: weights.digest(),
        head: HeadSpec {
            kind: HeadKind::Linear,
            features,
            blocks: ReadBlocks::LAST,
            classes,
        },
        gate: None,
        labels: (0..classes).map(|class| class.to_string()).collect(),
        preprocess: PreprocessSpec::dinov3(u32::try_from(height)?, u32::try_from(width)?),
        seed: 0,
        threads: 1,
        epoch: 1,
        epochs_run: 1,
        metrics: BTreeMap::new(),
        splits_digest: digest,
        init_digest: None,
        inputs_digest: digest,
        files: BTreeMap::new(),
    };
    Ok(export_classifier(
        &checkpoint,
        &head,
        &weights,
        &BTreeMap::new(),
    )?)
}

/// Opens temporary models with ONNX Runtime.
struct Ort;

impl Runtime for Ort {
    fn open(&mut self, model: &Exported) -> Result<Box<dyn Observed>> {
        let session =
            OrtSession::from_bytes(&model.model, "temporary", &SessionOptions::default())?;
        Ok(Box::new(Opened(session)))
    }
}

struct Opened(OrtSession);

impl Observed for Opened {
    fn run(
        &mut self,
        pixels: &[f32],
        shape: [usize; 4],
        outputs: &[&str],
    ) -> Result<Vec<Vec<f32>>> {
        let outputs = self.0.run_named(pixels, shape, outputs)?;
        Ok(outputs.into_iter().map(|tensor| tensor.values).collect())
    }
}
