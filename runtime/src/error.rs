use crate::{Difference, FailedRung, GoldenCheck, InitError};
use stage1_core::{
    artifact, bundle,
    device::{self, Device},
    preprocess::{self, NotLevels},
};
use std::path::PathBuf;

/// What can go wrong between a bundle and a decision. An image that can't be judged isn't one of these: it gets a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// ONNX Runtime can't be used.
    #[error(transparent)]
    Init(InitError),
    /// A process has one ONNX Runtime.
    #[error("{}: this process already uses {}; a process loads ONNX Runtime once", asked.display(), loaded.display())]
    AnotherLibrary {
        /// In use.
        loaded: PathBuf,
        /// Asked for.
        asked: PathBuf,
    },
    /// A device, or an option of its provider, that isn't one.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// ONNX Runtime has no such provider here, or the provider doesn't find its libraries or its GPU.
    #[error("{device} can't be used: {reason}; {advice}")]
    Provider {
        /// Which.
        device: Device,
        /// What ONNX Runtime says.
        reason: String,
        /// What is missing, and what package has it.
        advice: String,
    },
    /// TensorRT builds an engine for a range of shapes, which must be known.
    #[error("TensorRT's shapes: {reason}")]
    Profile {
        /// What is wrong with them.
        reason: String,
    },
    /// Engines of TensorRT can't be kept, or those that were kept can't be trusted.
    #[error("{}: TensorRT's engines: {reason}", dir.display())]
    Engines {
        /// Their folder.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The device computes something else than the bundle says.
    #[error("{model}: on {device} it is off by {:.1e} on golden image {}, at most {:.1e} is allowed; nothing is certified on a device that computes something else", check.max_abs_error, check.worst_image, check.tolerance)]
    Golden {
        /// The model: its path.
        model: String,
        /// Which.
        device: Device,
        /// How far it is off.
        check: GoldenCheck,
    },
    /// Several devices were allowed, and none of them works.
    #[error("no device works:\n{}", rungs(failed))]
    NoRung {
        /// Each of them, in order.
        failed: Vec<FailedRung>,
    },
    /// The bundle is damaged, incomplete or contradictory.
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    /// A file is missing or damaged.
    #[error(transparent)]
    Artifact(#[from] artifact::Error),
    /// ONNX Runtime refused.
    #[error("{model}: ONNX Runtime can't {action}: {source}")]
    Ort {
        /// What was attempted.
        action: &'static str,
        /// The model: its path or digest.
        model: String,
        /// What ONNX Runtime says.
        source: ort::Error,
    },
    /// The model isn't one of ours.
    #[error("{model}: its {what}: {got}, expected {want}; export the model with `stage1 export`")]
    Model {
        /// The model: its path or digest.
        model: String,
        /// Which part, e.g. `input`.
        what: &'static str,
        /// Found.
        got: String,
        /// Expected.
        want: String,
    },
    /// Some nodes run elsewhere than was asked for.
    #[error(
        "{model}: asked for {want}, but the nodes were placed on {got}{}; a session never changes its provider in silence",
        strays(operators)
    )]
    Placement {
        /// The model: its path or digest.
        model: String,
        /// The provider that was asked for.
        want: &'static str,
        /// Providers and their numbers of nodes.
        got: String,
        /// The types of those nodes that are elsewhere.
        operators: String,
    },
    /// The input doesn't fit the model.
    #[error("{model}: the input is {got}, the model takes {want}")]
    Input {
        /// The model: its path or digest.
        model: String,
        /// Found.
        got: String,
        /// Expected.
        want: String,
    },
    /// A model of grey levels was given values that aren't.
    #[error("{model}: it takes grey levels, and {source}")]
    Levels {
        /// The model.
        model: String,
        /// The first such value.
        source: NotLevels,
    },
    /// The bundle names the classes otherwise than its model, which the certificate covers.
    #[error("{}: bundle.json has the labels {got}, its model was exported with {want}; put the original bundle.json back", dir.display())]
    Labels {
        /// The bundle.
        dir: PathBuf,
        /// Those of bundle.json.
        got: String,
        /// Those of the model.
        want: String,
    },
    /// The bundle has several models, none of them `fp32`, and none was named.
    #[error("{}: it has several variants, {}; choose one with --variant", dir.display(), known.join(", "))]
    VariantNeeded {
        /// The bundle.
        dir: PathBuf,
        /// What there is.
        known: Vec<String>,
    },
    /// Nothing says when to answer.
    #[error("{}: variant `{variant}` has no policy, so it can't answer, certified or not; run `stage1 calibrate` (there is never a fallback threshold)", dir.display())]
    NoPolicy {
        /// The bundle.
        dir: PathBuf,
        /// The variant.
        variant: String,
    },
    /// The certificate is about another session than this one.
    #[error("{}: the certificate of variant `{variant}` doesn't cover this session:\n{}\nrun `stage1 calibrate` here, or pass --allow-uncertified, and every answer will say that it is uncertified", dir.display(), lines(differences))]
    NotCovered {
        /// The bundle.
        dir: PathBuf,
        /// The variant.
        variant: String,
        /// Every field that differs.
        differences: Vec<Difference>,
    },
    /// The preprocessing can't be carried out.
    #[error(transparent)]
    Preprocess(#[from] preprocess::Error),
    /// The decoding threads can't be started.
    #[error("can't start {threads} decoding threads: {source}")]
    Threads {
        /// How many.
        threads: usize,
        /// The system's reason.
        source: rayon::ThreadPoolBuildError,
    },
}

fn lines(differences: &[Difference]) -> String {
    differences
        .iter()
        .map(|difference| format!("  {difference}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn strays(operators: &str) -> String {
    match operators {
        "" => String::new(),
        _ => format!(", among them {operators}"),
    }
}

fn rungs(failed: &[FailedRung]) -> String {
    let told: Vec<_> = failed.iter().map(|rung| format!("  {rung}")).collect();
    told.join("\n")
}

/// The result of opening a bundle or running a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;
