//! A bundle's three steps, as the server needs them: bytes → row, rows → logits, logits → answer.

use crate::options::Options;
use stage1_core::{
    artifact::Digest,
    bundle::{DecisionKind, MANIFEST, Prediction},
    policy::{Outcome, Policy, Threshold},
    preprocess::{self, PixelFormat, Preprocessor, decode},
};
use stage1_runtime::{Predictor, PredictorOptions, Standing};
use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What the server tells about a bundle.
#[derive(Debug, Clone)]
pub(crate) struct About {
    /// Of `bundle.json`.
    pub(crate) digest: Digest,
    pub(crate) variant: String,
    pub(crate) labels: Vec<String>,
    /// The model's input and its size.
    pub(crate) input: String,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) pixels: PixelFormat,
    /// The model's output.
    pub(crate) output: String,
    /// Images of one run.
    pub(crate) batch: usize,
    pub(crate) provider: String,
    pub(crate) provider_version: String,
    pub(crate) precision: String,
    /// What the certificate doesn't cover; empty: it covers the session.
    pub(crate) differences: Vec<String>,
}

impl About {
    /// Whether the certificate covers the session.
    pub(crate) fn is_certified(&self) -> bool {
        self.differences.is_empty()
    }

    /// What requests may call this version of the bundle.
    pub(crate) fn version(&self) -> String {
        self.digest.short()
    }

    pub(crate) fn row_len(&self) -> usize {
        3 * self.height * self.width
    }
}

/// One picture as the model takes it.
pub(crate) type Row = Vec<f32>;

/// Time of one picture before the model.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Prepared {
    pub(crate) decode: Duration,
    pub(crate) preprocess: Duration,
}

/// A decision, with what protocols may ask for beside it.
pub(crate) struct Judged {
    pub(crate) prediction: Prediction,
    /// Calibrated, one per class; empty on error.
    pub(crate) probabilities: Vec<f64>,
}

/// A bundle that is open.
pub(crate) struct Engine {
    about: About,
    predictor: Mutex<Predictor>,
    policy: Policy,
    spec: preprocess::PreprocessSpec,
    preprocessors: Mutex<Vec<Preprocessor>>,
    limits: preprocess::Limits,
}

impl Engine {
    pub(crate) fn open(dir: &Path, options: &Options) -> Result<Self, stage1_runtime::Error> {
        let limits = preprocess::Limits {
            max_pixels: options.limits.max_pixels,
            ..preprocess::Limits::default()
        };
        let mut predictor = Predictor::open(
            dir,
            &PredictorOptions {
                variant: options.variant.clone(),
                threads: options.batching.threads,
                batch: options.batching.max_batch,
                limits,
                allow_uncertified: options.allow_uncertified,
                ..PredictorOptions::default()
            },
        )?;
        let differences = match predictor.standing() {
            Standing::Uncertified { differences } => {
                differences.iter().map(ToString::to_string).collect()
            }
            _ => Vec::new(),
        };
        let scorer = predictor.scorer();
        let fingerprint = scorer.fingerprint();
        let manifest = scorer.bundle().manifest().clone();
        let about = About {
            digest: Digest::of_file(&dir.join(MANIFEST))?,
            variant: scorer.variant().to_owned(),
            labels: manifest.labels,
            input: manifest.input.name,
            height: manifest.input.height,
            width: manifest.input.width,
            pixels: manifest.input.pixels,
            output: manifest.output,
            batch: scorer.batch(),
            provider: fingerprint.provider,
            provider_version: fingerprint.provider_version,
            precision: fingerprint.precision,
            differences,
        };
        Ok(Self {
            about,
            policy: predictor.policy().clone(),
            predictor: Mutex::new(predictor),
            spec: manifest.preprocess,
            preprocessors: Mutex::new(Vec::new()),
            limits,
        })
    }

    pub(crate) fn about(&self) -> &About {
        &self.about
    }

    /// From the bytes of an image file to the model's input; fails with what is wrong with the image.
    pub(crate) fn preprocess(&self, bytes: &[u8]) -> Result<(Row, Prepared), String> {
        let start = Instant::now();
        let image = decode(bytes, self.limits).map_err(|error| error.to_string())?;
        let decode = start.elapsed();
        let start = Instant::now();
        let lent = self
            .preprocessors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut preprocessor = match lent {
            Some(preprocessor) => preprocessor,
            None => Preprocessor::new(self.spec.clone()).map_err(|error| error.to_string())?,
        };
        let row = preprocessor
            .run(&image)
            .map_err(|error| error.to_string())?;
        self.preprocessors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(preprocessor);
        Ok((
            row,
            Prepared {
                decode,
                preprocess: start.elapsed(),
            },
        ))
    }

    /// Logits of each row.
    pub(crate) fn score(&self, rows: &[Row]) -> Result<Vec<Vec<f32>>, stage1_runtime::Error> {
        let values = rows.concat();
        let mut predictor = self
            .predictor
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let logits = predictor.logits(&values)?;
        Ok(logits
            .chunks_exact(self.about.labels.len())
            .map(<[f32]>::to_vec)
            .collect())
    }

    /// The record of `path`.
    pub(crate) fn decide(&self, path: String, logits: Vec<f32>) -> Judged {
        let decision = match self.policy.decide(&logits) {
            Ok(decision) => decision,
            Err(error) => {
                return Judged {
                    prediction: Prediction::failed(path, error),
                    probabilities: Vec::new(),
                };
            }
        };
        let (kind, label, reason) = match decision.outcome {
            Outcome::Answer { label } => (
                DecisionKind::Answer,
                Some(self.about.labels[label].clone()),
                None,
            ),
            Outcome::Defer => (
                DecisionKind::Defer,
                None,
                Some(why(&self.policy, decision.score)),
            ),
        };
        Judged {
            prediction: Prediction {
                path,
                decision: kind,
                label,
                probability: Some(decision.probability),
                logits: Some(logits),
                certified: self.about.is_certified(),
                reason,
                error: None,
            },
            probabilities: decision.probabilities,
        }
    }
}

fn why(policy: &Policy, score: f64) -> String {
    match policy.threshold {
        Threshold::TwoSided { low, high } => {
            format!("score {score:.4} lies between {low:.4} and {high:.4}")
        }
        Threshold::OneSided { at_least } => format!("score {score:.4} is below {at_least:.4}"),
        // Kinds that are added to core later.
        _ => format!("score {score:.4} is outside the answered region"),
    }
}
