//! What the server knows of a bundle that is open: the runtime's predictor, and what is told about it.

use crate::options::Options;
use stage1_core::{
    artifact::Digest,
    bundle::Prediction,
    preprocess::{self, PixelFormat},
};
use stage1_runtime::{ImageError, Predictor, PredictorOptions, Row, ScoredRows, Scores, Standing};
use std::path::Path;

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

    /// Values of one picture.
    pub(crate) fn row_len(&self) -> usize {
        3 * self.height * self.width
    }
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
    predictor: Predictor,
}

impl Engine {
    pub(crate) fn open(dir: &Path, options: &Options) -> Result<Self, stage1_runtime::Error> {
        let predictor = Predictor::open(
            dir,
            &PredictorOptions {
                variant: options.variant.clone(),
                devices: options.devices.clone(),
                providers: options.providers.clone(),
                threads: options.batching.threads,
                sessions: options.batching.instances,
                batch: options.batching.max_batch,
                limits: preprocess::Limits {
                    max_pixels: options.limits.max_pixels,
                    ..preprocess::Limits::default()
                },
                allow_uncertified: options.allow_uncertified,
            },
        )?;
        Ok(Self {
            about: about(&predictor),
            predictor,
        })
    }

    pub(crate) fn about(&self) -> &About {
        &self.about
    }

    /// From the bytes of an image file to the model's input, on the calling thread.
    pub(crate) fn preprocess(&self, bytes: &[u8]) -> Result<Row, ImageError> {
        self.predictor.preprocess(bytes)
    }

    /// What the model says of each row.
    pub(crate) fn score(&self, rows: &[Row]) -> Result<ScoredRows, stage1_runtime::Error> {
        self.predictor.score(rows)
    }

    /// The record of `path`.
    pub(crate) fn decide(&self, path: String, scores: Scores) -> Judged {
        let prediction = self.predictor.decide(path, scores);
        let calibrator = &self.predictor.policy().calibrator;
        let logits = prediction.logits.as_deref();
        Judged {
            probabilities: logits.map_or_else(Vec::new, |logits| calibrator.probabilities(logits)),
            prediction,
        }
    }
}

fn about(predictor: &Predictor) -> About {
    let (bundle, scorer) = (predictor.bundle(), predictor.scorer());
    let manifest = bundle.manifest();
    let fingerprint = scorer.fingerprint();
    About {
        digest: bundle.digest(),
        variant: scorer.variant().to_owned(),
        labels: manifest.labels.clone(),
        input: manifest.input.name.clone(),
        height: manifest.input.height,
        width: manifest.input.width,
        pixels: manifest.input.pixels,
        output: manifest.output.clone(),
        batch: scorer.batch(),
        provider: fingerprint.provider,
        provider_version: fingerprint.provider_version,
        precision: fingerprint.precision,
        differences: match predictor.standing() {
            Standing::Uncertified { differences } => {
                differences.iter().map(ToString::to_string).collect()
            }
            _ => Vec::new(),
        },
    }
}
