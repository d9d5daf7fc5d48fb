use crate::{
    Device, Error, Result, Scorer, ScorerOptions, Standing, Timings,
    coverage::differences,
    scorer::{Scored, Scores},
};
use serde::Serialize;
use stage1_core::{
    bundle::{Bundle, DecisionKind, Prediction},
    certificate::Certificate,
    policy::{Decision, Outcome, Policy, Threshold},
    preprocess::Limits,
};
use std::{ops::ControlFlow, path::Path, time::Instant};

/// How a bundle is opened for predictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PredictorOptions {
    /// The variant; none means the only one.
    pub variant: Option<String>,
    /// What it runs on.
    pub device: Device,
    /// Threads of the model and of decoding; 0 means one per core.
    pub threads: usize,
    /// Images that go through the model together, if the variant's batch mode is `any`.
    pub batch: usize,
    /// What one image may cost.
    pub limits: Limits,
    /// Answer even if the certificate doesn't cover this session; every record then says so.
    pub allow_uncertified: bool,
}

impl Default for PredictorOptions {
    fn default() -> Self {
        let ScorerOptions {
            variant,
            device,
            threads,
            batch,
            limits,
        } = ScorerOptions::default();
        Self {
            variant,
            device,
            threads,
            batch,
            limits,
            allow_uncertified: false,
        }
    }
}

/// What became of many images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Records handed out.
    pub images: u64,
    /// Answered.
    pub answered: u64,
    /// Deferred.
    pub deferred: u64,
    /// Not judged.
    pub errors: u64,
    /// Time in each stage, summed over the images.
    pub timings: Timings,
}

/// A bundle that answers.
///
/// It opens only with a policy, and only in a session that the policy's certificate covers: the same model, provider,
/// version, precision, batch mode, preprocessing and instruction-set class, and golden outputs that agree to 1e-5 of
/// their scale. [`PredictorOptions::allow_uncertified`] lifts the second condition, never the first.
pub struct Predictor {
    scorer: Scorer,
    policy: Policy,
    certificate: Certificate,
    standing: Standing,
}

impl Predictor {
    /// Opens a bundle, verifies it, and compares the session with the certificate.
    ///
    /// # Errors
    /// [`Error::NoPolicy`] before the bundle was calibrated; [`Error::NotCovered`] with every difference; as
    /// [`Scorer::open`] and [`Scorer::check_golden`].
    pub fn open(dir: &Path, options: &PredictorOptions) -> Result<Self> {
        Self::from_bundle(Bundle::open(dir)?, options)
    }

    /// As [`Predictor::open`], of a bundle that is open already.
    ///
    /// # Errors
    /// As [`Predictor::open`].
    pub fn from_bundle(bundle: Bundle, options: &PredictorOptions) -> Result<Self> {
        let mut scorer = Scorer::from_bundle(
            bundle,
            &ScorerOptions {
                variant: options.variant.clone(),
                device: options.device,
                threads: options.threads,
                batch: options.batch,
                limits: options.limits,
            },
        )?;
        let (policy, certificate) = policy_of(&scorer)?;
        let standing = standing(&mut scorer, &certificate, options.allow_uncertified)?;
        Ok(Self {
            scorer,
            policy,
            certificate,
            standing,
        })
    }

    /// Judges one image in memory; `name` becomes the record's `path`.
    ///
    /// # Errors
    /// [`Error::Ort`] when the session fails; an image that can't be judged is a record.
    pub fn predict_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<Prediction> {
        Ok(self.predict_bytes_timed(name, bytes)?.0)
    }

    /// As [`Predictor::predict_bytes`], with the time that each stage took.
    ///
    /// # Errors
    /// As [`Predictor::predict_bytes`].
    pub fn predict_bytes_timed(
        &mut self,
        name: &str,
        bytes: &[u8],
    ) -> Result<(Prediction, Timings)> {
        let (scores, timings) = self.scorer.score_bytes(bytes)?;
        let scored = Scored {
            path: name.into(),
            scores,
            timings,
        };
        Ok(self.judge(scored))
    }

    /// Judges one image file.
    ///
    /// # Errors
    /// As [`Predictor::predict_bytes`].
    pub fn predict_path(&mut self, path: &Path) -> Result<Prediction> {
        Ok(self.predict_path_timed(path)?.0)
    }

    /// As [`Predictor::predict_path`], with the time that each stage took; reading counts as decoding.
    ///
    /// # Errors
    /// As [`Predictor::predict_bytes`].
    pub fn predict_path_timed(&mut self, path: &Path) -> Result<(Prediction, Timings)> {
        let mut found = None;
        self.scorer.scan([path], |scored| {
            found = Some(scored);
            ControlFlow::Continue(())
        })?;
        Ok(self.judge(found.expect("one path gives one record")))
    }

    /// Judges many image files: decoded on all cores while the model runs, in memory that doesn't grow with their number.
    /// `each` gets the records in the order of the paths, and may stop the work.
    ///
    /// # Errors
    /// As [`Predictor::predict_bytes`].
    pub fn predict_batch<P: AsRef<Path>>(
        &mut self,
        paths: impl IntoIterator<Item = P>,
        mut each: impl FnMut(Prediction) -> ControlFlow<()>,
    ) -> Result<Summary> {
        let Self {
            scorer,
            policy,
            standing,
            ..
        } = self;
        let labels = scorer.bundle().manifest().labels.clone();
        let certified = standing.is_certified();
        let mut summary = Summary::default();
        scorer.scan(paths, |scored| {
            let (prediction, timings) = judge(policy, &labels, certified, scored);
            summary.count(prediction.decision, timings);
            each(prediction)
        })?;
        Ok(summary)
    }

    /// Raw logits `[n, K]` of normalised inputs `[n, 3, H, W]`, both row-major.
    ///
    /// # Errors
    /// As [`Scorer::logits`].
    pub fn logits(&mut self, pixel_values: &[f32]) -> Result<Vec<f32>> {
        self.scorer.logits(pixel_values)
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        self.scorer.bundle()
    }

    /// The model behind it, without the policy.
    pub fn scorer(&mut self) -> &mut Scorer {
        &mut self.scorer
    }

    /// The policy that is applied.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The certificate that came with it.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Whether the certificate covers this session.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    fn judge(&self, scored: Scored) -> (Prediction, Timings) {
        let labels = &self.bundle().manifest().labels;
        judge(&self.policy, labels, self.standing.is_certified(), scored)
    }
}

impl Summary {
    fn count(&mut self, decision: DecisionKind, timings: Timings) {
        self.images += 1;
        self.timings += timings;
        match decision {
            DecisionKind::Answer => self.answered += 1,
            DecisionKind::Defer => self.deferred += 1,
            DecisionKind::Error => self.errors += 1,
        }
    }
}

fn policy_of(scorer: &Scorer) -> Result<(Policy, Certificate)> {
    let (bundle, variant) = (scorer.bundle(), scorer.variant());
    match (bundle.policy(variant)?, bundle.certificate(variant)?) {
        (Some(policy), Some(certificate)) => Ok((policy, certificate)),
        _ => Err(Error::NoPolicy {
            dir: bundle.dir().to_owned(),
            variant: variant.to_owned(),
        }),
    }
}

fn standing(
    scorer: &mut Scorer,
    certificate: &Certificate,
    allow_uncertified: bool,
) -> Result<Standing> {
    let golden = scorer.check_golden()?;
    let certified = certificate.fingerprint.as_ref();
    let certified = certified.expect("an open bundle's certificates name their session");
    let differences = differences(certified, &scorer.fingerprint(), &golden);
    if differences.is_empty() {
        return Ok(Standing::Certified);
    }
    if allow_uncertified {
        return Ok(Standing::Uncertified { differences });
    }
    Err(Error::NotCovered {
        dir: scorer.bundle().dir().to_owned(),
        variant: scorer.variant().to_owned(),
        differences,
    })
}

fn judge(
    policy: &Policy,
    labels: &[String],
    certified: bool,
    scored: Scored,
) -> (Prediction, Timings) {
    let Scored {
        path,
        scores,
        mut timings,
    } = scored;
    let path = path.display().to_string();
    let scores = match scores {
        Ok(scores) => scores,
        Err(error) => return (Prediction::failed(path, error), timings),
    };
    let start = Instant::now();
    let decided = policy.decide(scores.row());
    timings.decide = start.elapsed();
    let prediction = match decided {
        Ok(decision) => record(path, policy, labels, certified, scores, &decision),
        Err(error) => Prediction::failed(path, error),
    };
    (prediction, timings)
}

fn record(
    path: String,
    policy: &Policy,
    labels: &[String],
    certified: bool,
    scores: Scores,
    decision: &Decision,
) -> Prediction {
    let (kind, label, reason) = match decision.outcome {
        Outcome::Answer { label } => (DecisionKind::Answer, Some(labels[label].clone()), None),
        Outcome::Defer => (DecisionKind::Defer, None, Some(why(policy, decision.score))),
    };
    Prediction {
        path,
        decision: kind,
        label,
        probability: Some(decision.probability),
        logits: Some(scores.logits),
        gate: scores.gate,
        certified,
        reason,
        error: None,
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
