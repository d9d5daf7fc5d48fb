use crate::{
    CancelToken, Error, ImageError, ImageInput, OrtSession, Result,
    decoder::{Chunk, Decoder},
    pixels::{Pixel, Pixels},
    pool::Pool,
    scorer::chunk_size,
    session::threads,
    stream::{Ordered, Plan},
};
use stage1_core::{
    artifact::Digest,
    preprocess::{Limits, PreprocessSpec},
};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The output that is read.
const FEATURES: &str = "features";

/// How images go through an embedding model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedderOptions {
    /// Threads of decoding; 0 means one per core.
    pub threads: usize,
    /// Images that go through the model together, if it takes any number.
    pub batch: usize,
    /// What one image may cost.
    pub limits: Limits,
}

impl Default for EmbedderOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            batch: 8,
            limits: Limits::default(),
        }
    }
}

/// An embedding model that image files go through: `pixel_values` [N, 3, H, W] to `features` [N, D].
///
/// ```no_run
/// use stage1_core::preprocess::PreprocessSpec;
/// use stage1_runtime::{Embedder, EmbedderOptions, OrtSession, SessionOptions};
/// use std::{ops::ControlFlow, path::Path};
///
/// let session = OrtSession::open(Path::new("embed.onnx"), &SessionOptions::default())?;
/// let spec = PreprocessSpec::dinov3(224, 224);
/// let embedder = Embedder::new(session, spec, &EmbedderOptions::default())?;
/// embedder.scan(["a.png", "b.jpg"], |path, features| {
///     println!("{}: {:?}", path.display(), features.map(<[f32]>::len));
///     ControlFlow::Continue(())
/// })?;
/// # Ok::<(), stage1_runtime::Error>(())
/// ```
pub struct Embedder {
    model: Arc<Model>,
    decoder: Arc<Decoder>,
    chunk: usize,
}

struct Model {
    session: Pool<OrtSession>,
    facts: ModelFacts,
    size: (usize, usize),
    batch: usize,
}

/// What features depend on, beside the images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// The SHA-256 of the model's bytes.
    pub model_digest: Digest,
    /// The execution provider as fingerprints name it.
    pub provider: &'static str,
    /// Its version: `onnxruntime 1.31.1`.
    pub provider_version: String,
    /// The number of features, D.
    pub width: usize,
}

/// The features of an image, or why there are none.
struct Embedded {
    path: PathBuf,
    features: Result<Vec<f32>, ImageError>,
}

impl Embedder {
    /// A session of an embedding model, with the way in which files become its input.
    ///
    /// # Errors
    /// [`Error::Model`] when the model has no `features` [N, D], or takes images of another size than the specification
    /// makes; [`Error::Preprocess`] when the specification can't be carried out; [`Error::Threads`].
    pub fn new(
        session: OrtSession,
        spec: PreprocessSpec,
        options: &EmbedderOptions,
    ) -> Result<Self> {
        let size = spec.output_size();
        check_size(&session, size)?;
        let threads = threads(options.threads);
        let batch = session.batch().unwrap_or(options.batch.max(1));
        let decoder = Decoder::new(spec, session.pixels(), options.limits, threads)?;
        let facts = ModelFacts {
            model_digest: session.model_digest(),
            provider: session.provider(),
            provider_version: session.provider_version(),
            width: features_width(&session)?,
        };
        Ok(Self {
            model: Arc::new(Model {
                session: Pool::new(vec![session]),
                facts,
                size,
                batch,
            }),
            decoder: Arc::new(decoder),
            chunk: chunk_size(batch, threads),
        })
    }

    /// The number of features, D.
    pub fn width(&self) -> usize {
        self.model.facts.width
    }

    /// What the features depend on.
    pub fn facts(&self) -> &ModelFacts {
        &self.model.facts
    }

    /// Computes the features of image files: decoded on all cores while the model runs, in memory that doesn't grow with
    /// their number. `each` gets them in the order of the paths, or why there are none, and may stop the work.
    ///
    /// # Errors
    /// [`Error::Ort`] when the session fails; [`Error::Model`] when its output has another shape than it declares.
    pub fn scan<P: AsRef<Path>>(
        &self,
        paths: impl IntoIterator<Item = P>,
        mut each: impl FnMut(&Path, Result<&[f32], ImageError>) -> ControlFlow<()>,
    ) -> Result<()> {
        let inputs = paths
            .into_iter()
            .map(|path| ImageInput::from(path.as_ref().to_owned()));
        let model = Arc::clone(&self.model);
        let plan = Plan {
            decoder: Arc::clone(&self.decoder),
            chunk: self.chunk,
            workers: 1,
            work: Arc::new(move |chunk| model.embed_chunk(chunk)),
        };
        for embedded in Ordered::start(inputs, plan, CancelToken::new()) {
            let Embedded { path, features } = embedded?;
            let flow = match features {
                Ok(features) => each(&path, Ok(&features)),
                Err(error) => each(&path, Err(error)),
            };
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Model {
    fn embed_chunk(&self, chunk: Chunk) -> Result<Vec<Embedded>> {
        let Chunk { slots, pixels } = chunk;
        let mut session = self.session.take();
        let features = match &pixels {
            Pixels::Float32(values) => self.features(&mut session, values)?,
            Pixels::Uint8(levels) => self.features(&mut session, levels)?,
        };
        drop(session);
        let mut rows = features.chunks_exact(self.facts.width);
        let mut row = || rows.next().expect("one row per good image").to_vec();
        let embedded = slots.into_iter().map(|slot| Embedded {
            path: slot.path,
            features: slot.outcome.map(|()| row()),
        });
        Ok(embedded.collect())
    }

    /// The features [n, D] of a whole number of images, row-major.
    fn features<T: Pixel>(&self, session: &mut OrtSession, pixel_values: &[T]) -> Result<Vec<f32>> {
        let width = self.facts.width;
        let (height, columns) = self.size;
        let image = 3 * height * columns;
        let mut features = Vec::with_capacity(pixel_values.len() / image * width);
        for batch in pixel_values.chunks(self.batch * image) {
            let n = batch.len() / image;
            let shape = T::FORMAT.shape(n, height, columns);
            let tensor = session.run_pixels(batch, shape, &[FEATURES])?.remove(0);
            if tensor.shape != [n, width] {
                let got = format!("{:?}", tensor.shape);
                let want = format!("[{n}, {width}]");
                return Err(wrong(session, "output `features`", got, want));
            }
            features.extend(tensor.values);
        }
        Ok(features)
    }
}

fn check_size(session: &OrtSession, (height, width): (usize, usize)) -> Result<()> {
    let shape = &session.input().shape;
    let [_, want @ ..] = session.pixels().shape(1, height, width);
    let fits = |(side, want): (&Option<usize>, &usize)| side.is_none_or(|side| side == *want);
    if shape[1..].iter().zip(&want).all(fits) {
        return Ok(());
    }
    let [a, b, c] = want;
    let want = format!("[N, {a}, {b}, {c}], as the preprocessing makes it");
    Err(wrong(session, "input", format!("{shape:?}"), want))
}

fn features_width(session: &OrtSession) -> Result<usize> {
    let found = session.outputs().iter().find(|info| info.name == FEATURES);
    if let Some([_, Some(width @ 1..)]) = found.map(|info| &info.shape[..]) {
        return Ok(*width);
    }
    let told = |info: &crate::TensorInfo| format!("`{}` {:?}", info.name, info.shape);
    let got: Vec<String> = session.outputs().iter().map(told).collect();
    let want = "float32 `features` [N, D] among them".to_owned();
    Err(wrong(session, "list of outputs", got.join(", "), want))
}

fn wrong(session: &OrtSession, what: &'static str, got: String, want: String) -> Error {
    Error::Model {
        model: session.name().to_owned(),
        what,
        got,
        want,
    }
}
