use crate::{
    Error, ImageError, OrtSession, Result,
    pipeline::{Chunk, Chunks, Pipeline},
    pixels::{Pixel, Pixels},
    scorer::chunk_size,
    session::threads,
};
use stage1_core::preprocess::{Limits, PreprocessSpec};
use std::{ops::ControlFlow, path::Path};

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
/// let mut embedder = Embedder::new(session, spec, &EmbedderOptions::default())?;
/// embedder.scan(["a.png", "b.jpg"], |path, features| {
///     println!("{}: {:?}", path.display(), features.map(<[f32]>::len));
///     ControlFlow::Continue(())
/// })?;
/// # Ok::<(), stage1_runtime::Error>(())
/// ```
pub struct Embedder {
    session: OrtSession,
    pipeline: Pipeline,
    size: (usize, usize),
    batch: usize,
    chunk: usize,
    width: usize,
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
        let width = features_width(&session)?;
        let threads = threads(options.threads);
        let batch = session.batch().unwrap_or(options.batch.max(1));
        Ok(Self {
            pipeline: Pipeline::new(spec, session.pixels(), options.limits, threads)?,
            session,
            size,
            batch,
            chunk: chunk_size(batch, threads),
            width,
        })
    }

    /// The number of features, D.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The session.
    pub fn session(&self) -> &OrtSession {
        &self.session
    }

    /// Computes the features of image files: decoded on all cores while the model runs, in memory that doesn't grow with
    /// their number. `each` gets them in the order of the paths, or why there are none, and may stop the work.
    ///
    /// # Errors
    /// [`Error::Ort`] when the session fails; [`Error::Model`] when its output has another shape than it declares.
    pub fn scan<P: AsRef<Path>>(
        &mut self,
        paths: impl IntoIterator<Item = P>,
        mut each: impl FnMut(&Path, Result<&[f32], ImageError>) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut chunks = Chunks::start(&self.pipeline, paths.into_iter(), self.chunk);
        while let Some(chunk) = chunks.next(&self.pipeline) {
            let Chunk { slots, pixels } = chunk?;
            let features = match &pixels {
                Pixels::Float32(values) => self.features(values)?,
                Pixels::Uint8(levels) => self.features(levels)?,
            };
            let mut rows = features.chunks_exact(self.width);
            for slot in slots {
                let row = slot
                    .outcome
                    .map(|()| rows.next().expect("one row per good image"));
                if each(&slot.path, row).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The features [n, D] of a whole number of images, row-major.
    fn features<T: Pixel>(&mut self, pixel_values: &[T]) -> Result<Vec<f32>> {
        let (height, width) = self.size;
        let image = 3 * height * width;
        let mut features = Vec::with_capacity(pixel_values.len() / image * self.width);
        for batch in pixel_values.chunks(self.batch * image) {
            let n = batch.len() / image;
            let shape = T::FORMAT.shape(n, height, width);
            let tensor = self
                .session
                .run_pixels(batch, shape, &[FEATURES])?
                .remove(0);
            if tensor.shape != [n, self.width] {
                let got = format!("{:?}", tensor.shape);
                let want = format!("[{n}, {}]", self.width);
                return Err(wrong(&self.session, "output `features`", got, want));
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
