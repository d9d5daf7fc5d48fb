//! Hugging Face's `config.json`. Keys that don't change the forward pass in evaluation are ignored; a value that this
//! version doesn't implement is refused by name.

use super::{BackboneSpec, Family, Ffn, ModelError, Positions, Result};
use crate::artifact;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::{fs, path::Path};

/// The keys that change the forward pass, over all families. Defaults are those of the configuration classes in
/// transformers, which leaves none of the keys that shape the tensors to a default.
#[derive(Deserialize)]
struct Keys {
    hidden_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    patch_size: Option<Side>,
    image_size: Option<Side>,
    intermediate_size: Option<usize>,
    num_register_tokens: Option<usize>,
    mlp_ratio: Option<f64>,
    layer_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default)]
    use_swiglu_ffn: bool,
    #[serde(default)]
    use_gated_mlp: bool,
    #[serde(default = "yes")]
    qkv_bias: bool,
    #[serde(default = "yes")]
    query_bias: bool,
    #[serde(default)]
    key_bias: bool,
    #[serde(default = "yes")]
    value_bias: bool,
    #[serde(default = "yes")]
    proj_bias: bool,
    #[serde(default = "yes")]
    mlp_bias: bool,
}

fn yes() -> bool {
    true
}

fn gelu() -> String {
    "gelu".to_owned()
}

/// A size in pixels: one side of a square, or `[height, width]`.
#[derive(Deserialize, Clone, Copy)]
#[serde(untagged)]
enum Side {
    Square(usize),
    Pair([usize; 2]),
}

pub(super) fn read(path: &Path) -> Result<BackboneSpec> {
    let bytes = fs::read(path).map_err(|source| artifact::Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let json: Value = parse(&bytes, path)?;
    let family = family(&json, path)?;
    refuse_other_computations(&json, path)?;
    let config = Config {
        keys: parse(&bytes, path)?,
        family,
        path,
    };
    let spec = match family {
        Family::Dinov2 | Family::Dinov2WithRegisters => config.dinov2()?,
        Family::Dinov3Vit => config.dinov3()?,
    };
    config.check(&spec)?;
    Ok(spec)
}

fn parse<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader);
    Ok(parsed.map_err(|error| artifact::Error::Json {
        path: path.to_owned(),
        kind: "config.json",
        field: error.path().to_string(),
        reason: error.into_inner().to_string(),
    })?)
}

fn family(json: &Value, path: &Path) -> Result<Family> {
    let model_type = json.get("model_type").and_then(Value::as_str);
    let known = Family::ALL
        .into_iter()
        .find(|f| Some(f.model_type()) == model_type);
    known.ok_or_else(|| ModelError::UnsupportedModel {
        path: path.to_owned(),
        model_type: model_type.unwrap_or("(none)").to_owned(),
        supported: Family::ALL.map(Family::model_type).join(", "),
    })
}

/// Keys that must have one value, or be absent: any other asks for a computation that isn't implemented.
fn refuse_other_computations(json: &Value, path: &Path) -> Result<()> {
    let only: [(&'static str, Value); 5] = [
        ("num_channels", 3.into()),
        ("apply_layernorm", true.into()),
        ("quantization_config", Value::Null),
        ("rope_scaling", Value::Null),
        ("rope_parameters", Value::Null),
    ];
    for (key, want) in only {
        match json.get(key) {
            Some(got) if *got != want => return Err(unsupported(path, key, got, want)),
            _ => {}
        }
    }
    Ok(())
}

fn unsupported(
    path: &Path,
    key: &'static str,
    got: impl ToString,
    want: impl ToString,
) -> ModelError {
    ModelError::UnsupportedValue {
        path: path.to_owned(),
        key,
        got: got.to_string(),
        want: want.to_string(),
    }
}

struct Config<'a> {
    keys: Keys,
    family: Family,
    path: &'a Path,
}

impl Config<'_> {
    fn dinov2(&self) -> Result<BackboneSpec> {
        let keys = &self.keys;
        let hidden = self.need("hidden_size", keys.hidden_size)?;
        let ratio = self.need("mlp_ratio", keys.mlp_ratio)?;
        let (ffn, ffn_hidden) = self.dinov2_ffn(hidden, ratio)?;
        let registers = match self.family {
            Family::Dinov2WithRegisters => {
                self.need("num_register_tokens", keys.num_register_tokens)?
            }
            _ => 0,
        };
        let patch = self.square("patch_size", keys.patch_size)?;
        let image = self.square("image_size", keys.image_size)?;
        Ok(BackboneSpec {
            family: self.family,
            hidden,
            layers: self.need("num_hidden_layers", keys.num_hidden_layers)?,
            heads: self.need("num_attention_heads", keys.num_attention_heads)?,
            ffn,
            ffn_hidden,
            patch,
            registers,
            norm_eps: keys.layer_norm_eps.unwrap_or(1e-6),
            positions: Positions::Learned {
                grid: image.checked_div(patch).unwrap_or(0),
                antialias: self.family == Family::Dinov2WithRegisters,
            },
            q_bias: keys.qkv_bias,
            k_bias: keys.qkv_bias,
            v_bias: keys.qkv_bias,
            proj_bias: true,
            ffn_bias: true,
        })
    }

    /// The SwiGLU of DINOv2 always uses SiLU, whatever `hidden_act` says.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the same float arithmetic as transformers', on widths far below 2^52"
    )]
    fn dinov2_ffn(&self, hidden: usize, ratio: f64) -> Result<(Ffn, usize)> {
        let inner = (hidden as f64 * ratio) as usize;
        if self.keys.use_swiglu_ffn {
            let two_thirds = (inner as f64 * 2.0 / 3.0) as usize;
            return Ok((Ffn::SwiGlu, two_thirds.next_multiple_of(8)));
        }
        self.want_activation("gelu")?;
        Ok((Ffn::Mlp, inner))
    }

    fn dinov3(&self) -> Result<BackboneSpec> {
        let keys = &self.keys;
        let (ffn, activation) = match keys.use_gated_mlp {
            true => (Ffn::SwiGlu, "silu"),
            false => (Ffn::Mlp, "gelu"),
        };
        self.want_activation(activation)?;
        Ok(BackboneSpec {
            family: self.family,
            hidden: self.need("hidden_size", keys.hidden_size)?,
            layers: self.need("num_hidden_layers", keys.num_hidden_layers)?,
            heads: self.need("num_attention_heads", keys.num_attention_heads)?,
            ffn,
            ffn_hidden: self.need("intermediate_size", keys.intermediate_size)?,
            patch: self.square("patch_size", keys.patch_size)?,
            registers: self.need("num_register_tokens", keys.num_register_tokens)?,
            norm_eps: keys.layer_norm_eps.unwrap_or(1e-5),
            positions: Positions::Rope {
                theta: keys.rope_theta.unwrap_or(100.0),
            },
            q_bias: keys.query_bias,
            k_bias: keys.key_bias,
            v_bias: keys.value_bias,
            proj_bias: keys.proj_bias,
            ffn_bias: keys.mlp_bias,
        })
    }

    fn check(&self, spec: &BackboneSpec) -> Result<()> {
        self.positive("hidden_size", spec.hidden)?;
        self.positive("num_hidden_layers", spec.layers)?;
        self.positive("num_attention_heads", spec.heads)?;
        self.positive("patch_size", spec.patch)?;
        self.positive("intermediate_size or mlp_ratio", spec.ffn_hidden)?;
        if !(spec.norm_eps.is_finite() && spec.norm_eps > 0.0) {
            return Err(unsupported(
                self.path,
                "layer_norm_eps",
                spec.norm_eps,
                "a positive number",
            ));
        }
        if !spec.hidden.is_multiple_of(spec.heads) {
            return self.contradiction(format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                spec.hidden, spec.heads
            ));
        }
        match spec.positions {
            Positions::Learned { grid, .. } => {
                self.positive("image_size in patches of patch_size", grid)
            }
            Positions::Rope { theta } => self.check_rope(spec, theta),
        }
    }

    fn check_rope(&self, spec: &BackboneSpec, theta: f64) -> Result<()> {
        if !(theta.is_finite() && theta > 0.0) {
            return Err(unsupported(
                self.path,
                "rope_theta",
                theta,
                "a positive number",
            ));
        }
        if spec.head_dim().is_multiple_of(4) {
            return Ok(());
        }
        self.contradiction(format!(
            "rotary positions need a head width that is a multiple of 4; hidden_size {} / num_attention_heads {} is {}",
            spec.hidden,
            spec.heads,
            spec.head_dim()
        ))
    }

    fn want_activation(&self, want: &'static str) -> Result<()> {
        let got = &self.keys.hidden_act;
        if got == want {
            return Ok(());
        }
        let with = format!("`{want}` with this feed-forward network");
        Err(unsupported(
            self.path,
            "hidden_act",
            format!("`{got}`"),
            with,
        ))
    }

    fn need<T>(&self, key: &'static str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| ModelError::MissingKey {
            path: self.path.to_owned(),
            key,
            model_type: self.family.model_type(),
        })
    }

    fn square(&self, key: &'static str, value: Option<Side>) -> Result<usize> {
        match self.need(key, value)? {
            Side::Square(side) => Ok(side),
            Side::Pair([height, width]) if height == width => Ok(height),
            Side::Pair(pair) => Err(unsupported(self.path, key, format!("{pair:?}"), "a square")),
        }
    }

    fn positive(&self, keys: &str, value: usize) -> Result<()> {
        match value {
            0 => self.contradiction(format!("{keys} is 0, a backbone needs at least 1")),
            _ => Ok(()),
        }
    }

    fn contradiction(&self, reason: String) -> Result<()> {
        Err(ModelError::Contradiction {
            path: self.path.to_owned(),
            reason,
        })
    }
}

#[cfg(test)]
mod tests;
