use super::{File, gelu};
use crate::model::{ConvNextSpec, Result};
use serde::Deserialize;
use serde_json::Value;

/// More stages than this would shrink any image to nothing.
const MAX_STAGES: usize = 8;

/// More blocks of a stage than this are no backbone's: the deepest has 27.
const MAX_DEPTH: usize = 1000;

/// The keys that change the forward pass, with the defaults of transformers.
#[derive(Deserialize)]
struct Keys {
    hidden_sizes: Option<Vec<usize>>,
    depths: Option<Vec<usize>>,
    layer_norm_eps: Option<f64>,
    #[serde(default = "gelu")]
    hidden_act: String,
}

pub(super) fn read(file: &File<'_>) -> Result<ConvNextSpec> {
    file.only(&[
        ("num_channels", 3.into()),
        ("quantization_config", Value::Null),
        ("kernel_size", 7.into()),
        ("use_grn", false.into()),
    ])?;
    let keys: Keys = file.keys()?;
    file.activation(&keys.hidden_act, "gelu")?;
    let spec = ConvNextSpec {
        depths: file.need("depths", keys.depths)?,
        widths: file.need("hidden_sizes", keys.hidden_sizes)?,
        norm_eps: keys.layer_norm_eps.unwrap_or(1e-6),
    };
    file.positive_number("layer_norm_eps", spec.norm_eps)?;
    check_stages(file, &spec)?;
    Ok(spec)
}

fn check_stages(file: &File<'_>, spec: &ConvNextSpec) -> Result<()> {
    let (depths, widths) = (&spec.depths, &spec.widths);
    file.positive("the length of hidden_sizes", widths.len())?;
    if depths.len() != widths.len() {
        return Err(file.contradiction(format!(
            "depths {depths:?} and hidden_sizes {widths:?} have different lengths, one entry per stage each is needed"
        )));
    }
    if widths.len() > MAX_STAGES {
        return Err(file.unsupported(
            "hidden_sizes",
            format!("{widths:?}"),
            format!("up to {MAX_STAGES} stages"),
        ));
    }
    file.only(&[("num_stages", widths.len().into())])?;
    let deepest = depths.iter().max().copied().unwrap_or(0);
    file.at_most("depths", deepest, MAX_DEPTH)?;
    widths
        .iter()
        .try_for_each(|width| file.positive("a width in hidden_sizes", *width))
}
