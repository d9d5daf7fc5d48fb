use crate::{
    Error, Result, ShapeProfile, cpu_isa, device, init,
    native::{self, Placed},
    pixels::Pixel,
    provider::{self, Provider},
};
use ort::{
    logging::LogLevel,
    session::{
        Session,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{Outlet, TensorElementType, TensorRef, ValueType},
};
use stage1_core::{
    artifact::{self, Digest},
    certificate::{BatchMode, Fingerprint},
    device::{Device, ProviderOptions},
    preprocess::{Normalisation, PixelFormat},
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs,
    num::NonZero,
    path::Path,
    sync::Arc,
    thread,
};

/// The property of an exported model that names the digest of the weights beside it.
const DATA_DIGEST: &str = "stage1.data_digest";

/// How a session is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOptions {
    /// What it runs on.
    pub device: Device,
    /// What the providers are told, by their own options' names.
    pub providers: ProviderOptions,
    /// The shapes that TensorRT builds an engine for, unless `trt_profile_min_shapes` and its like say so; other devices
    /// take any.
    pub profile: Option<ShapeProfile>,
    /// Threads within an operator; 0 means one per core.
    pub intra_threads: usize,
    /// Whether freed memory is kept for the next run: faster, and holds the peak.
    pub arena: bool,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            providers: ProviderOptions::default(),
            profile: None,
            intra_threads: 0,
            arena: true,
        }
    }
}

/// A tensor of the model's interface. A dynamic dimension is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<Option<usize>>,
}

/// Weights that lie outside of their model.
#[derive(Debug, Clone)]
pub struct Weights {
    /// The name by which the model refers to their file.
    pub name: String,
    /// The file's bytes.
    pub bytes: Arc<[u8]>,
}

/// A model in memory, for one session or several.
pub(crate) struct ModelSource<'a> {
    pub(crate) bytes: &'a [u8],
    /// That of `bytes`.
    pub(crate) digest: Digest,
    pub(crate) weights: Option<Weights>,
    /// For messages.
    pub(crate) name: &'a str,
}

/// An output that was computed.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Its name in the model.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// A model in ONNX Runtime, with one input of pictures in a [`PixelFormat`], and float32 outputs.
///
/// A model whose N is fixed takes any number of images, too: it runs whole batches, of which the last is filled up with its
/// last image, and the rows of what was filled in are dropped.
///
/// ```no_run
/// use stage1_runtime::{OrtSession, SessionOptions};
/// use std::path::Path;
///
/// let mut session = OrtSession::open(Path::new("model.onnx"), &SessionOptions::default())?;
/// let pixels = vec![0.0; 2 * 3 * 224 * 224];
/// let logits = session.run(&pixels, [2, 3, 224, 224])?; // the output named `logits`, [2, K]
/// # Ok::<(), stage1_runtime::Error>(())
/// ```
#[derive(Debug)]
pub struct OrtSession {
    session: Session,
    device: Device,
    profile: Option<ShapeProfile>,
    model: String,
    digest: Digest,
    input: TensorInfo,
    pixels: PixelFormat,
    outputs: Vec<TensorInfo>,
    version: String,
    placement: BTreeMap<String, usize>,
}

impl OrtSession {
    /// Opens a model file, and the weights in `<model>.data` if that file is there.
    ///
    /// # Errors
    /// [`Error::Artifact`] when a file can't be read, [`Error::Model`] when the weights aren't those that the model was exported with, and as [`OrtSession::from_bytes`].
    pub fn open(model: &Path, options: &SessionOptions) -> Result<Self> {
        let bytes = read(model)?;
        let name = model.display().to_string();
        let data = model.with_added_extension("data");
        if !data.exists() {
            return match names_data(&bytes) {
                true => Err(other_weights(name, format!("no file {}", data.display()))),
                false => Self::from_bytes(&bytes, &name, options),
            };
        }
        let weights = Weights {
            name: data.file_name().unwrap_or_default().display().to_string(),
            bytes: read(&data)?.into(),
        };
        let digest = Digest::of_bytes(&weights.bytes);
        let session = Self::with_weights(&bytes, Some(weights), &name, options)?;
        // Models of other exporters name no digest.
        let properties = session.session.metadata().ok();
        let want = properties.and_then(|all| all.custom(DATA_DIGEST));
        match want.is_none_or(|want| want == digest.to_string()) {
            true => Ok(session),
            false => Err(other_weights(
                name,
                format!("{} with digest {}", data.display(), digest.short()),
            )),
        }
    }

    /// Opens a model from its bytes, which are those that its digest is taken of. `name` is for messages.
    ///
    /// # Errors
    /// [`Error::Init`] without ONNX Runtime; [`Error::Provider`] when the device's provider, its libraries or its GPU are
    /// missing; [`Error::Profile`] and [`Error::Engines`] for TensorRT; [`Error::Ort`] when ONNX Runtime refuses the model; [`Error::Model`] when the model has
    /// another kind of input; [`Error::Placement`] when a node runs elsewhere than on the device.
    pub fn from_bytes(bytes: &[u8], name: &str, options: &SessionOptions) -> Result<Self> {
        Self::with_weights(bytes, None, name, options)
    }

    /// As [`OrtSession::from_bytes`], of a model whose weights lie outside of it. The digest is the model's alone.
    ///
    /// # Errors
    /// As [`OrtSession::from_bytes`].
    pub fn with_weights(
        bytes: &[u8],
        weights: Option<Weights>,
        name: &str,
        options: &SessionOptions,
    ) -> Result<Self> {
        let source = ModelSource {
            bytes,
            digest: Digest::of_bytes(bytes),
            weights,
            name,
        };
        Self::of_source(&source, options)
    }

    pub(crate) fn of_source(source: &ModelSource<'_>, options: &SessionOptions) -> Result<Self> {
        let name = source.name;
        let loaded = init::loaded(None)?;
        let failed = |action| {
            let model = name.to_owned();
            move |source| Error::Ort {
                action,
                model,
                source,
            }
        };
        let provider = Provider::of(source, options, &loaded.info.version)?;
        let builder = builder(&loaded.environment, options).map_err(failed("set up a session"))?;
        let builder = device::register(builder, options.device, &provider.options, options.arena)?;
        let session = load(builder, source).map_err(failed("load the model"))?;
        let placed = native::placement(&session).map_err(failed("tell where nodes run"))?;
        check_placement(&placed, options.device, name)?;
        if let Some(engines) = provider.engines {
            engines.keep()?;
        }
        let (input, pixels) = only_input(session.inputs(), name)?;
        if options.device == Device::Tensorrt && provider.profile.is_none() {
            provider::check_shapes(&input)?;
        }
        Ok(Self {
            input,
            pixels,
            outputs: float_outputs(session.outputs()),
            session,
            device: options.device,
            profile: provider.profile,
            model: name.to_owned(),
            digest: source.digest,
            version: provider.version,
            placement: count(&placed),
        })
    }

    /// Runs the model: `pixel_values` of `shape` [N, 3, H, W], row-major, to the output `logits` [N, K], row-major.
    ///
    /// # Errors
    /// As [`OrtSession::run_named`].
    pub fn run(&mut self, pixel_values: &[f32], shape: [usize; 4]) -> Result<Vec<f32>> {
        let mut outputs = self.run_named(pixel_values, shape, &["logits"])?;
        Ok(outputs.remove(0).values)
    }

    /// Runs the model and returns the named outputs in the order asked for, e.g. `tokens` and `features` of an embedding
    /// model.
    ///
    /// # Errors
    /// [`Error::Input`] when the model takes pictures in another format, or the shape doesn't fit the model or the values;
    /// [`Error::Model`] when there is no such float output; [`Error::Ort`] when the run fails.
    pub fn run_named(
        &mut self,
        pixel_values: &[f32],
        shape: [usize; 4],
        outputs: &[&str],
    ) -> Result<Vec<NamedTensor>> {
        self.run_pixels(pixel_values, shape, outputs)
    }

    /// As [`OrtSession::run_named`], of a model that takes grey levels `[N, H, W, 3]`.
    ///
    /// # Errors
    /// As [`OrtSession::run_named`].
    pub fn run_bytes(
        &mut self,
        levels: &[u8],
        shape: [usize; 4],
        outputs: &[&str],
    ) -> Result<Vec<NamedTensor>> {
        self.run_pixels(levels, shape, outputs)
    }

    /// As [`OrtSession::run_named`], of a model in either format: one that takes grey levels gets those that
    /// `normalisation` made `pixel_values` of.
    ///
    /// # Errors
    /// As [`OrtSession::run_named`], and [`Error::Levels`] when they aren't whole.
    pub fn run_normalised(
        &mut self,
        pixel_values: &[f32],
        shape: [usize; 4],
        normalisation: Normalisation,
        outputs: &[&str],
    ) -> Result<Vec<NamedTensor>> {
        let [images, _, height, width] = shape;
        match self.pixels {
            PixelFormat::Float32 => self.run_named(pixel_values, shape, outputs),
            PixelFormat::Uint8 => {
                let levels = self.levels(pixel_values, (height, width), normalisation)?;
                let shape = self.pixels.shape(images, height, width);
                self.run_bytes(&levels, shape, outputs)
            }
        }
    }

    /// The grey levels `[n, H, W, 3]` behind normalised pictures `[n, 3, H, W]`.
    pub(crate) fn levels(
        &self,
        pixel_values: &[f32],
        (height, width): (usize, usize),
        normalisation: Normalisation,
    ) -> Result<Vec<u8>> {
        let levels = normalisation.levels(pixel_values, (height * width).max(1));
        levels.map_err(|source| Error::Levels {
            model: self.model.clone(),
            source,
        })
    }

    pub(crate) fn run_pixels<T: Pixel>(
        &mut self,
        pixel_values: &[T],
        shape: [usize; 4],
        outputs: &[&str],
    ) -> Result<Vec<NamedTensor>> {
        self.check_input(pixel_values, shape)?;
        outputs
            .iter()
            .try_for_each(|name| self.check_output(name))?;
        match self.batch() {
            Some(size) => self.run_whole_batches(pixel_values, shape, outputs, size),
            None => self.run_once(pixel_values, shape, outputs),
        }
    }

    /// The number of images that the model takes at once, if it is fixed.
    pub fn batch(&self) -> Option<usize> {
        self.input.shape[0]
    }

    /// How it takes pictures.
    pub fn pixels(&self) -> PixelFormat {
        self.pixels
    }

    fn run_whole_batches<T: Pixel>(
        &mut self,
        pixel_values: &[T],
        [images, a, b, c]: [usize; 4],
        outputs: &[&str],
        size: usize,
    ) -> Result<Vec<NamedTensor>> {
        let image_len = a * b * c;
        let shape = [size, a, b, c];
        let mut all: Vec<NamedTensor> = Vec::new();
        for batch in pixel_values.chunks(size * image_len) {
            let mut batch = Cow::Borrowed(batch);
            while batch.len() < size * image_len {
                let last = batch.len() - image_len;
                batch.to_mut().extend_from_within(last..);
            }
            let computed = self.run_once(&batch, shape, outputs)?;
            match all.is_empty() {
                true => all = computed,
                false => append(&mut all, computed),
            }
        }
        for tensor in &mut all {
            let runs = images.div_ceil(size);
            if tensor.shape.first() != Some(&(runs * size)) {
                return Err(Error::Model {
                    model: self.model.clone(),
                    what: "output",
                    got: format!("`{}` {:?} of {runs} runs", tensor.name, tensor.shape),
                    want: format!("one row for each of {size} images in a run"),
                });
            }
            let row = tensor.shape[1..].iter().product::<usize>();
            tensor.values.truncate(images * row);
            tensor.shape[0] = images;
        }
        Ok(all)
    }

    fn run_once<T: Pixel>(
        &mut self,
        pixel_values: &[T],
        shape: [usize; 4],
        outputs: &[&str],
    ) -> Result<Vec<NamedTensor>> {
        let model = &self.model;
        let failed = |action| {
            move |source| Error::Ort {
                action,
                model: model.clone(),
                source,
            }
        };
        let input =
            TensorRef::from_array_view((shape, pixel_values)).map_err(failed("take the input"))?;
        let inputs = ort::inputs![self.input.name.as_str() => input];
        let computed = self.session.run(inputs).map_err(failed("run the model"))?;
        let take = |name: &&str| {
            let (shape, values) = computed[*name]
                .try_extract_tensor::<f32>()
                .map_err(failed("hand out an output"))?;
            Ok(NamedTensor {
                name: (*name).to_owned(),
                shape: shape
                    .iter()
                    .map(|d| usize::try_from(*d).unwrap_or_default())
                    .collect(),
                values: values.to_vec(),
            })
        };
        outputs.iter().map(take).collect()
    }

    /// The model's name in messages.
    pub(crate) fn name(&self) -> &str {
        &self.model
    }

    /// The model's input.
    pub fn input(&self) -> &TensorInfo {
        &self.input
    }

    /// A text that the exporter wrote into the model, if it is there.
    pub fn metadata(&self, key: &str) -> Option<String> {
        self.session.metadata().ok()?.custom(key)
    }

    /// The model's float outputs, in the model's order.
    pub fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    /// The SHA-256 of the model's bytes.
    pub fn model_digest(&self) -> Digest {
        self.digest
    }

    /// The execution provider as fingerprints name it: `cpu`, `cuda` or `tensorrt`.
    pub fn provider(&self) -> &'static str {
        self.device.name()
    }

    /// What it runs on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Its version: `onnxruntime 1.31.1`; for accelerators also their names, their driver's version, and the provider's
    /// options that may change results.
    pub fn provider_version(&self) -> String {
        self.version.clone()
    }

    /// How many graph nodes each provider executes, as ONNX Runtime reports it: proof, not intent.
    pub fn placement(&self) -> &BTreeMap<String, usize> {
        &self.placement
    }

    /// What a certificate of this session is about.
    pub fn fingerprint(
        &self,
        precision: &str,
        batch_mode: BatchMode,
        preprocessing_digest: Digest,
    ) -> Fingerprint {
        Fingerprint {
            model_digest: self.digest,
            provider: self.provider().to_owned(),
            provider_version: self.provider_version(),
            precision: precision.to_owned(),
            batch_mode,
            preprocessing_digest,
            cpu_isa: cpu_isa(),
        }
    }

    fn check_input<T: Pixel>(&self, values: &[T], shape: [usize; 4]) -> Result<()> {
        let wrong = |got: String, want: String| Error::Input {
            model: self.model.clone(),
            got,
            want,
        };
        if T::FORMAT != self.pixels {
            return Err(wrong(
                format!("{} values", name_of(T::FORMAT)),
                describe_pixels(&self.input, self.pixels),
            ));
        }
        let fits = |(got, want): (&usize, &Option<usize>)| {
            *got > 0 && want.is_none_or(|want| want == *got)
        };
        let sides = shape[1..].iter().zip(&self.input.shape[1..]);
        if shape[0] == 0 || !sides.into_iter().all(fits) {
            return Err(wrong(
                format!("{shape:?}"),
                describe_pixels(&self.input, self.pixels),
            ));
        }
        let profile = self.profile.as_ref();
        if let Some(profile) = profile.filter(|profile| !profile.covers(&shape)) {
            return Err(wrong(
                format!("{shape:?}"),
                format!("{profile}, which its engine was built for"),
            ));
        }
        let want: usize = shape.iter().product();
        if values.len() != want {
            return Err(wrong(
                format!("{} values", values.len()),
                format!("{want} for {shape:?}"),
            ));
        }
        Ok(())
    }

    fn check_output(&self, name: &str) -> Result<()> {
        if self.outputs.iter().any(|output| output.name == name) {
            return Ok(());
        }
        let names: Vec<_> = self
            .outputs
            .iter()
            .map(|output| output.name.as_str())
            .collect();
        Err(Error::Model {
            model: self.model.clone(),
            what: "list of float outputs",
            got: names.join(", "),
            want: format!("one named `{name}`"),
        })
    }
}

/// Rows of the same outputs, one after the other.
fn append(all: &mut [NamedTensor], more: Vec<NamedTensor>) {
    for (tensor, more) in all.iter_mut().zip(more) {
        let rows = more.shape.first().copied().unwrap_or_default();
        tensor.values.extend(more.values);
        if let Some(first) = tensor.shape.first_mut() {
            *first += rows;
        }
    }
}

fn builder(
    environment: &ort::environment::Environment,
    options: &SessionOptions,
) -> ort::Result<SessionBuilder> {
    Ok(Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads(options.intra_threads))?
        .with_inter_threads(1)?
        // A pattern is one more block of memory, for all that a run needs at once, beside those of the first run.
        .with_memory_pattern(options.device != Device::Cpu)?
        .with_deterministic_compute(true)?
        .with_log_level(LogLevel::Warning)?
        .with_config_entry("session.record_ep_graph_assignment_info", "1")?)
}

fn load(mut builder: SessionBuilder, source: &ModelSource<'_>) -> ort::Result<Session> {
    if let Some(Weights { name, bytes }) = source.weights.clone() {
        builder = builder.with_external_initializer_file_in_memory(name, bytes)?;
    }
    builder.commit_from_memory(source.bytes)
}

/// Whether the model was exported with its weights beside it. Its properties come first in the file.
fn names_data(model: &[u8]) -> bool {
    let start = &model[..model.len().min(1 << 16)];
    let key = DATA_DIGEST.as_bytes();
    start.windows(key.len()).any(|part| part == key)
}

fn other_weights(model: String, got: String) -> Error {
    Error::Model {
        model,
        what: "weights",
        got,
        want: "the file that was exported with it".to_owned(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    Ok(fs::read(path).map_err(|source| artifact::Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?)
}

/// The number of threads that `wanted` stands for.
pub(crate) fn threads(wanted: usize) -> usize {
    match wanted {
        0 => thread::available_parallelism().map_or(1, NonZero::get),
        n => n,
    }
}

fn check_placement(placed: &[Placed], device: Device, model: &str) -> Result<()> {
    let own = device::ort_name(device);
    let is_stray = |node: &&Placed| !device::may_run(device, &node.provider, &node.operator);
    let strays: BTreeSet<_> = placed
        .iter()
        .filter(is_stray)
        .map(|node| &*node.operator)
        .collect();
    if strays.is_empty() && placed.iter().any(|node| node.provider == own) {
        return Ok(());
    }
    let providers = count(placed).into_iter();
    let providers: Vec<_> = providers
        .map(|(provider, nodes)| format!("{provider} ({nodes} nodes)"))
        .collect();
    let strays: Vec<_> = strays.into_iter().collect();
    Err(Error::Placement {
        model: model.to_owned(),
        want: own,
        got: providers.join(", "),
        operators: strays.join(", "),
    })
}

/// Nodes by provider.
fn count(placed: &[Placed]) -> BTreeMap<String, usize> {
    let mut nodes = BTreeMap::new();
    for node in placed {
        *nodes.entry(node.provider.clone()).or_insert(0) += 1;
    }
    nodes
}

fn only_input(inputs: &[Outlet], model: &str) -> Result<(TensorInfo, PixelFormat)> {
    let wrong = |got: String| Error::Model {
        model: model.to_owned(),
        what: "input",
        got,
        want: "one float32 tensor [N, 3, H, W], or one uint8 tensor [N, H, W, 3]".to_owned(),
    };
    let [input] = inputs else {
        let names: Vec<_> = inputs.iter().map(Outlet::name).collect();
        return Err(wrong(format!(
            "{} inputs ({})",
            inputs.len(),
            names.join(", ")
        )));
    };
    let formats = [
        (PixelFormat::Float32, TensorElementType::Float32, 1),
        (PixelFormat::Uint8, TensorElementType::Uint8, 3),
    ];
    for (format, element, channels) in formats {
        let Some(info) = tensor_of(input, element) else {
            continue;
        };
        let fits = info.shape.len() == 4 && info.shape[channels].is_none_or(|n| n == 3);
        return match fits {
            true => Ok((info, format)),
            false => Err(wrong(describe_pixels(&info, format))),
        };
    }
    Err(wrong(format!(
        "`{}` of type {}",
        input.name(),
        input.dtype()
    )))
}

fn float_outputs(outputs: &[Outlet]) -> Vec<TensorInfo> {
    let float = |outlet| tensor_of(outlet, TensorElementType::Float32);
    outputs.iter().filter_map(float).collect()
}

fn tensor_of(outlet: &Outlet, element: TensorElementType) -> Option<TensorInfo> {
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return None;
    };
    (*ty == element).then(|| TensorInfo {
        name: outlet.name().to_owned(),
        shape: shape.iter().map(|d| usize::try_from(*d).ok()).collect(),
    })
}

fn describe_pixels(info: &TensorInfo, format: PixelFormat) -> String {
    format!("{} {}", name_of(format), describe(info))
}

fn name_of(format: PixelFormat) -> &'static str {
    match format {
        PixelFormat::Float32 => "float32",
        PixelFormat::Uint8 => "uint8",
    }
}

pub(crate) fn describe(info: &TensorInfo) -> String {
    let side = |d: &Option<usize>| d.map_or_else(|| "any".to_owned(), |d| d.to_string());
    let sides: Vec<_> = info.shape.iter().map(side).collect();
    format!("`{}` [{}]", info.name, sides.join(", "))
}
