//! Makes what the server is measured with: `cargo run --release -p stage1-benches --example serving_bundle -- DIR`.
//!
//! `DIR/bundle` has a ViT-S/16 of DINOv3's shapes at 224 x 224 with random weights, whose 384 features count as logits of as many
//! classes, and a policy that answers about everything; `DIR/images` has JPEGs of 1920 x 1080. It certifies nothing but the speed.

use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder};
use stage1_benches::weights::random;
use stage1_core::{
    artifact::{Digest, Document, json},
    bundle::{self, Existing, InputSpec, NewBundle, Parity, Provenance},
    certificate::{
        Attempts, BatchMode, Certificate, Claim, Constraint, ControlledRisk, Fingerprint,
        Guarantee, Procedure, SampleSize, TestKind, UnitRule,
    },
    config::Phase,
    ledger::LedgerState,
    model::preset,
    policy::{Calibrator, Policy, Score, Threshold},
    preprocess::{PixelFormat, PreprocessSpec},
};
use stage1_exporter::{Form, export_embedding_as};
use stage1_runtime::{OrtSession, Scorer, ScorerOptions, SessionOptions};
use std::{collections::BTreeMap, env, error::Error, fs, path::Path};

const SIDE: usize = 224;
const CLASSES: usize = 384;
const IMAGES: usize = 16;
const OUTPUT: &str = "features";

fn main() -> Result<(), Box<dyn Error>> {
    let dir = env::args().nth(1).ok_or("name the folder to make")?;
    let dir = Path::new(&dir);
    fs::create_dir_all(dir.join("images"))?;
    for i in 0..IMAGES {
        fs::write(dir.join(format!("images/{i:02}.jpg")), picture(i)?)?;
    }
    let bundle = dir.join("bundle");
    create(&bundle)?;
    let scorer = Scorer::open(&bundle, &ScorerOptions::default())?;
    let policy = policy();
    bundle::attach_policy(
        &bundle,
        bundle::FP32,
        &policy,
        &certificate(&policy, scorer.fingerprint()),
    )?;
    Ok(())
}

/// Waves, edges and noise: its JPEG has about the bytes of a photograph's.
fn picture(i: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    const WIDTH: u32 = 1920;
    const HEIGHT: u32 = 1080;
    let mut noise = 1 + i as u32;
    let image = image::RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let wave =
            |fx: f32, fy: f32| ((x as f32 * fx + y as f32 * fy + i as f32).sin() + 1.0) * 90.0;
        let edge = if (x / (40 + i as u32) + y / 60).is_multiple_of(2) {
            30.0
        } else {
            0.0
        };
        let grain = (noise >> 27) as f32 - 16.0;
        image::Rgb(
            [wave(0.011, 0.007), wave(0.005, 0.013), wave(0.017, 0.003)]
                .map(|v| (v + edge + grain).clamp(0.0, 255.0) as u8),
        )
    });
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 90).write_image(
        &image,
        WIDTH,
        HEIGHT,
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

fn create(dir: &Path) -> Result<(), Box<dyn Error>> {
    let weights = random(&preset("dinov3-vits16").ok_or("no such preset")?);
    let model = export_embedding_as(&weights, SIDE, SIDE, &Form::default())?.model;
    let golden_inputs: Vec<f32> = (0..2 * 3 * SIDE * SIDE)
        .map(|i| (i as f32 * 0.1).sin())
        .collect();
    let mut session = OrtSession::from_bytes(&model, "model", &SessionOptions::default())?;
    let preprocess = PreprocessSpec::dinov3(SIDE as u32, SIDE as u32);
    let shape = [2, 3, SIDE, SIDE];
    let golden_logits = session
        .run_normalised(&golden_inputs, shape, preprocess.normalisation(), &[OUTPUT])?
        .remove(0)
        .values;
    let digest = |name: &str| Digest::of_bytes(name.as_bytes());
    let new = NewBundle {
        labels: (0..CLASSES).map(|class| format!("class {class}")).collect(),
        input: InputSpec {
            name: "pixel_values".to_owned(),
            height: SIDE,
            width: SIDE,
            batch: None,
            pixels: PixelFormat::Float32,
        },
        output: OUTPUT.to_owned(),
        gate: None,
        preprocess,
        variant: bundle::FP32.to_owned(),
        precision: "fp32".to_owned(),
        batch_mode: BatchMode::Any,
        model: &model,
        data: None,
        parity: &parity(),
        golden_inputs: &golden_inputs,
        golden_logits: &golden_logits,
        golden_gates: None,
        licences: BTreeMap::new(),
        metrics: BTreeMap::new(),
        provenance: Provenance {
            splits_digest: digest("splits"),
            checkpoint_digest: digest("checkpoint"),
            backbone_digest: digest("backbone"),
            config_digest: digest("config"),
            phase: Phase::Baseline,
        },
    };
    bundle::create(dir, new, Existing::Refuse)?;
    Ok(())
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

fn policy() -> Policy {
    let score = Score::MaxProbability { temperature: 1.0 };
    let threshold = Threshold::OneSided { at_least: 0.01 };
    Policy::new(
        CLASSES,
        score,
        threshold,
        Calibrator::None,
        Digest::of_bytes(b"plan"),
    )
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
        calib_ledger: LedgerState::Unknown {
            reason: "made to measure speed".to_owned(),
        },
        fingerprint: Some(fingerprint),
        flips: None,
        statement: "None: the weights are random.".to_owned(),
        assumptions: Vec::new(),
    }
}
