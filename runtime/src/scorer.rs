use crate::{
    CancelToken, Climb, Error, ImageError, ImageInput, OrtSession, Result, SessionOptions,
    ShapeProfile, Timings, Weights, climb,
    decoder::{Chunk, Decoder, Slot},
    init, native,
    pixels::{Pixel, Pixels},
    pool::Pool,
    session::{ModelSource, threads},
    stream::{Ordered, Plan},
};
use stage1_core::{
    artifact::tensors::TensorFile,
    bundle::{Bundle, BundleManifest, FP32, Variant},
    certificate::{BatchMode, Fingerprint},
    device::{Device, Ladder, ProviderOptions},
    logits::Source,
    policy,
    preprocess::{Limits, PixelFormat},
    progress::Progress,
};
use std::{
    borrow::{Borrow, Cow},
    collections::BTreeMap,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// How a bundle's model is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScorerOptions {
    /// The variant; none means `fp32`, or the only one.
    pub variant: Option<String>,
    /// What it may run on, in the order in which devices are tried.
    pub devices: Ladder,
    /// What the devices' providers are told, by their own options' names.
    pub providers: ProviderOptions,
    /// Threads of decoding, and of all sessions together; 0 means one per core.
    pub threads: usize,
    /// Runs of the model at a time, each in a session of its own; at least 1.
    pub sessions: usize,
    /// Images that go through the model together, if the variant's batch mode is `any` and its model takes any number.
    pub batch: usize,
    /// What one image may cost.
    pub limits: Limits,
}

impl Default for ScorerOptions {
    fn default() -> Self {
        Self {
            variant: None,
            devices: Ladder::default(),
            providers: ProviderOptions::default(),
            threads: 0,
            sessions: 1,
            batch: 8,
            limits: Limits::default(),
        }
    }
}

/// How far a session is from the bundle's golden outputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GoldenCheck {
    /// Images compared.
    pub images: usize,
    /// The largest |golden logit|.
    pub scale: f64,
    /// The largest |difference|.
    pub max_abs_error: f64,
    /// The largest difference that passes: 1e-5 of the scale on CPUs, and on accelerators what was allowed when the variant
    /// was exported.
    pub tolerance: f64,
    /// The image with the largest difference.
    pub worst_image: usize,
}

impl GoldenCheck {
    /// Whether the session computes what the bundle says.
    pub fn passed(&self) -> bool {
        self.max_abs_error <= self.tolerance
    }

    /// That of the session which is farthest off, of at least one.
    pub(crate) fn worst(sessions: &[GoldenOutputs]) -> Self {
        let checks = sessions.iter().map(GoldenOutputs::check);
        let worst = checks.max_by(|a, b| a.max_abs_error.total_cmp(&b.max_abs_error));
        worst.expect("there is at least one session")
    }
}

/// What a model says of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Raw logits, one per class.
    pub logits: Vec<f32>,
    /// Larger where they are more likely right; where the model has a gate.
    pub gate: Option<f32>,
}

impl Scores {
    /// As policies take it.
    pub fn row(&self) -> policy::Row<'_> {
        policy::Row {
            logits: &self.logits,
            gate: self.gate,
        }
    }
}

/// What the model says of an image, or why there is nothing.
pub(crate) struct Scored {
    pub(crate) path: PathBuf,
    pub(crate) scores: Result<Scores, ImageError>,
    pub(crate) timings: Timings,
}

/// One image as the model takes it.
#[derive(Debug, Clone)]
pub struct Row {
    pixels: Pixels,
    timings: Timings,
}

impl Row {
    /// A picture that was normalised elsewhere, `[3, H, W]` row by row, for a model that takes float32.
    pub fn float32(pixel_values: Vec<f32>) -> Self {
        Self {
            pixels: Pixels::Float32(pixel_values),
            timings: Timings::default(),
        }
    }

    /// A picture that was resized elsewhere, as grey levels `[H, W, 3]`, for a model that takes uint8.
    pub fn uint8(levels: Vec<u8>) -> Self {
        Self {
            pixels: Pixels::Uint8(levels),
            timings: Timings::default(),
        }
    }

    /// What it took to make it.
    pub fn timings(&self) -> Timings {
        self.timings
    }
}

/// What the model says of some rows.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredRows {
    /// Of each row, in the order of the rows.
    pub scores: Vec<Scores>,
    /// Time that was spent waiting until a session was free.
    pub waited: Duration,
    /// Time of the model, for all rows together.
    pub inference: Duration,
}

/// A bundle's model: images in, raw logits (and gates) out, no decision. Any number of threads may use it; its clones are one scorer.
///
/// ```no_run
/// use stage1_core::progress::Silent;
/// use stage1_runtime::{Scorer, ScorerOptions};
/// use std::{path::{Path, PathBuf}};
///
/// let scorer = Scorer::open(Path::new("bundle"), &ScorerOptions::default())?;
/// let paths = [PathBuf::from("a.png"), PathBuf::from("b.png")];
/// for scores in scorer.score_paths(&paths, &Silent)? {
///     println!("{:?}", scores.map_err(|error| error.to_string()));
/// }
/// # Ok::<(), stage1_runtime::Error>(())
/// ```
#[derive(Clone)]
pub struct Scorer {
    model: Arc<Model>,
    climb: Arc<Climb>,
}

/// What the clones of a scorer share.
struct Model {
    bundle: Bundle,
    name: String,
    variant: Variant,
    sessions: Pool<OrtSession>,
    facts: Facts,
    decoder: Arc<Decoder>,
    batch: usize,
    chunk: usize,
}

/// What is the same of all sessions, and known without waiting for one.
struct Facts {
    device: Device,
    fingerprint: Fingerprint,
    placement: BTreeMap<String, usize>,
    pixels: PixelFormat,
}

/// The files of a model that isn't in a bundle yet.
#[derive(Debug, Clone)]
pub struct CandidateFiles<'a> {
    /// The ONNX file's bytes.
    pub model: &'a [u8],
    /// The weights, where they lie outside of it.
    pub weights: Option<Weights>,
}

impl Scorer {
    /// Opens a bundle, verifying every digest, and its model, from the very bytes that were verified.
    ///
    /// # Errors
    /// [`Error::Bundle`]; [`Error::VariantNeeded`]; as [`OrtSession::from_bytes`]; [`Error::Model`] when model and
    /// `bundle.json` disagree.
    pub fn open(dir: &Path, options: &ScorerOptions) -> Result<Self> {
        with_bundle(dir, options.variant.as_deref(), |bundle, model| {
            Self::of_read(bundle, Some(model), options)
        })
    }

    /// As [`Scorer::open`], of a bundle that is open already; of its models, only the one that is used is read.
    ///
    /// # Errors
    /// As [`Scorer::open`].
    pub fn from_bundle(bundle: Bundle, options: &ScorerOptions) -> Result<Self> {
        Self::of_read(bundle, None, options)
    }

    /// `model` is what was read of the model's file, if it was.
    fn of_read(
        bundle: Bundle,
        mut model: Option<Vec<u8>>,
        options: &ScorerOptions,
    ) -> Result<Self> {
        let open = |device| {
            let scorer = Self::on_device(bundle.clone(), model.take(), device, options)?;
            scorer.prove()?;
            Ok(scorer)
        };
        let (scorer, climb) = climb(&options.devices, open)?;
        Ok(scorer.with_climb(climb))
    }

    /// Fails on an accelerator that computes something else than the bundle says: that its provider was registered, and has
    /// the nodes, doesn't show what its kernels do.
    fn prove(&self) -> Result<()> {
        let device = self.model.facts.device;
        if device == Device::Cpu {
            return Ok(());
        }
        let check = self.check_golden()?;
        if check.passed() {
            return Ok(());
        }
        let model = &self.model.variant.model.path;
        Err(Error::Golden {
            model: self.model.bundle.dir().join(model).display().to_string(),
            device,
            check,
        })
    }

    /// On one device, unproven. `model` is what was read of the model's file, if it was.
    pub(crate) fn on_device(
        bundle: Bundle,
        model: Option<Vec<u8>>,
        device: Device,
        options: &ScorerOptions,
    ) -> Result<Self> {
        let name = choose(&bundle, options.variant.as_deref())?;
        let variant = bundle.variant(&name)?.clone();
        let file = variant.model.clone();
        let weights = weights(&bundle, &variant)?;
        let model = model.map_or_else(|| bundle.read_unverified(&file), Ok)?;
        let opened = bundle.clone().verify_while(&file, &model, |model| {
            let files = CandidateFiles { model, weights };
            Self::of_model(bundle, name, variant, &files, device, options)
        })?;
        drop(model);
        native::return_freed_memory();
        opened
    }

    /// A scorer of a model that may become a variant of the bundle: same input, preprocessing and classes.
    ///
    /// # Errors
    /// As [`Scorer::open`].
    pub fn candidate(
        bundle: Bundle,
        candidate: Variant,
        files: &CandidateFiles<'_>,
        options: &ScorerOptions,
    ) -> Result<Self> {
        let name = candidate.precision.clone();
        let open = |device| {
            let (bundle, candidate) = (bundle.clone(), candidate.clone());
            Self::of_model(bundle, name.clone(), candidate, files, device, options)
        };
        let (scorer, climb) = climb(&options.devices, open)?;
        Ok(scorer.with_climb(climb))
    }

    fn of_model(
        bundle: Bundle,
        name: String,
        variant: Variant,
        files: &CandidateFiles<'_>,
        device: Device,
        options: &ScorerOptions,
    ) -> Result<Self> {
        let path = bundle.dir().join(&variant.model.path).display().to_string();
        let source = ModelSource {
            bytes: files.model,
            digest: variant.model.digest,
            weights: files.weights.clone(),
            name: &path,
        };
        let sessions = options.sessions.max(1);
        let threads = threads(options.threads);
        let session_options = SessionOptions {
            device,
            providers: options.providers.clone(),
            profile: profile(bundle.manifest(), &variant, options.batch),
            intra_threads: (threads / sessions).max(1),
            ..SessionOptions::default()
        };
        let open = |_| OrtSession::of_source(&source, &session_options);
        let sessions: Vec<_> = (0..sessions).map(open).collect::<Result<_>>()?;
        let session = &sessions[0];
        Checks {
            bundle: &bundle,
            variant: &variant,
            session,
        }
        .all()?;
        let batch = match (session.batch(), variant.batch_mode) {
            (Some(size), _) => size,
            (None, BatchMode::Any) => options.batch.max(1),
            (None, BatchMode::Single) => 1,
        };
        let manifest = bundle.manifest();
        let facts = Facts {
            device,
            fingerprint: session.fingerprint(
                &variant.precision,
                variant.batch_mode,
                manifest.preprocessing_digest(),
            ),
            placement: session.placement().clone(),
            pixels: session.pixels(),
        };
        let decoder = Decoder::new(
            manifest.preprocess.clone(),
            facts.pixels,
            options.limits,
            threads,
        )?;
        let model = Model {
            decoder: Arc::new(decoder),
            bundle,
            name,
            variant,
            sessions: Pool::new(sessions),
            facts,
            batch,
            chunk: chunk_size(batch, threads),
        };
        Ok(Self {
            model: Arc::new(model),
            climb: Arc::new(Climb {
                device,
                failed: Vec::new(),
            }),
        })
    }

    /// Which of the devices runs it, and why those before it don't.
    pub fn climb(&self) -> &Climb {
        &self.climb
    }

    /// As [`Scorer::climb`], for whoever climbs with it.
    pub(crate) fn with_climb(mut self, climb: Climb) -> Self {
        self.climb = Arc::new(climb);
        self
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.model.bundle
    }

    /// The name of the variant that was opened.
    pub fn variant(&self) -> &str {
        &self.model.name
    }

    /// How many graph nodes each provider executes, as ONNX Runtime reports it.
    pub fn placement(&self) -> &BTreeMap<String, usize> {
        &self.model.facts.placement
    }

    /// How the model takes pictures.
    pub fn pixels(&self) -> PixelFormat {
        self.model.facts.pixels
    }

    /// Sessions, and so the most runs at a time.
    pub fn sessions(&self) -> usize {
        self.model.sessions.size()
    }

    /// What a certificate of this session is about.
    pub fn fingerprint(&self) -> Fingerprint {
        self.model.facts.fingerprint.clone()
    }

    /// Who makes the logits, as a [`stage1_core::logits::LogitSet`] records it.
    pub fn source(&self) -> Source {
        let fingerprint = self.fingerprint();
        Source {
            provider: fingerprint.provider,
            provider_version: fingerprint.provider_version,
            precision: fingerprint.precision,
            model_digest: fingerprint.model_digest,
            preprocessing_digest: fingerprint.preprocessing_digest,
        }
    }

    /// Brings an image to the model's form, on the calling thread; no session is needed, so that any number of threads may do
    /// this while others [`score`](Scorer::score).
    ///
    /// # Errors
    /// [`ImageError`], which says what is wrong with the image.
    pub fn preprocess<'a>(&self, input: impl Into<ImageInput<'a>>) -> Result<Row, ImageError> {
        let (pixels, timings) = self.model.decoder.one(&input.into());
        Ok(Row {
            pixels: pixels?,
            timings,
        })
    }

    /// Runs the model on some rows, [`Scorer::batch`] at a time, when a session is free.
    ///
    /// # Errors
    /// [`Error::Input`] when a row hasn't the model's form or size; [`Error::Model`] when the model doesn't give one logit per
    /// label; [`Error::Ort`] when a run fails.
    pub fn score<R: Borrow<Row>>(&self, rows: &[R]) -> Result<ScoredRows> {
        let start = Instant::now();
        let mut session = self.model.sessions.take();
        let waited = start.elapsed();
        let start = Instant::now();
        let pixels = self.model.joined(rows)?;
        let scores = self.model.run_pixels(&mut session, &pixels)?;
        Ok(ScoredRows {
            scores,
            waited,
            inference: start.elapsed(),
        })
    }

    /// Raw logits `[n, K]` of normalised inputs `[n, 3, H, W]`, both row-major, in the variant's batches. A model that takes
    /// grey levels gets those that the inputs were made of.
    ///
    /// # Errors
    /// [`Error::Input`] when the values are no whole number of images; [`Error::Levels`] when a grey level isn't whole;
    /// [`Error::Model`] when the model doesn't give one logit per label; [`Error::Ort`] when a run fails.
    pub fn logits(&self, pixel_values: &[f32]) -> Result<Vec<f32>> {
        let scores = self.scores(pixel_values)?;
        Ok(scores.into_iter().flat_map(|one| one.logits).collect())
    }

    /// As [`Scorer::logits`], with the gates of a model that has one.
    ///
    /// # Errors
    /// As [`Scorer::logits`].
    pub fn scores(&self, pixel_values: &[f32]) -> Result<Vec<Scores>> {
        let model = &*self.model;
        model.scores(&mut model.sessions.take(), pixel_values)
    }

    /// What the model says of each file, in order; decoding overlaps with the model, in bounded memory. A file that can't be
    /// judged has its reason instead.
    ///
    /// # Errors
    /// [`Error::Ort`] when the session fails, which no image is to blame for.
    pub fn score_paths(
        &self,
        paths: &[PathBuf],
        progress: &dyn Progress,
    ) -> Result<Vec<Result<Scores, ImageError>>> {
        progress.start("score", paths.len() as u64);
        let inputs = paths.iter().cloned().map(ImageInput::from);
        let scored = self.stream(inputs, CancelToken::new()).map(|scored| {
            progress.advance(1);
            Ok(scored?.scores)
        });
        let scores = scored.collect();
        progress.finish();
        scores
    }

    /// Images that are computed together.
    pub fn batch(&self) -> usize {
        self.model.batch
    }

    /// Runs the bundle's golden inputs through every session.
    ///
    /// # Errors
    /// [`Error::Artifact`] when they aren't of the model's shape, and as [`Scorer::logits`].
    pub fn check_golden(&self) -> Result<GoldenCheck> {
        Ok(GoldenCheck::worst(&self.golden_outputs(usize::MAX)?))
    }

    /// What every session computes of the golden inputs, of the first `limit` of them.
    pub(crate) fn golden_outputs(&self, limit: usize) -> Result<Vec<GoldenOutputs>> {
        let model = &*self.model;
        let golden = model.bundle.golden()?;
        let (shape, inputs) = golden.f32("pixel_values")?;
        let stored = shape.first().copied().unwrap_or(0);
        let want = model.want(&golden, stored)?;
        let tolerance = model.golden_tolerance()?;
        let images = stored.min(limit);
        let inputs = &inputs[..inputs.len() / stored.max(1) * images];
        // All of them at once, so that none is asked twice.
        let mut sessions: Vec<_> = (0..model.sessions.size())
            .map(|_| model.sessions.take())
            .collect();
        let outputs = sessions.iter_mut().map(|session| {
            let got = model.scores(session, inputs)?;
            if got.len() != images || got.is_empty() {
                let (height, width) = model.size();
                return Err(model.checks(session).contradiction(
                    "golden input",
                    format!("{shape:?}"),
                    format!("[{images}, 3, {height}, {width}]"),
                ));
            }
            Ok(GoldenOutputs {
                got,
                want: want.clone(),
                tolerance,
            })
        });
        outputs.collect()
    }

    /// Scores images in order, while those after them are decoded.
    pub(crate) fn stream<I: Iterator<Item = ImageInput<'static>>>(
        &self,
        inputs: I,
        cancel: CancelToken,
    ) -> Ordered<I, Scored> {
        let model = Arc::clone(&self.model);
        let plan = Plan {
            decoder: Arc::clone(&model.decoder),
            chunk: model.chunk,
            workers: model.sessions.size(),
            work: Arc::new(move |chunk| model.score_chunk(chunk)),
        };
        Ordered::start(inputs, plan, cancel)
    }

    /// Scores one image, on the calling thread.
    pub(crate) fn score_one(
        &self,
        input: &ImageInput<'_>,
    ) -> Result<(Result<Scores, ImageError>, Timings)> {
        let (pixels, mut timings) = self.model.decoder.one(input);
        let pixels = match pixels {
            Ok(pixels) => pixels,
            Err(error) => return Ok((Err(error), timings)),
        };
        let mut session = self.model.sessions.take();
        let start = Instant::now();
        let mut rows = self.model.run_pixels(&mut session, &pixels)?;
        timings.inference = start.elapsed();
        Ok((Ok(rows.remove(0)), timings))
    }
}

/// What the model says of the golden inputs: of the first of them as computed here, of all as the bundle has it.
pub(crate) struct GoldenOutputs {
    got: Vec<Scores>,
    want: Vec<Scores>,
    /// Relative to their scale.
    tolerance: f64,
}

impl GoldenOutputs {
    /// The logits' deviation, or the gates' if that is the larger share of what is allowed.
    fn check(&self) -> GoldenCheck {
        let logits = |scores: &[Scores]| -> Vec<_> {
            scores.iter().flat_map(|one| &one.logits).copied().collect()
        };
        let gates =
            |scores: &[Scores]| -> Vec<_> { scores.iter().filter_map(|one| one.gate).collect() };
        let classes = self.want[0].logits.len();
        let logits = compare(
            &logits(&self.got),
            &logits(&self.want),
            classes,
            self.tolerance,
        );
        let gates = compare(&gates(&self.got), &gates(&self.want), 1, self.tolerance);
        let exceeds =
            gates.max_abs_error * logits.tolerance > logits.max_abs_error * gates.tolerance;
        if exceeds { gates } else { logits }
    }

    /// What is said of each image, here and in the bundle.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (policy::Row<'_>, policy::Row<'_>)> {
        let rows = |scores| <[Scores]>::iter(scores).map(Scores::row);
        rows(&self.got).zip(rows(&self.want))
    }
}

impl Model {
    /// What the bundle's golden inputs must give.
    fn want(&self, golden: &TensorFile, images: usize) -> Result<Vec<Scores>> {
        let logits = self.bundle.golden_logits(&self.variant, golden, images)?;
        let gates = self.bundle.golden_gates(&self.variant, golden, images)?;
        let rows = logits.chunks_exact(self.classes()).enumerate();
        let rows = rows.map(|(i, logits)| Scores {
            logits: logits.to_vec(),
            gate: gates.as_ref().map(|gates| gates[i]),
        });
        Ok(rows.collect())
    }

    /// CPUs compute the same but for the order of sums. An accelerator has other kernels: it may differ as much as the variant
    /// was allowed to differ from the trainer.
    fn golden_tolerance(&self) -> Result<f64> {
        match self.facts.device {
            Device::Cpu => Ok(1e-5),
            _ => Ok(self.bundle.parity(&self.name)?.tolerance),
        }
    }

    fn classes(&self) -> usize {
        self.bundle.manifest().labels.len()
    }

    fn size(&self) -> (usize, usize) {
        let input = &self.bundle.manifest().input;
        (input.height, input.width)
    }

    fn checks<'a>(&'a self, session: &'a OrtSession) -> Checks<'a> {
        Checks {
            bundle: &self.bundle,
            variant: &self.variant,
            session,
        }
    }

    /// What the model says of normalised inputs.
    fn scores(&self, session: &mut OrtSession, pixel_values: &[f32]) -> Result<Vec<Scores>> {
        let size @ (height, width) = self.size();
        let image_len = 3 * height * width;
        if !pixel_values.len().is_multiple_of(image_len) {
            return Err(Error::Input {
                model: session.name().to_owned(),
                got: format!("{} values", pixel_values.len()),
                want: format!("a multiple of {image_len} (3 x {height} x {width})"),
            });
        }
        match session.pixels() {
            PixelFormat::Float32 => self.run(session, pixel_values),
            PixelFormat::Uint8 => {
                let normalisation = self.bundle.manifest().preprocess.normalisation();
                let levels = session.levels(pixel_values, size, normalisation)?;
                self.run(session, &levels)
            }
        }
    }

    /// The rows one after the other; one alone is taken as it is.
    fn joined<'a, R: Borrow<Row>>(&self, rows: &'a [R]) -> Result<Cow<'a, Pixels>> {
        let image_len = self.decoder.image_len();
        for row in rows {
            self.check_row(row.borrow(), image_len)?;
        }
        if let [row] = rows {
            return Ok(Cow::Borrowed(&row.borrow().pixels));
        }
        let mut joined = match self.decoder.format() {
            PixelFormat::Float32 => Pixels::Float32(Vec::with_capacity(rows.len() * image_len)),
            PixelFormat::Uint8 => Pixels::Uint8(Vec::with_capacity(rows.len() * image_len)),
        };
        for row in rows {
            match (&mut joined, &row.borrow().pixels) {
                (Pixels::Float32(all), Pixels::Float32(one)) => all.extend_from_slice(one),
                (Pixels::Uint8(all), Pixels::Uint8(one)) => all.extend_from_slice(one),
                _ => unreachable!("the rows' form was checked above"),
            }
        }
        Ok(Cow::Owned(joined))
    }

    fn check_row(&self, row: &Row, image_len: usize) -> Result<()> {
        let (format, len) = match &row.pixels {
            Pixels::Float32(values) => (PixelFormat::Float32, values.len()),
            Pixels::Uint8(levels) => (PixelFormat::Uint8, levels.len()),
        };
        if (format, len) == (self.decoder.format(), image_len) {
            return Ok(());
        }
        let told = |format: PixelFormat, len| format!("{len} values in {format:?} per image");
        let path = self.bundle.dir().join(&self.variant.model.path);
        Err(Error::Input {
            model: path.display().to_string(),
            got: told(format, len),
            want: told(self.decoder.format(), image_len),
        })
    }

    fn score_chunk(&self, chunk: Chunk) -> Result<Vec<Scored>> {
        let mut session = self.sessions.take();
        let start = Instant::now();
        let rows = self.run_pixels(&mut session, &chunk.pixels)?;
        drop(session);
        let inference = start.elapsed() / u32::try_from(rows.len().max(1)).unwrap_or(u32::MAX);
        let mut rows = rows.into_iter();
        let score = |slot: Slot| {
            score_slot(slot, inference, || {
                rows.next().expect("one row per good image")
            })
        };
        Ok(chunk.slots.into_iter().map(score).collect())
    }

    fn run_pixels(&self, session: &mut OrtSession, pixels: &Pixels) -> Result<Vec<Scores>> {
        match pixels {
            Pixels::Float32(values) => self.run(session, values),
            Pixels::Uint8(levels) => self.run(session, levels),
        }
    }

    /// What the model says of a whole number of images.
    fn run<T: Pixel>(&self, session: &mut OrtSession, pixel_values: &[T]) -> Result<Vec<Scores>> {
        let (height, width) = self.size();
        let (image_len, classes) = (3 * height * width, self.classes());
        let manifest = self.bundle.manifest();
        let mut names = vec![manifest.output.as_str()];
        names.extend(manifest.gate.as_deref());
        let mut scores = Vec::with_capacity(pixel_values.len() / image_len);
        for batch in pixel_values.chunks(self.batch * image_len) {
            let n = batch.len() / image_len;
            let shape = T::FORMAT.shape(n, height, width);
            let outputs = session.run_pixels(batch, shape, &names)?;
            for (tensor, want) in outputs.iter().zip([vec![n, classes], vec![n]]) {
                if tensor.shape != want {
                    return Err(self.checks(session).contradiction(
                        "output",
                        format!("`{}` {:?}", tensor.name, tensor.shape),
                        format!("{want:?}"),
                    ));
                }
            }
            let gates = outputs.get(1).map(|gate| gate.values.as_slice());
            let rows = outputs[0].values.chunks_exact(classes).enumerate();
            scores.extend(rows.map(|(i, logits)| Scores {
                logits: logits.to_vec(),
                gate: gates.map(|gates| gates[i]),
            }));
        }
        Ok(scores)
    }
}

/// Whether a model is the one that its bundle says.
struct Checks<'a> {
    bundle: &'a Bundle,
    variant: &'a Variant,
    session: &'a OrtSession,
}

impl Checks<'_> {
    fn all(&self) -> Result<()> {
        self.check_input()?;
        self.check_batch()?;
        self.check_labels()?;
        self.check_weights()
    }

    /// The model's digest is certified, bundle.json's isn't: the names of the classes must be those that the exporter wrote
    /// into the model. A model of another exporter may have none.
    fn check_labels(&self) -> Result<()> {
        let labels = &self.bundle.manifest().labels;
        let got = format!("{labels:?}");
        let Some(text) = self.session.metadata("stage1.labels") else {
            return Ok(());
        };
        match serde_json::from_str::<Vec<String>>(&text) {
            Ok(want) if want == *labels => Ok(()),
            _ => Err(Error::Labels {
                dir: self.bundle.dir().to_owned(),
                got,
                want: text,
            }),
        }
    }

    /// The certificate covers the model's digest, and so the weights outside of it only if the model names theirs.
    fn check_weights(&self) -> Result<()> {
        let Some(data) = &self.variant.data else {
            return Ok(());
        };
        let named = self.session.metadata("stage1.data_digest");
        let want = data.digest.to_string();
        if named.as_ref() == Some(&want) {
            return Ok(());
        }
        Err(self.contradiction(
            "property `stage1.data_digest`",
            named.unwrap_or_else(|| "absent".to_owned()),
            format!("{want}, the digest of {}", data.path),
        ))
    }

    /// A model with a fixed number of images has the one that bundle.json says, and none beside an image that may not have
    /// neighbours.
    fn check_batch(&self) -> Result<()> {
        let describe = |n: Option<usize>| n.map_or("any number".to_owned(), |n| n.to_string());
        let got = self.session.batch();
        let want = self.bundle.manifest().input.batch.map(NonZero::get);
        if got != want {
            return Err(self.contradiction(
                "number of images per run",
                describe(got),
                format!("{}, as bundle.json says", describe(want)),
            ));
        }
        match (self.variant.batch_mode, got) {
            (BatchMode::Single, Some(n @ 2..)) => Err(self.contradiction(
                "number of images per run",
                n.to_string(),
                "1, since the variant's batch mode is `single`".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    fn check_input(&self) -> Result<()> {
        let want = &self.bundle.manifest().input;
        let input = self.session.input();
        let shape = want.pixels.shape(1, want.height, want.width);
        let mut sides = input.shape.iter().zip(shape).skip(1);
        let fits = sides.all(|(side, want)| side.is_none_or(|side| side == want));
        if input.name == want.name && self.session.pixels() == want.pixels && fits {
            return Ok(());
        }
        Err(self.contradiction(
            "input",
            format!(
                "`{}` {:?} {:?}",
                input.name,
                self.session.pixels(),
                input.shape
            ),
            format!(
                "`{}` of {}x{} pixels in {:?}, as bundle.json says",
                want.name, want.height, want.width, want.pixels
            ),
        ))
    }

    fn contradiction(&self, what: &'static str, got: String, want: String) -> Error {
        Error::Model {
            model: self.session.name().to_owned(),
            what,
            got,
            want,
        }
    }
}

/// Images that are decoded together: enough for all threads, and whole batches.
pub(crate) fn chunk_size(batch: usize, threads: usize) -> usize {
    batch.max(threads).next_multiple_of(batch)
}

fn score_slot(slot: Slot, inference: Duration, row: impl FnOnce() -> Scores) -> Scored {
    let Slot {
        path,
        outcome,
        mut timings,
    } = slot;
    if outcome.is_ok() {
        timings.inference = inference;
    }
    Scored {
        path,
        scores: outcome.map(|()| row()),
        timings,
    }
}

/// The weights that the variant's model has outside of it.
fn weights(bundle: &Bundle, variant: &Variant) -> Result<Option<Weights>> {
    let Some(file) = &variant.data else {
        return Ok(None);
    };
    let (_, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    Ok(Some(Weights {
        name: name.to_owned(),
        bytes: bundle.read(file)?.into(),
    }))
}

/// Opens a bundle's model, which is read while ONNX Runtime is loaded, while the models that aren't used are verified.
pub(crate) fn with_bundle<T>(
    dir: &Path,
    variant: Option<&str>,
    open: impl FnOnce(Bundle, Vec<u8>) -> Result<T>,
) -> Result<T> {
    let bundle = Bundle::open_before_models(dir)?;
    let used = choose(&bundle, variant)?;
    let (others, model) = (bundle.clone(), bundle.variant(&used)?.model.clone());
    thread::scope(|scope| {
        let reading = scope.spawn(|| others.read_unverified(&model));
        // Here, because it allocates in many small pieces, for which the heap of another thread grows page by page.
        _ = init::loaded(None);
        let model = reading.join().expect("reading doesn't panic")?;
        let verifying = scope.spawn(|| others.verify_models(|name| name != used));
        let opened = open(bundle, model)?;
        verifying.join().expect("verifying doesn't panic")?;
        Ok(opened)
    })
}

/// The shapes that images come in; none where the model fixes them itself.
fn profile(manifest: &BundleManifest, variant: &Variant, batch: usize) -> Option<ShapeProfile> {
    let input = &manifest.input;
    if input.batch.is_some() {
        return None;
    }
    let batch = match variant.batch_mode {
        BatchMode::Any => batch.max(1),
        BatchMode::Single => 1,
    };
    let [_, image @ ..] = input.pixels.shape(1, input.height, input.width);
    Some(ShapeProfile::images(&input.name, batch, image))
}

fn choose(bundle: &Bundle, asked: Option<&str>) -> Result<String> {
    let known = || bundle.manifest().variants.keys();
    match (asked, known().len()) {
        (Some(name), _) => Ok(name.to_owned()),
        (None, _) if known().any(|name| name == FP32) => Ok(FP32.to_owned()),
        (None, 1) => Ok(known().next().expect("there is one").clone()),
        (None, _) => Err(Error::VariantNeeded {
            dir: bundle.dir().to_owned(),
            known: known().cloned().collect(),
        }),
    }
}

/// The first of the wanted values that are there, by the scale of all. NaN counts as infinitely far.
fn compare(got: &[f32], want: &[f32], classes: usize, tolerance: f64) -> GoldenCheck {
    let scale = want
        .iter()
        .fold(0.0, |scale: f64, x| scale.max(f64::from(x.abs())));
    let mut check = GoldenCheck {
        images: got.len() / classes,
        scale,
        max_abs_error: 0.0,
        tolerance: tolerance * scale,
        worst_image: 0,
    };
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - f64::from(*want)).abs();
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > check.max_abs_error {
            check.max_abs_error = error;
            check.worst_image = i / classes;
        }
    }
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_outputs_are_compared_by_their_scale() {
        let want = [100.0, -50.0, 1.0, 2.0];
        let cases = [
            ("the same", [100.0, -50.0, 1.0, 2.0], true, 0),
            ("within", [100.0, -50.0, 1.000_9, 2.0], true, 1),
            ("outside", [100.0, -50.002, 1.0, 2.0], false, 0),
            ("not a number", [100.0, -50.0, 1.0, f32::NAN], false, 1),
        ];
        for (name, got, passes, worst) in cases {
            let check = compare(&got, &want, 2, 1e-5);
            assert_eq!(
                (check.passed(), check.worst_image),
                (passes, worst),
                "{name}: {check:?}"
            );
        }
    }
}
