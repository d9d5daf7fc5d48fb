//! Checkpoint → bundle: the graph, its parity with libtorch, and the golden outputs of the deployed session.

use super::{Run, gate, split::Splits};
use crate::output::Output;
use anyhow::{Context, bail};
use stage1_core::{
    artifact::{Digest, tensors::TensorFile},
    bundle::{self, Bundle, Existing, FP32, InputSpec, MODEL, NewBundle, Parity, Provenance},
    certificate::BatchMode,
    checkpoint::Checkpoint,
    config::{
        BlockChoice, CalibrateConfig, Config, DeployConfig, DepthConfig, ExportConfig,
        ValidateConfig, VariantPrecision,
    },
    model::{BackboneSpec, VitFamily},
    preprocess::{Normalisation, PixelFormat},
};
use stage1_exporter::{Exported, ExternalData, Form, Input, Tolerances};
use stage1_runtime::{NamedTensor, OrtSession, SessionOptions, Weights};
use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

/// The models' outputs.
const LOGITS: &str = "logits";
const GATE: &str = "gate";

/// The bundle, and whether the exported model answers as the trained one did.
pub(crate) enum Outcome {
    Exported(Box<Bundle>),
    ParityFailed {
        variant: &'static str,
        parity: Parity,
    },
}

/// The run's bundle with these precisions beside fp32.
pub(crate) fn ensure_with(
    run: &Run,
    splits: &Splits,
    checkpoint: &Checkpoint,
    precisions: &[VariantPrecision],
) -> anyhow::Result<Outcome> {
    let mut outcome = ensure(run, splits, checkpoint)?;
    for precision in precisions {
        let Outcome::Exported(bundle) = outcome else {
            break;
        };
        outcome = super::variants::ensure(run, splits, checkpoint, *bundle, *precision)?;
    }
    Ok(outcome)
}

/// The run's bundle: the one that is there, or a new one without a policy.
pub(crate) fn ensure(
    run: &Run,
    splits: &Splits,
    checkpoint: &Checkpoint,
) -> anyhow::Result<Outcome> {
    let dir = run.config.bundle_dir();
    let provenance = Provenance {
        splits_digest: splits.digest,
        checkpoint_digest: checkpoint.digest(),
        init_digest: checkpoint.init_digest,
        backbone_digest: checkpoint.backbone_digest,
        config_digest: config_digest(&run.config),
        phase: checkpoint.phase,
    };
    let existing = match Bundle::open(&dir) {
        Ok(bundle) if bundle.manifest().provenance == provenance => {
            run.reused("export");
            return Ok(Outcome::Exported(Box::new(bundle)));
        }
        Ok(bundle) if !run.overwrite && is_of(&bundle, &provenance) => bail!(
            "{} holds a bundle of this checkpoint that was exported under other settings, or by a version of Stage1 with other \
             settings; keep it by setting another \
             run_dir, or replace it with --overwrite",
            dir.display()
        ),
        Ok(_) if !run.overwrite => bail!(
            "{} holds a bundle of another checkpoint; keep it by setting another run_dir, or replace it with --overwrite",
            dir.display()
        ),
        Ok(_) => Existing::Replace,
        Err(bundle::Error::NotABundle { .. }) => Existing::Refuse,
        Err(_) if run.overwrite => Existing::Replace,
        Err(error) => {
            return Err(error).context("repair the bundle, or make it again with --overwrite");
        }
    };
    create(run, splits, checkpoint, provenance, existing)
}

/// The digest of what decided the model: everything but where files lie and what is asked of the finished model.
fn config_digest(config: &Config) -> Digest {
    let mut config = config.clone();
    config.run_dir = PathBuf::new();
    config.data.source = PathBuf::new();
    config.data.options.root = None;
    config.backbone.path = PathBuf::new();
    // What an adapter adds, and how many blocks are left, is in the digest of the weights.
    config.backbone.adapter = None;
    config.backbone.blocks = BlockChoice::All;
    config.backbone.depth = DepthConfig::default();
    config.explora = config.explora.without_places();
    config.train.cache_dir = None;
    config.train.save_every_seconds = 0;
    config.train.init_from = config.train.init_from.map(|_| PathBuf::new());
    config.deploy = DeployConfig::default();
    config.calibrate = CalibrateConfig::default();
    config.validate = ValidateConfig::default();
    // What further precisions are made, and how, is on record with each of them.
    config.export = ExportConfig {
        parity_tolerance: config.export.parity_tolerance,
        batch: config.export.batch,
        input: config.export.input,
        ..ExportConfig::default()
    };
    Digest::of_json(&config)
}

/// Whether only settings differ.
fn is_of(bundle: &Bundle, wanted: &Provenance) -> bool {
    let config_digest = bundle.manifest().provenance.config_digest;
    bundle.manifest().provenance
        == Provenance {
            config_digest,
            ..wanted.clone()
        }
}

fn create(
    run: &Run,
    splits: &Splits,
    checkpoint: &Checkpoint,
    provenance: Provenance,
    existing: Existing,
) -> anyhow::Result<Outcome> {
    let reference = checkpoint.reference_file(&run.config.checkpoint_dir())?;
    let has_gate = gate::ensure(run, checkpoint)?.is_some_and(|decision| decision.ships);
    let model = write_graph(run, splits, checkpoint, has_gate)?;
    let normalisation = checkpoint.preprocess.normalisation();
    let session = OrtSession::with_weights(
        &model.model,
        model.data.as_ref().map(weights),
        "the exported model",
        &session_options(run),
    )?;
    let mut session = Deployed {
        session,
        normalisation,
        has_gate,
    };
    let tolerances = Tolerances {
        reference: run.config.export.parity_tolerance,
        ..Tolerances::default()
    };
    let parity = stage1_exporter::parity(&mut session, &reference, normalisation, tolerances)?;
    if !parity.passed {
        return Ok(Outcome::ParityFailed {
            variant: FP32,
            parity,
        });
    }
    let golden = Golden::of(&mut session, &reference)?;
    let licences = licences_of(&run.config.backbone.path, &checkpoint.backbone, run.output)?;
    let (height, width) = checkpoint.preprocess.output_size();
    let new = NewBundle {
        labels: checkpoint.labels.clone(),
        input: InputSpec {
            name: "pixel_values".to_owned(),
            height,
            width,
            batch: run.config.export.batch.fixed(),
            pixels: run.config.export.input,
        },
        output: LOGITS.to_owned(),
        gate: has_gate.then(|| GATE.to_owned()),
        preprocess: checkpoint.preprocess.clone(),
        variant: FP32.to_owned(),
        precision: FP32.to_owned(),
        batch_mode: BatchMode::Any,
        model: &model.model,
        data: model.data.as_ref().map(|data| data.bytes.as_slice()),
        parity: &parity,
        golden_inputs: &golden.inputs,
        golden_logits: &golden.logits,
        golden_gates: golden.gates.as_deref(),
        licences,
        metrics: checkpoint
            .metrics
            .iter()
            .map(|(name, value)| (format!("val_select_{name}"), *value))
            .collect(),
        provenance,
    };
    let bundle = bundle::create(&run.config.bundle_dir(), new, existing)?;
    Ok(Outcome::Exported(Box::new(bundle)))
}

fn write_graph(
    run: &Run,
    splits: &Splits,
    checkpoint: &Checkpoint,
    has_gate: bool,
) -> anyhow::Result<Exported> {
    let weights = checkpoint.weights(
        &run.config.checkpoint_dir(),
        &run.config.supervised_backbone(),
    )?;
    let metadata = BTreeMap::from([
        (
            "stage1.labels".to_owned(),
            serde_json::to_string(&checkpoint.labels)?,
        ),
        (
            "stage1.preprocess".to_owned(),
            serde_json::to_string(&checkpoint.preprocess)?,
        ),
        ("stage1.splits_digest".to_owned(), splits.digest.to_string()),
        (
            "stage1.checkpoint_digest".to_owned(),
            checkpoint.digest().to_string(),
        ),
        (
            "stage1.backbone_digest".to_owned(),
            checkpoint.backbone_digest.to_string(),
        ),
    ]);
    let head = checkpoint.head_file(&run.config.checkpoint_dir())?;
    let form = Form {
        file_name: MODEL.to_owned(),
        batch: run.config.export.batch.fixed(),
        input: input(
            run.config.export.input,
            checkpoint.preprocess.normalisation(),
        ),
        ..Form::default()
    };
    // A gate that isn't deployed isn't exported either.
    let deployed = Checkpoint {
        gate: checkpoint.gate.filter(|_| has_gate),
        ..checkpoint.clone()
    };
    Ok(stage1_exporter::export_classifier_as(
        &deployed, &head, &weights, &metadata, &form,
    )?)
}

/// A model's input in this format, of pictures that are normalised so.
pub(crate) fn input(format: PixelFormat, normalisation: Normalisation) -> Input {
    match format {
        PixelFormat::Float32 => Input::Float32,
        PixelFormat::Uint8 => Input::Uint8(normalisation),
    }
}

pub(crate) fn weights(data: &ExternalData) -> Weights {
    Weights {
        name: data.name.clone(),
        bytes: data.bytes.as_slice().into(),
    }
}

/// The deployed session's own answers, to recognise it by later.
struct Golden {
    inputs: Vec<f32>,
    logits: Vec<f32>,
    gates: Option<Vec<f32>>,
}

impl Golden {
    fn of(session: &mut Deployed, reference: &TensorFile) -> anyhow::Result<Self> {
        let (shape, inputs) = reference.f32("pixel_values")?;
        let shape = shape
            .try_into()
            .map_err(|shape| anyhow::anyhow!("pixel_values has shape {shape:?}"))?;
        let mut outputs = session.outputs(&inputs, shape)?.into_iter();
        let mut next = || outputs.next().map(|tensor| tensor.values);
        Ok(Self {
            logits: next().context("the model has no output")?,
            gates: next(),
            inputs,
        })
    }
}

/// Whether the published weights of this architecture have a licence whose text must go with what is made of them.
fn must_be_passed_on(backbone: &BackboneSpec) -> bool {
    match backbone {
        BackboneSpec::ConvNext(_) => true,
        BackboneSpec::Vit(vit) => vit.family == VitFamily::Dinov3Vit,
    }
}

/// The licences of a backbone, for what is exported from it; a missing one that must be passed on is told of.
pub(crate) fn licences_of(
    path: &Path,
    backbone: &BackboneSpec,
    output: Output,
) -> anyhow::Result<BTreeMap<String, String>> {
    let licences = licences(path)?;
    if licences.is_empty() && must_be_passed_on(backbone) {
        output.warn(&format!(
            "{} has no file LICENSE…: the DINOv3 License applies to what is exported, too, and must be passed on with it",
            path.display()
        ));
    }
    Ok(licences)
}

/// Licences travel with the weights: whatever the backbone's folder holds under such a name.
pub(crate) fn licences(backbone: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in
        fs::read_dir(backbone).with_context(|| format!("cannot read {}", backbone.display()))?
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let upper = name.to_uppercase();
        let is_licence = ["LICENSE", "LICENCE", "NOTICE"]
            .iter()
            .any(|start| upper.starts_with(start));
        if is_licence && entry.path().is_file() {
            let path = entry.path();
            let bytes =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let text = String::from_utf8(bytes).with_context(|| {
                format!(
                    "{}: not UTF-8; a licence travels with the weights, save it as UTF-8",
                    path.display()
                )
            })?;
            found.insert(name, text);
        }
    }
    Ok(found)
}

pub(crate) fn session_options(run: &Run) -> SessionOptions {
    SessionOptions {
        intra_threads: run.config.thread_count(),
        ..SessionOptions::default()
    }
}

/// ONNX Runtime, as the exporter asks for it: exporter and runtime don't know each other.
pub(crate) struct Deployed {
    pub(crate) session: OrtSession,
    /// Of the pictures that it is given; a model of grey levels gets them without.
    pub(crate) normalisation: Normalisation,
    /// Whether the model has a gate.
    pub(crate) has_gate: bool,
}

impl Deployed {
    /// Logits `[n, K]`, and gates `[n]` if the model has one.
    fn outputs(
        &mut self,
        pixel_values: &[f32],
        shape: [usize; 4],
    ) -> stage1_runtime::Result<Vec<NamedTensor>> {
        let names: &[_] = if self.has_gate {
            &[LOGITS, GATE]
        } else {
            &[LOGITS]
        };
        self.session
            .run_normalised(pixel_values, shape, self.normalisation, names)
    }
}

impl stage1_exporter::Session for Deployed {
    fn has_gate(&self) -> bool {
        self.has_gate
    }

    fn run(
        &mut self,
        pixel_values: &[f32],
        shape: [usize; 4],
    ) -> Result<Vec<f32>, Box<dyn Error + Send + Sync>> {
        let mut outputs = self.outputs(pixel_values, shape)?;
        let Some(gates) = outputs.get(1) else {
            return Ok(outputs.remove(0).values);
        };
        let classes = outputs[0].values.len() / gates.values.len().max(1);
        let rows = outputs[0].values.chunks_exact(classes.max(1));
        let rows = rows.zip(&gates.values);
        Ok(rows
            .flat_map(|(row, gate)| row.iter().chain([gate]))
            .copied()
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn where_files_lie_decides_no_model() {
        let digest = |overrides: &[&str]| {
            let document = json!({
                "version": 1,
                "run_dir": "run",
                "data": {"source": "images"},
                "backbone": {"path": "backbone"},
            });
            let overrides: Vec<_> = overrides.iter().map(|text| (*text).to_owned()).collect();
            config_digest(&Config::from_document(document, "a test", &overrides).unwrap())
        };
        let bytes = &["preprocess.arithmetic=uint8", "export.input=uint8"];
        assert_ne!(digest(bytes), digest(&bytes[..1]));
        let cases = [
            ("run_dir=elsewhere", true),
            ("data.source=elsewhere", true),
            ("backbone.path=elsewhere", true),
            ("backbone.adapter=elsewhere", true),
            ("backbone.blocks=auto", true),
            ("calibrate.alpha=0.2", true),
            ("export.batch=4", false),
            ("export.target=tensorrt", true),
            ("train.epochs=3", false),
        ];
        for (change, same) in cases {
            assert_eq!(digest(&[change]) == digest(&[]), same, "{change}");
        }
    }
}
