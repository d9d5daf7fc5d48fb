//! Bundles around models with random weights: they certify nothing but speed.

use stage1_core::{
    artifact::{Digest, Document, json},
    bundle::{self, Existing, FP32, InputSpec, NewBundle, NewVariant, Parity, Provenance, Recipe},
    certificate::{
        Attempts, BatchMode, Certificate, Claim, Constraint, ControlledRisk, Fingerprint,
        Guarantee, Procedure, SampleSize, TestKind, UnitRule,
    },
    config::{Phase, Target},
    ledger::LedgerState,
    policy::{Calibrator, Policy, Score, Threshold},
    preprocess::{PixelFormat, PreprocessSpec},
};
use stage1_runtime::{OrtSession, Scorer, ScorerOptions, SessionOptions, cpu_isa};
use std::{collections::BTreeMap, error::Error, path::Path};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const GOLDENS: usize = 2;

/// Makes a bundle of a float32 model that takes what `preprocess` makes, with a policy that answers about everything.
///
/// # Errors
/// When the model can't be run, or the folder not be written.
pub fn create(
    dir: &Path,
    model: &[u8],
    output: &str,
    labels: Vec<String>,
    preprocess: PreprocessSpec,
) -> Result<()> {
    let (height, width) = preprocess.output_size();
    let new = NewBundle {
        input: InputSpec {
            name: "pixel_values".to_owned(),
            height,
            width,
            batch: None,
            pixels: PixelFormat::Float32,
        },
        output: output.to_owned(),
        gate: None,
        preprocess,
        variant: FP32.to_owned(),
        precision: FP32.to_owned(),
        batch_mode: BatchMode::Any,
        model,
        data: None,
        parity: &parity(),
        golden_inputs: &golden_inputs((height, width)),
        golden_logits: &golden_logits(model, output, (height, width))?,
        golden_gates: None,
        licences: BTreeMap::new(),
        metrics: BTreeMap::new(),
        provenance: Provenance {
            splits_digest: digest("splits"),
            checkpoint_digest: digest("checkpoint"),
            init_digest: None,
            backbone_digest: digest("backbone"),
            config_digest: digest("config"),
            phase: Phase::Baseline,
        },
        labels,
    };
    bundle::create(dir, new, Existing::Refuse)?;
    attach_policy(dir, FP32)
}

/// Adds an int8 model to a bundle, with the same policy.
///
/// # Errors
/// As [`create`].
pub fn add_int8(dir: &Path, model: &[u8], output: &str) -> Result<()> {
    const INT8: &str = "int8";
    let fp32 = bundle::Bundle::open(dir)?;
    let input = &fp32.manifest().input;
    let recipe = Recipe {
        schema_version: Recipe::SCHEMA_VERSION,
        source_digest: fp32.variant(FP32)?.model.digest,
        settings_digest: digest("settings"),
        target: Target::default(),
        cpu_isa: cpu_isa(),
        weight_bits: Some(8),
        images: vec!["random".to_owned()],
        error: Some(0.0),
        lowered: 1,
        float32: BTreeMap::new(),
    };
    let new = NewVariant {
        data: None,
        golden_gates: None,
        name: INT8,
        precision: INT8,
        batch_mode: BatchMode::Any,
        model,
        parity: &parity(),
        recipe: &recipe,
        golden_logits: &golden_logits(model, output, (input.height, input.width))?,
    };
    bundle::add_variant(dir, &new)?;
    attach_policy(dir, INT8)
}

fn attach_policy(dir: &Path, variant: &str) -> Result<()> {
    let options = ScorerOptions {
        variant: Some(variant.to_owned()),
        ..ScorerOptions::default()
    };
    let scorer = Scorer::open(dir, &options)?;
    let policy = policy(scorer.bundle().manifest().labels.len());
    let certificate = certificate(&policy, scorer.fingerprint());
    bundle::attach_policy(dir, variant, &policy, &certificate)?;
    Ok(())
}

fn golden_inputs((height, width): (usize, usize)) -> Vec<f32> {
    (0..GOLDENS * 3 * height * width)
        .map(|i| (i as f32 * 0.1).sin())
        .collect()
}

fn golden_logits(model: &[u8], output: &str, size: (usize, usize)) -> Result<Vec<f32>> {
    let mut session = OrtSession::from_bytes(model, "model", &SessionOptions::default())?;
    let shape = [GOLDENS, 3, size.0, size.1];
    let mut outputs = session.run_named(&golden_inputs(size), shape, &[output])?;
    Ok(outputs.remove(0).values)
}

fn digest(name: &str) -> Digest {
    Digest::of_bytes(name.as_bytes())
}

fn parity() -> Parity {
    Parity {
        schema_version: 1,
        images: 2,
        scale: 10.0,
        max_abs_error: 1e-6,
        mean_abs_error: 1e-7,
        tolerance: 1e-4,
        batch_max_abs_error: 0.0,
        batch_tolerance: 1e-5,
        same_labels: true,
        flips: None,
        passed: true,
    }
}

fn policy(classes: usize) -> Policy {
    let score = Score::MaxProbability { temperature: 1.0 };
    let threshold = Threshold::OneSided { at_least: 0.01 };
    Policy::new(classes, score, threshold, Calibrator::None, digest("plan"))
}

fn certificate(policy: &Policy, fingerprint: Fingerprint) -> Certificate {
    Certificate {
        schema_version: Certificate::SCHEMA_VERSION,
        guarantee: Guarantee::Pac,
        alpha: 0.05,
        delta: Some(0.1),
        attempt: 1,
        attempts: Attempts::Single,
        level: Some(0.1),
        procedure: Some(Procedure::FixedSequence),
        variants: 1,
        jointly: Vec::new(),
        calib: SampleSize {
            rule: UnitRule::Rows,
            rows: 200,
            units: 200,
        },
        risk: ControlledRisk::Image,
        test: Some(TestKind::Binomial),
        claims: vec![Claim {
            constraint: Constraint::SelectiveError { alpha: 0.05 },
            errors: 0,
            total: 100,
            p_value: 0.005,
            upper_bound: 0.023,
        }],
        expected: None,
        answered: 100,
        errors: 0,
        p_value: Some(0.005),
        upper_bound: Some(0.023),
        coverage: 0.5,
        run: Vec::new(),
        plan_digest: policy.plan_digest,
        policy_digest: Digest::of_bytes(&json::to_bytes(policy)),
        splits_digest: None,
        used_rows: None,
        calib_ledger: LedgerState::Unknown {
            reason: "made to measure speed".to_owned(),
        },
        fingerprint: Some(fingerprint),
        flips: None,
        statement: "None: the weights are random.".to_owned(),
        assumptions: Vec::new(),
    }
}
