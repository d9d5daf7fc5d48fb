use crate::{
    Device, Error, ImageError, OrtSession, Result, SessionOptions, Timings, Weights,
    pipeline::{Chunk, Chunks, Pipeline, Slot},
    pixels::{Pixel, Pixels},
    session::threads,
};
use stage1_core::{
    artifact::Digest,
    bundle::{Bundle, FP32, Variant},
    certificate::{BatchMode, Fingerprint},
    logits::Source,
    policy::Row,
    preprocess::{Limits, PixelFormat},
    progress::Progress,
};
use std::{
    num::NonZero,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How a bundle's model is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScorerOptions {
    /// The variant; none means `fp32`, or the only one.
    pub variant: Option<String>,
    /// What it runs on.
    pub device: Device,
    /// Threads of the model and of decoding; 0 means one per core.
    pub threads: usize,
    /// Images that go through the model together, if the variant's batch mode is `any` and its model takes any number.
    pub batch: usize,
    /// What one image may cost.
    pub limits: Limits,
}

impl Default for ScorerOptions {
    fn default() -> Self {
        Self {
            variant: None,
            device: Device::Cpu,
            threads: 0,
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
    /// The largest difference that passes: 1e-5 of the scale.
    pub tolerance: f64,
    /// The image with the largest difference.
    pub worst_image: usize,
}

impl GoldenCheck {
    /// Whether the session computes what the bundle says.
    pub fn passed(&self) -> bool {
        self.max_abs_error <= self.tolerance
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
    pub fn row(&self) -> Row<'_> {
        Row {
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

/// A bundle's model: images in, raw logits (and gates) out, no decision.
///
/// ```no_run
/// use stage1_core::progress::Silent;
/// use stage1_runtime::{Scorer, ScorerOptions};
/// use std::{path::{Path, PathBuf}};
///
/// let mut scorer = Scorer::open(Path::new("bundle"), &ScorerOptions::default())?;
/// let paths = [PathBuf::from("a.png"), PathBuf::from("b.png")];
/// for scores in scorer.score_paths(&paths, &Silent)? {
///     println!("{:?}", scores.map_err(|error| error.to_string()));
/// }
/// # Ok::<(), stage1_runtime::Error>(())
/// ```
pub struct Scorer {
    bundle: Bundle,
    name: String,
    variant: Variant,
    session: OrtSession,
    pipeline: Pipeline,
    batch: usize,
    chunk: usize,
}

impl Scorer {
    /// Opens a bundle, verifying every digest, and its model, from the very bytes that were verified.
    ///
    /// # Errors
    /// [`Error::Bundle`]; [`Error::VariantNeeded`]; as [`OrtSession::from_bytes`]; [`Error::Model`] when model and
    /// `bundle.json` disagree.
    pub fn open(dir: &Path, options: &ScorerOptions) -> Result<Self> {
        Self::from_bundle(Bundle::open(dir)?, options)
    }

    /// As [`Scorer::open`], of a bundle that is open already.
    ///
    /// # Errors
    /// As [`Scorer::open`].
    pub fn from_bundle(bundle: Bundle, options: &ScorerOptions) -> Result<Self> {
        let name = choose(&bundle, options.variant.as_deref())?;
        let variant = bundle.variant(&name)?.clone();
        let model = bundle.read(&variant.model)?;
        Self::of_model(bundle, name, variant, &model, options)
    }

    /// A scorer of a model that may become a variant of the bundle: same input, preprocessing and classes.
    ///
    /// # Errors
    /// As [`Scorer::open`].
    pub fn candidate(
        bundle: Bundle,
        candidate: Variant,
        model: &[u8],
        options: &ScorerOptions,
    ) -> Result<Self> {
        Self::of_model(
            bundle,
            candidate.precision.clone(),
            candidate,
            model,
            options,
        )
    }

    fn of_model(
        bundle: Bundle,
        name: String,
        variant: Variant,
        model: &[u8],
        options: &ScorerOptions,
    ) -> Result<Self> {
        let session = OrtSession::with_weights(
            model,
            weights(&bundle, &variant)?,
            &bundle.dir().join(&variant.model.path).display().to_string(),
            &SessionOptions {
                device: options.device,
                intra_threads: options.threads,
                ..SessionOptions::default()
            },
        )?;
        let threads = threads(options.threads);
        let batch = match (session.batch(), variant.batch_mode) {
            (Some(size), _) => size,
            (None, BatchMode::Any) => options.batch.max(1),
            (None, BatchMode::Single) => 1,
        };
        let scorer = Self {
            pipeline: Pipeline::new(
                bundle.manifest().preprocess.clone(),
                session.pixels(),
                options.limits,
                threads,
            )?,
            bundle,
            name,
            variant,
            session,
            batch,
            chunk: chunk_size(batch, threads),
        };
        scorer.check_input()?;
        scorer.check_batch()?;
        scorer.check_labels()?;
        scorer.check_weights()?;
        Ok(scorer)
    }

    /// The bundle.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The name of the variant that was opened.
    pub fn variant(&self) -> &str {
        &self.name
    }

    /// The model's session.
    pub fn session(&self) -> &OrtSession {
        &self.session
    }

    /// What a certificate of this session is about.
    pub fn fingerprint(&self) -> Fingerprint {
        let Variant {
            precision,
            batch_mode,
            ..
        } = &self.variant;
        self.session
            .fingerprint(precision, *batch_mode, self.preprocessing_digest())
    }

    /// Who makes the logits, as a [`stage1_core::logits::LogitSet`] records it.
    pub fn source(&self) -> Source {
        Source {
            provider: self.session.provider().to_owned(),
            provider_version: self.session.provider_version(),
            precision: self.variant.precision.clone(),
            model_digest: self.session.model_digest(),
            preprocessing_digest: self.preprocessing_digest(),
        }
    }

    /// Raw logits `[n, K]` of normalised inputs `[n, 3, H, W]`, both row-major, in the variant's batches. A model that takes
    /// grey levels gets those that the inputs were made of.
    ///
    /// # Errors
    /// [`Error::Input`] when the values are no whole number of images; [`Error::Levels`] when a grey level isn't whole;
    /// [`Error::Model`] when the model doesn't give one logit per label; [`Error::Ort`] when a run fails.
    pub fn logits(&mut self, pixel_values: &[f32]) -> Result<Vec<f32>> {
        let size @ (height, width) = self.size();
        let image_len = 3 * height * width;
        if !pixel_values.len().is_multiple_of(image_len) {
            return Err(Error::Input {
                model: self.model_name(),
                got: format!("{} values", pixel_values.len()),
                want: format!("a multiple of {image_len} (3 x {height} x {width})"),
            });
        }
        let rows = match self.session.pixels() {
            PixelFormat::Float32 => self.run(pixel_values)?,
            PixelFormat::Uint8 => {
                let normalisation = self.bundle.manifest().preprocess.normalisation();
                let levels = self.session.levels(pixel_values, size, normalisation)?;
                self.run(&levels)?
            }
        };
        Ok(rows.into_iter().flat_map(|scores| scores.logits).collect())
    }

    fn run_pixels(&mut self, pixels: &Pixels) -> Result<Vec<Scores>> {
        match pixels {
            Pixels::Float32(values) => self.run(values),
            Pixels::Uint8(levels) => self.run(levels),
        }
    }

    /// What the model says of a whole number of images.
    fn run<T: Pixel>(&mut self, pixel_values: &[T]) -> Result<Vec<Scores>> {
        let (height, width) = self.size();
        let image_len = 3 * height * width;
        let classes = self.bundle.manifest().labels.len();
        let mut scores = Vec::with_capacity(pixel_values.len() / image_len);
        for batch in pixel_values.chunks(self.batch * image_len) {
            let n = batch.len() / image_len;
            let manifest = self.bundle.manifest();
            let mut names = vec![manifest.output.as_str()];
            names.extend(manifest.gate.as_deref());
            let shape = T::FORMAT.shape(n, height, width);
            let outputs = self.session.run_pixels(batch, shape, &names)?;
            for (tensor, want) in outputs.iter().zip([vec![n, classes], vec![n]]) {
                if tensor.shape != want {
                    return Err(self.contradiction(
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

    /// What the model says of each file, in order; decoding overlaps with the model, in bounded memory. A file that can't be
    /// judged has its reason instead.
    ///
    /// # Errors
    /// [`Error::Ort`] when the session fails, which no image is to blame for.
    pub fn score_paths(
        &mut self,
        paths: &[PathBuf],
        progress: &dyn Progress,
    ) -> Result<Vec<Result<Scores, ImageError>>> {
        progress.start("score", paths.len() as u64);
        let mut scores = Vec::with_capacity(paths.len());
        let scanned = self.scan(paths, |scored| {
            scores.push(scored.scores);
            progress.advance(1);
            ControlFlow::Continue(())
        });
        progress.finish();
        scanned?;
        Ok(scores)
    }

    /// Runs the bundle's golden inputs.
    ///
    /// # Errors
    /// [`Error::Artifact`] when they aren't of the model's shape, and as [`Scorer::logits`].
    pub fn check_golden(&mut self) -> Result<GoldenCheck> {
        let golden = self.bundle.golden()?;
        let (shape, inputs) = golden.f32("pixel_values")?;
        let images = shape.first().copied().unwrap_or(0);
        let classes = self.bundle.manifest().labels.len();
        let want = self.bundle.golden_logits(&self.variant, images)?;
        let got = self.logits(&inputs)?;
        if got.len() != want.len() || got.is_empty() {
            let (height, width) = self.size();
            return Err(self.contradiction(
                "golden input",
                format!("{shape:?}"),
                format!("[{images}, 3, {height}, {width}]"),
            ));
        }
        Ok(compare(&got, &want, classes))
    }

    /// Scores files in order, and hands each to `each`, which may stop it.
    pub(crate) fn scan<P: AsRef<Path>>(
        &mut self,
        paths: impl IntoIterator<Item = P>,
        mut each: impl FnMut(Scored) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut chunks = Chunks::start(&self.pipeline, paths.into_iter(), self.chunk);
        while let Some(chunk) = chunks.next(&self.pipeline) {
            for scored in self.score_chunk(chunk?)? {
                if each(scored).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Scores one image in memory.
    pub(crate) fn score_bytes(
        &mut self,
        bytes: &[u8],
    ) -> Result<(Result<Scores, ImageError>, Timings)> {
        let (pixels, mut timings) = self.pipeline.bytes(bytes);
        let scores = match pixels {
            Ok(pixels) => {
                let start = Instant::now();
                let mut rows = self.run_pixels(&pixels)?;
                timings.inference = start.elapsed();
                Ok(rows.remove(0))
            }
            Err(error) => Err(error),
        };
        Ok((scores, timings))
    }

    fn score_chunk(&mut self, chunk: Chunk) -> Result<Vec<Scored>> {
        let start = Instant::now();
        let rows = self.run_pixels(&chunk.pixels)?;
        let inference = start.elapsed() / u32::try_from(rows.len().max(1)).unwrap_or(u32::MAX);
        let mut rows = rows.into_iter();
        let score = |slot: Slot| {
            score_slot(slot, inference, || {
                rows.next().expect("one row per good image")
            })
        };
        Ok(chunk.slots.into_iter().map(score).collect())
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

    /// Images that are computed together.
    pub fn batch(&self) -> usize {
        self.batch
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
        let model = self.model_name();
        Error::Model {
            model,
            what,
            got,
            want,
        }
    }

    fn model_name(&self) -> String {
        self.bundle
            .dir()
            .join(&self.variant.model.path)
            .display()
            .to_string()
    }

    fn size(&self) -> (usize, usize) {
        let input = &self.bundle.manifest().input;
        (input.height, input.width)
    }

    fn preprocessing_digest(&self) -> Digest {
        self.bundle.manifest().preprocessing_digest()
    }
}

/// Images that are decoded together: enough for all threads, and whole batches.
pub(crate) fn chunk_size(batch: usize, threads: usize) -> usize {
    batch.max(2 * threads).next_multiple_of(batch)
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

/// NaN counts as infinitely far.
fn compare(got: &[f32], want: &[f32], classes: usize) -> GoldenCheck {
    let scale = want
        .iter()
        .fold(0.0, |scale: f64, x| scale.max(f64::from(x.abs())));
    let mut check = GoldenCheck {
        images: want.len() / classes,
        scale,
        max_abs_error: 0.0,
        tolerance: 1e-5 * scale,
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
            let check = compare(&got, &want, 2);
            assert_eq!(
                (check.passed(), check.worst_image),
                (passes, worst),
                "{name}: {check:?}"
            );
        }
    }
}
