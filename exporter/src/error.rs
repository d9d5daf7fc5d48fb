use crate::ImportError;
use stage1_core::{
    artifact::{self, Digest},
    model::ModelError,
    preprocess::{self, Normalisation},
};

/// Why there is no exported model, or no verdict on one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file can't be read, written or verified.
    #[error(transparent)]
    Artifact(#[from] artifact::Error),
    /// The backbone doesn't allow what was asked, e.g. the image size.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The preprocessing doesn't yield what the model is to take.
    #[error(transparent)]
    Preprocess(#[from] preprocess::Error),
    /// The model would normalise otherwise than the checkpoint's preprocessing.
    #[error(
        "the model's input is to be normalised by {got:?}, the checkpoint was trained with {want:?}; give the checkpoint's"
    )]
    Normalisation {
        /// The checkpoint's.
        want: Normalisation,
        /// The form's.
        got: Normalisation,
    },
    /// The ONNX file to import isn't of the form that can be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The head was trained on another backbone.
    #[error(
        "the checkpoint was trained on the backbone {want}, the folder given holds {got}; give the folder that `train` used"
    )]
    OtherBackbone {
        /// The digest in the checkpoint.
        want: Digest,
        /// The digest of the spec and weights given.
        got: Digest,
    },
    /// The ONNX file gets too large.
    #[error(
        "the ONNX file would have {bytes} bytes, it can have at most {limit}; write its weights outside of it, by a lower `external_above`"
    )]
    TooLarge {
        /// Size of the file in bytes.
        bytes: usize,
        /// What protobuf allows.
        limit: usize,
    },
    /// The file to inspect is no model.
    #[error("not an ONNX file: {reason}")]
    NotOnnx {
        /// What the parser says.
        reason: String,
    },
    /// The session that parity was asked of failed.
    #[error("the session failed on a batch of {batch} images: {source}")]
    Session {
        /// Images in the batch.
        batch: usize,
        /// The session's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The session gave another number of logits than the reference has.
    #[error("the session gave {got} values for a batch of {batch} images and {classes} classes")]
    OutputLength {
        /// Images in the batch.
        batch: usize,
        /// Classes K of the reference logits.
        classes: usize,
        /// Values returned.
        got: usize,
    },
    /// A logit is NaN or infinite: no error bound could hold.
    #[error(
        "parity failed: logit {class} of reference image {image} is {value} in a batch of {batch}; the weights or the provider produce values that float32 can't hold"
    )]
    NonFiniteLogit {
        /// Index of the image in the reference.
        image: usize,
        /// Class index.
        class: usize,
        /// Images in the batch.
        batch: usize,
        /// The value.
        value: f32,
    },
    /// The model isn't of the form that this exporter writes.
    #[error("the model to convert isn't one of this exporter: {reason}; export it again")]
    Form {
        /// What is wrong with it.
        reason: String,
    },
    /// The pixels given aren't images.
    #[error(
        "the sample has {values} values, expected a whole number of images of {image:?}, at least one"
    )]
    Sample {
        /// Values given.
        values: usize,
        /// The shape of one image.
        image: [usize; 3],
    },
    /// A value inside of the model is NaN or infinite on a training image.
    #[error(
        "the value `{value}` is NaN or infinite on a training image: the float32 model itself is out of range"
    )]
    NotFinite {
        /// Its name in the graph.
        value: String,
    },
    /// An option that means nothing.
    #[error("option `{name}` is {value}, expected {expected}")]
    Option {
        /// Which.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// Not one layer could be put into integers.
    #[error(
        "no layer can be int8 within an error of {max_error} of the logits on training images: raise `export.int8.max_error`, or don't export int8"
    )]
    NothingQuantised {
        /// The limit.
        max_error: f64,
    },
    /// A tolerance isn't a number that an error can be held against.
    #[error("tolerance `{name}` is {value}, expected a finite number >= 0")]
    Tolerance {
        /// Which of the tolerances.
        name: &'static str,
        /// Its value.
        value: f64,
    },
}

/// The result of exporting, importing or checking a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;
