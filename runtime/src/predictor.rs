use crate::{
    CancelToken, Error, GoldenCheck, ImageError, ImageInput, Result, Row, ScoredRows, Scorer,
    ScorerOptions, Scores, Standing, Timings, climb,
    coverage::{self, Golden},
    fingerprint_differences,
    scorer::{GoldenOutputs, Scored, with_bundle},
    stream::Ordered,
};
use serde::Serialize;
use stage1_core::{
    bundle::{Bundle, DecisionKind, Prediction},
    certificate::Certificate,
    device::{Ladder, ProviderOptions},
    policy::{self, Outcome, Policy, Threshold},
    preprocess::Limits,
};
use std::{borrow::Borrow, path::Path, sync::Arc, time::Instant};

/// How a bundle is opened for predictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PredictorOptions {
    /// The variant; none means the only one.
    pub variant: Option<String>,
    /// What it may run on, in the order in which devices are tried.
    pub devices: Ladder,
    /// What the devices' providers are told, by their own options' names.
    pub providers: ProviderOptions,
    /// Threads of decoding, and of all sessions together; 0 means one per core.
    pub threads: usize,
    /// Runs of the model at a time, each in a session of its own; at least 1. More of them answer many small requests
    /// sooner, and take the model's memory each.
    pub sessions: usize,
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
            devices,
            providers,
            threads,
            sessions,
            batch,
            limits,
        } = ScorerOptions::default();
        Self {
            variant,
            devices,
            providers,
            threads,
            sessions,
            batch,
            limits,
            allow_uncertified: false,
        }
    }
}

impl PredictorOptions {
    /// Those of the model behind it.
    fn scorer(&self) -> ScorerOptions {
        ScorerOptions {
            variant: self.variant.clone(),
            devices: self.devices.clone(),
            providers: self.providers.clone(),
            threads: self.threads,
            sessions: self.sessions,
            batch: self.batch,
            limits: self.limits,
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

/// A bundle that answers. Any number of threads may use it, and none waits but for a session; its clones are one predictor.
///
/// It opens only with a policy, and only in a session that the policy's certificate covers: the same model, provider,
/// version, precision, batch mode, preprocessing and instruction-set class, and golden outputs that agree to 1e-5 of
/// their scale. Where only the instruction-set class differs, it is covered if the golden outputs agree and lead to the same
/// decisions. [`PredictorOptions::allow_uncertified`] lifts the second condition, never the first.
///
/// A server takes the steps one by one, so that images are decoded elsewhere than models run, and batches are its own:
///
/// ```no_run
/// use stage1_runtime::{Predictor, PredictorOptions};
///
/// let options = PredictorOptions { sessions: 2, ..PredictorOptions::default() };
/// let predictor = Predictor::open("bundle".as_ref(), &options)?;
/// let upload: &[u8] = b"the bytes of a JPEG";
/// match predictor.preprocess(upload) {
///     Err(reason) => println!("400: {reason}"),
///     Ok(row) => {
///         let scored = predictor.score(&[row])?;
///         for scores in scored.scores {
///             println!("{:?}", predictor.decide("upload", scores));
///         }
///     }
/// }
/// # Ok::<(), stage1_runtime::Error>(())
/// ```
#[derive(Clone)]
pub struct Predictor {
    scorer: Scorer,
    judge: Arc<Judge>,
}

/// What turns logits into records.
struct Judge {
    policy: Policy,
    certificate: Certificate,
    standing: Standing,
    labels: Vec<String>,
}

impl Predictor {
    /// Opens a bundle, verifies it, and compares the session with the certificate.
    ///
    /// # Errors
    /// [`Error::NoPolicy`] before the bundle was calibrated; [`Error::NotCovered`] with every difference; as
    /// [`Scorer::open`] and [`Scorer::check_golden`].
    pub fn open(dir: &Path, options: &PredictorOptions) -> Result<Self> {
        with_bundle(dir, options.variant.as_deref(), |bundle, model| {
            Self::of_read(bundle, Some(model), options)
        })
    }

    /// As [`Predictor::open`], of a bundle that is open already.
    ///
    /// # Errors
    /// As [`Predictor::open`].
    pub fn from_bundle(bundle: Bundle, options: &PredictorOptions) -> Result<Self> {
        Self::of_read(bundle, None, options)
    }

    /// `model` is what was read of the model's file, if it was.
    fn of_read(
        bundle: Bundle,
        mut model: Option<Vec<u8>>,
        options: &PredictorOptions,
    ) -> Result<Self> {
        let of_model = options.scorer();
        let open = |device| {
            let scorer = Scorer::on_device(bundle.clone(), model.take(), device, &of_model)?;
            Self::of_scorer(scorer, options.allow_uncertified)
        };
        let (predictor, climb) = climb(&options.devices, open)?;
        Ok(Self {
            scorer: predictor.scorer.with_climb(climb),
            judge: predictor.judge,
        })
    }

    fn of_scorer(scorer: Scorer, allow_uncertified: bool) -> Result<Self> {
        let (policy, certificate) = policy_of(&scorer)?;
        let standing = standing(&scorer, &policy, &certificate, allow_uncertified)?;
        let judge = Judge {
            labels: scorer.bundle().manifest().labels.clone(),
            policy,
            certificate,
            standing,
        };
        Ok(Self {
            scorer,
            judge: Arc::new(judge),
        })
    }

    /// Judges one image, on the calling thread. The record's `path` is that of a file, and empty for what is in memory.
    ///
    /// # Errors
    /// [`Error::Ort`] when the session fails; an image that can't be judged is a record.
    pub fn predict_one<'a>(&self, input: impl Into<ImageInput<'a>>) -> Result<Prediction> {
        Ok(self.predict_one_timed(input)?.0)
    }

    /// As [`Predictor::predict_one`], with the time that each stage took; reading counts as decoding.
    ///
    /// # Errors
    /// As [`Predictor::predict_one`].
    pub fn predict_one_timed<'a>(
        &self,
        input: impl Into<ImageInput<'a>>,
    ) -> Result<(Prediction, Timings)> {
        let input = input.into();
        let (scores, timings) = self.scorer.score_one(&input)?;
        Ok(self.judge.judge(Scored {
            path: input.into_path(),
            scores,
            timings,
        }))
    }

    /// Judges some images, as [`Predictor::stream`] does, and returns their records in the order of the images.
    ///
    /// # Errors
    /// As [`Predictor::predict_one`].
    pub fn predict_batch(
        &self,
        inputs: impl IntoIterator<Item = impl Into<ImageInput<'static>>>,
    ) -> Result<Vec<Prediction>> {
        self.stream(inputs, &CancelToken::new()).collect()
    }

    /// Judges any number of images: decoded on all cores while the model runs on those before, in memory that doesn't grow
    /// with their number. The images are taken as they are needed, on the thread that iterates; the records come in their
    /// order, and end early once `cancel` says so.
    pub fn stream<T: Into<ImageInput<'static>>, I: IntoIterator<Item = T>>(
        &self,
        inputs: I,
        cancel: &CancelToken,
    ) -> Predictions<impl Iterator<Item = ImageInput<'static>> + use<T, I>> {
        let inputs = inputs.into_iter().map(Into::into);
        Predictions {
            scored: self.scorer.stream(inputs, cancel.clone()),
            judge: Arc::clone(&self.judge),
            summary: Summary::default(),
        }
    }

    /// Brings an image to the model's form: as [`Scorer::preprocess`].
    ///
    /// # Errors
    /// [`ImageError`], which says what is wrong with the image.
    pub fn preprocess<'a>(&self, input: impl Into<ImageInput<'a>>) -> Result<Row, ImageError> {
        self.scorer.preprocess(input)
    }

    /// Runs the model on some rows: as [`Scorer::score`].
    ///
    /// # Errors
    /// As [`Scorer::score`].
    pub fn score<R: Borrow<Row>>(&self, rows: &[R]) -> Result<ScoredRows> {
        self.scorer.score(rows)
    }

    /// The record for an image's raw logits; `name` becomes its `path`. Logits that can't be judged give a record that says
    /// why.
    pub fn decide(&self, name: impl Into<String>, scores: Scores) -> Prediction {
        self.judge.record(name.into(), scores)
    }

    /// Raw logits `[n, K]` of normalised inputs `[n, 3, H, W]`, both row-major.
    ///
    /// # Errors
    /// As [`Scorer::logits`].
    pub fn logits(&self, pixel_values: &[f32]) -> Result<Vec<f32>> {
        self.scorer.logits(pixel_values)
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        self.scorer.bundle()
    }

    /// The model behind it, without the policy.
    pub fn scorer(&self) -> &Scorer {
        &self.scorer
    }

    /// The policy that is applied.
    pub fn policy(&self) -> &Policy {
        &self.judge.policy
    }

    /// The certificate that came with it.
    pub fn certificate(&self) -> &Certificate {
        &self.judge.certificate
    }

    /// Whether the certificate covers this session.
    pub fn standing(&self) -> &Standing {
        &self.judge.standing
    }
}

/// The records of [`Predictor::stream`], in the order of the images. After an error it ends.
pub struct Predictions<I> {
    scored: Ordered<I, Scored>,
    judge: Arc<Judge>,
    summary: Summary,
}

impl<I> Predictions<I> {
    /// What became of the images so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }
}

impl<I: Iterator<Item = ImageInput<'static>>> Iterator for Predictions<I> {
    type Item = Result<Prediction>;

    fn next(&mut self) -> Option<Result<Prediction>> {
        let scored = match self.scored.next()? {
            Ok(scored) => scored,
            Err(error) => return Some(Err(error)),
        };
        let (prediction, timings) = self.judge.judge(scored);
        self.summary.count(prediction.decision, timings);
        Some(Ok(prediction))
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

/// The policy, and of its certificates the one that is about this session, or else the one that is nearest to it.
fn policy_of(scorer: &Scorer) -> Result<(Policy, Certificate)> {
    let (bundle, variant) = (scorer.bundle(), scorer.variant());
    let here = scorer.fingerprint();
    let certified = bundle.certificates(variant)?.into_iter();
    let nearest = certified.min_by_key(|certificate| {
        let certified = certificate.fingerprint.as_ref();
        certified.map_or(usize::MAX, |certified| {
            fingerprint_differences(certified, &here).len()
        })
    });
    match (bundle.policy(variant)?, nearest) {
        (Some(policy), Some(certificate)) => Ok((policy, certificate)),
        _ => Err(Error::NoPolicy {
            dir: bundle.dir().to_owned(),
            variant: variant.to_owned(),
        }),
    }
}

fn standing(
    scorer: &Scorer,
    policy: &Policy,
    certificate: &Certificate,
    allow_uncertified: bool,
) -> Result<Standing> {
    let certified = certificate.fingerprint.as_ref();
    let certified = certified.expect("an open bundle's certificates name their session");
    let here = scorer.fingerprint();
    let golden = Golden::of(scorer, policy, coverage::golden_images(certified, &here))?;
    match coverage::standing(certified, &here, &golden) {
        Standing::Uncertified { differences } if !allow_uncertified => Err(Error::NotCovered {
            dir: scorer.bundle().dir().to_owned(),
            variant: scorer.variant().to_owned(),
            differences,
        }),
        standing => Ok(standing),
    }
}

impl Golden {
    fn of(scorer: &Scorer, policy: &Policy, images: usize) -> Result<Self> {
        let outcome = |row: policy::Row<'_>| policy.decide(row).map(|decision| decision.outcome);
        let outputs = scorer.golden_outputs(images)?;
        let changed = |outputs: &GoldenOutputs| {
            let changed = outputs
                .rows()
                .filter(|&(got, want)| outcome(got) != outcome(want));
            changed.count()
        };
        Ok(Self {
            check: GoldenCheck::worst(&outputs),
            changed_decisions: outputs.iter().map(changed).max().unwrap_or(0),
        })
    }
}

impl Judge {
    fn judge(&self, scored: Scored) -> (Prediction, Timings) {
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
        let prediction = self.record(path, scores);
        timings.decide = start.elapsed();
        (prediction, timings)
    }

    fn record(&self, path: String, scores: Scores) -> Prediction {
        let decision = match self.policy.decide(scores.row()) {
            Ok(decision) => decision,
            Err(error) => return Prediction::failed(path, error),
        };
        let (kind, label, reason) = match decision.outcome {
            Outcome::Answer { label } => {
                (DecisionKind::Answer, Some(self.labels[label].clone()), None)
            }
            Outcome::Defer => {
                let reason = why(&self.policy, decision.score);
                (DecisionKind::Defer, None, Some(reason))
            }
        };
        Prediction {
            path,
            decision: kind,
            label,
            probability: Some(decision.probability),
            logits: Some(scores.logits),
            gate: scores.gate,
            certified: self.standing.is_certified(),
            reason,
            error: None,
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
