//! What both forms of the protocol tell about the server and its bundles.

use crate::{
    engine::About,
    failure::{Failure, Result},
};
use std::collections::BTreeMap;

pub(crate) const SERVER: &str = "stage1";
/// The protocol's extensions that are offered.
pub(crate) const EXTENSIONS: [&str; 5] = [
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "statistics",
];
pub(crate) const PLATFORM: &str = "stage1_bundle";
pub(crate) const BACKEND: &str = "stage1";

/// What is special about a bundle.
pub(crate) fn parameters(about: &About) -> BTreeMap<String, String> {
    let pairs = [
        (
            "labels",
            serde_json::to_string(&about.labels).expect("texts have a JSON form"),
        ),
        ("variant", about.variant.clone()),
        ("precision", about.precision.clone()),
        ("provider", about.provider.clone()),
        ("provider_version", about.provider_version.clone()),
        ("bundle_digest", about.digest.to_string()),
        ("certified", about.is_certified().to_string()),
        ("not_covered", about.differences.join("; ")),
    ];
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// A request's parameters: what would change the answer and isn't offered is refused, rather than ignored. Others, which clients make up
/// for themselves, mean nothing here.
pub(crate) fn check_parameters<'a>(keys: impl IntoIterator<Item = &'a String>) -> Result<()> {
    refuse(
        keys,
        &["sequence_id", "sequence_start", "sequence_end"],
        "sequences of requests aren't offered here",
    )
}

/// As [`check_parameters`], of a wanted output.
pub(crate) fn check_output_parameters<'a>(
    keys: impl IntoIterator<Item = &'a String>,
) -> Result<()> {
    const UNKNOWN: [&str; 4] = [
        "classification",
        "shared_memory_region",
        "shared_memory_byte_size",
        "shared_memory_offset",
    ];
    refuse(
        keys,
        &UNKNOWN,
        "it isn't offered here; ask for `label` and `probabilities`, and read them from the answer",
    )
}

/// As [`check_parameters`], of the input `name`: one that isn't known might change what the tensor means.
pub(crate) fn check_input_parameters<'a>(
    name: &str,
    keys: impl IntoIterator<Item = &'a String>,
) -> Result<()> {
    const KNOWN: [&str; 2] = ["binary_data_size", "content_type"];
    match keys.into_iter().find(|key| !KNOWN.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(Failure::Unsupported(format!(
            "`{name}`: the parameter `{key}` isn't offered here"
        ))),
    }
}

fn refuse<'a>(
    keys: impl IntoIterator<Item = &'a String>,
    refused: &[&str],
    why: &str,
) -> Result<()> {
    match keys.into_iter().find(|key| refused.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(Failure::Unsupported(format!(
            "the parameter `{key}`: {why}"
        ))),
    }
}

/// Why a parameter of loading or unloading is refused.
pub(crate) fn no_parameter(key: &str) -> Failure {
    let key: String = key.chars().take(64).collect();
    Failure::Unsupported(format!(
        "the parameter `{key}` isn't offered: a bundle is loaded from the folder that the server was started with"
    ))
}
