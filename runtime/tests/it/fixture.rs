//! A bundle whose model looks at colours: red, green and blue pictures are its three classes.

use crate::onnx::{Input, exponential};
use image::{Rgb, RgbImage};
use stage1_core::{
    artifact::{Digest, Document},
    bundle::{self, Existing, InputSpec, NewBundle, Parity, Provenance},
    certificate::{
        Attempts, BatchMode, Certificate, Claim, Constraint, ControlledRisk, Fingerprint,
        Guarantee, Procedure, SampleSize, TestKind, UnitRule,
    },
    config::Phase,
    ledger::LedgerState,
    policy::{Calibrator, Policy, Score, Threshold},
    preprocess::{Arithmetic, Decode, Filter, PixelFormat, PreprocessSpec, Resize},
};
use stage1_runtime::{OrtSession, Scorer, ScorerOptions, SessionOptions};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

pub(crate) const SIDE: usize = 8;
pub(crate) const LABELS: [&str; 3] = ["red", "green", "blue"];

pub(crate) struct Fixture {
    dir: TempDir,
}

impl Fixture {
    /// A bundle without a policy.
    pub(crate) fn uncalibrated(batch_mode: BatchMode) -> Self {
        Self::of_format(PixelFormat::Float32, batch_mode)
    }

    /// A bundle without a policy, whose model takes pictures in this format.
    pub(crate) fn of_format(pixels: PixelFormat, batch_mode: BatchMode) -> Self {
        let fixture = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        create(&fixture.bundle(), pixels, batch_mode);
        fixture
    }

    /// A bundle that answers where the largest probability is at least 0.9.
    pub(crate) fn calibrated() -> Self {
        Self::calibrated_of_format(PixelFormat::Float32)
    }

    /// As [`Fixture::calibrated`], with a model that takes pictures in this format.
    pub(crate) fn calibrated_of_format(pixels: PixelFormat) -> Self {
        let fixture = Self::of_format(pixels, BatchMode::Any);
        let scorer = Scorer::open(&fixture.bundle(), &ScorerOptions::default()).unwrap();
        fixture.attach(scorer.fingerprint());
        fixture
    }

    pub(crate) fn attach(&self, fingerprint: Fingerprint) {
        let policy = policy();
        let certificate = certificate(&policy, fingerprint);
        bundle::attach_policy(&self.bundle(), bundle::FP32, &policy, &certificate).unwrap();
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    /// A PNG of one colour.
    pub(crate) fn picture(&self, name: &str, colour: [u8; 3]) -> PathBuf {
        let path = self.dir.path().join(name);
        RgbImage::from_pixel(20, 12, Rgb(colour))
            .save(&path)
            .unwrap();
        path
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// The class of a red, green or blue picture has logit exp(3), the others exp(0); yellow and white pictures overflow.
fn model(pixels: PixelFormat) -> Vec<u8> {
    let weights = [[3.0, 0.0, 100.0], [0.0, 3.0, 100.0], [0.0, 0.0, 103.0]];
    let (input, scale) = match pixels {
        PixelFormat::Float32 => (Input::default(), 1.0),
        PixelFormat::Uint8 => (Input::levels(), 1.0 / 255.0),
    };
    let weights = weights.map(|row| row.map(|weight| weight * scale));
    exponential(&input, SIDE as i64, &weights, [0.0, 0.0, -100.0])
}

fn create(dir: &Path, pixels: PixelFormat, batch_mode: BatchMode) {
    let model = model(pixels);
    let golden_inputs: Vec<f32> = (0..4 * 3 * SIDE * SIDE)
        .map(|i| (51.0 * (i as f32 * 0.1).sin().abs()).round() / 255.0)
        .collect();
    let mut session = OrtSession::from_bytes(&model, "model", &SessionOptions::default()).unwrap();
    let shape = [4, 3, SIDE, SIDE];
    let normalisation = preprocess().normalisation();
    let golden_logits = session
        .run_normalised(&golden_inputs, shape, normalisation, &["logits"])
        .unwrap()
        .remove(0)
        .values;
    let digest = |name: &str| Digest::of_bytes(name.as_bytes());
    let new = NewBundle {
        labels: LABELS.map(str::to_owned).to_vec(),
        input: InputSpec {
            name: "pixel_values".to_owned(),
            height: SIDE,
            width: SIDE,
            batch: None,
            pixels,
        },
        output: "logits".to_owned(),
        gate: None,
        preprocess: preprocess(),
        variant: bundle::FP32.to_owned(),
        precision: "fp32".to_owned(),
        batch_mode,
        model: &model,
        data: None,
        parity: &parity(),
        golden_inputs: &golden_inputs,
        golden_logits: &golden_logits,
        golden_gates: None,
        licences: BTreeMap::from([("weights.txt".to_owned(), "do as you like\n".to_owned())]),
        metrics: BTreeMap::from([("mcc".to_owned(), 0.5)]),
        provenance: Provenance {
            splits_digest: digest("splits"),
            checkpoint_digest: digest("checkpoint"),
            init_digest: None,
            backbone_digest: digest("backbone"),
            config_digest: digest("config"),
            phase: Phase::Baseline,
        },
    };
    bundle::create(dir, new, Existing::Refuse).unwrap();
}

/// Values in 0..1.
fn preprocess() -> PreprocessSpec {
    let side = SIDE as u32;
    PreprocessSpec {
        decode: Decode::Full,
        resize: Resize::Exact {
            height: side,
            width: side,
        },
        filter: Filter::Bilinear,
        arithmetic: Arithmetic::Uint8,
        crop: None,
        mean: [0.0; 3],
        std: [1.0; 3],
    }
}

fn parity() -> Parity {
    Parity {
        schema_version: 1,
        images: 4,
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
    Policy::new(
        LABELS.len(),
        Score::MaxProbability { temperature: 1.0 },
        Threshold::OneSided { at_least: 0.9 },
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
        policy_digest: Digest::of_bytes(&stage1_core::artifact::json::to_bytes(policy)),
        splits_digest: None,
        used_rows: None,
        calib_ledger: LedgerState::Unknown {
            reason: "a test".to_owned(),
        },
        fingerprint: Some(fingerprint),
        flips: None,
        statement: "On average, at most 5 % of the answers are wrong.".to_owned(),
        assumptions: Vec::new(),
    }
}
