use super::{File, Side, gelu, yes};
use crate::model::{Ffn, Positions, Result, RopePeriods, VitFamily, VitSpec};
use serde::Deserialize;
use serde_json::{Value, json};

/// A larger epsilon would drown what is normed.
const MAX_EPS: f64 = 0.1;

/// More blocks than this are no backbone's: the largest has 40.
const MAX_LAYERS: usize = 1000;

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

pub(super) fn read(file: &File<'_>, family: VitFamily) -> Result<VitSpec> {
    file.only(&[
        ("num_channels", 3.into()),
        ("apply_layernorm", true.into()),
        ("quantization_config", Value::Null),
        ("rope_scaling", Value::Null),
    ])?;
    let config = Config {
        keys: file.keys()?,
        family,
        file,
    };
    let spec = match family {
        VitFamily::Dinov2 | VitFamily::Dinov2WithRegisters => config.dinov2()?,
        VitFamily::Dinov3Vit => config.dinov3()?,
    };
    config.check(&spec)?;
    Ok(spec)
}

struct Config<'a> {
    keys: Keys,
    family: VitFamily,
    file: &'a File<'a>,
}

impl Config<'_> {
    fn dinov2(&self) -> Result<VitSpec> {
        let (keys, file) = (&self.keys, self.file);
        let hidden = file.need("hidden_size", keys.hidden_size)?;
        let ratio = file.need("mlp_ratio", keys.mlp_ratio)?;
        let (ffn, ffn_hidden) = self.dinov2_ffn(hidden, ratio)?;
        let registers = match self.family {
            VitFamily::Dinov2WithRegisters => {
                file.need("num_register_tokens", keys.num_register_tokens)?
            }
            _ => 0,
        };
        let patch = file.square("patch_size", keys.patch_size)?;
        let image = file.square("image_size", keys.image_size)?;
        Ok(VitSpec {
            family: self.family,
            hidden,
            layers: file.need("num_hidden_layers", keys.num_hidden_layers)?,
            heads: file.need("num_attention_heads", keys.num_attention_heads)?,
            ffn,
            ffn_hidden,
            patch,
            registers,
            norm_eps: keys.layer_norm_eps.unwrap_or(1e-6),
            positions: Positions::Learned {
                grid: image.checked_div(patch).unwrap_or(0),
                antialias: self.family == VitFamily::Dinov2WithRegisters,
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
        self.file.activation(&self.keys.hidden_act, "gelu")?;
        Ok((Ffn::Mlp, inner))
    }

    fn dinov3(&self) -> Result<VitSpec> {
        let (keys, file) = (&self.keys, self.file);
        let (ffn, activation) = match keys.use_gated_mlp {
            true => (Ffn::SwiGlu, "silu"),
            false => (Ffn::Mlp, "gelu"),
        };
        file.activation(&keys.hidden_act, activation)?;
        Ok(VitSpec {
            family: self.family,
            hidden: file.need("hidden_size", keys.hidden_size)?,
            layers: file.need("num_hidden_layers", keys.num_hidden_layers)?,
            heads: file.need("num_attention_heads", keys.num_attention_heads)?,
            ffn,
            ffn_hidden: file.need("intermediate_size", keys.intermediate_size)?,
            patch: file.square("patch_size", keys.patch_size)?,
            registers: file.need("num_register_tokens", keys.num_register_tokens)?,
            norm_eps: keys.layer_norm_eps.unwrap_or(1e-5),
            positions: Positions::Rope {
                theta: keys.rope_theta.unwrap_or(100.0),
                periods: RopePeriods::Fp32,
            },
            q_bias: keys.query_bias,
            k_bias: keys.key_bias,
            v_bias: keys.value_bias,
            proj_bias: keys.proj_bias,
            ffn_bias: keys.mlp_bias,
        })
    }

    fn check(&self, spec: &VitSpec) -> Result<()> {
        let file = self.file;
        file.positive("hidden_size", spec.hidden)?;
        file.positive("num_hidden_layers", spec.layers)?;
        file.at_most("num_hidden_layers", spec.layers, MAX_LAYERS)?;
        file.positive("num_attention_heads", spec.heads)?;
        file.positive("patch_size", spec.patch)?;
        file.positive("intermediate_size or mlp_ratio", spec.ffn_hidden)?;
        file.positive_number("layer_norm_eps", spec.norm_eps)?;
        if spec.norm_eps > MAX_EPS {
            return Err(file.unsupported(
                "layer_norm_eps",
                spec.norm_eps,
                format!("up to {MAX_EPS}"),
            ));
        }
        self.check_other_families(spec)?;
        if !spec.hidden.is_multiple_of(spec.heads) {
            return Err(file.contradiction(format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                spec.hidden, spec.heads
            )));
        }
        match spec.positions {
            Positions::Learned { grid, .. } => {
                file.positive("image_size in patches of patch_size", grid)
            }
            Positions::Rope { theta, .. } => self.check_rope(spec, theta),
        }
    }

    /// Keys that this family's configurations don't have mean something in others: here they may only say what is so anyway.
    fn check_other_families(&self, spec: &VitSpec) -> Result<()> {
        let is_rope = matches!(spec.positions, Positions::Rope { .. });
        let is_swiglu = spec.ffn == Ffn::SwiGlu;
        let mut fixed = vec![
            ("intermediate_size", json!(spec.ffn_hidden)),
            ("num_register_tokens", json!(spec.registers)),
            ("num_key_value_heads", json!(spec.heads)),
            ("head_dim", json!(spec.head_dim())),
            ("is_causal", json!(false)),
            ("query_bias", json!(spec.q_bias)),
            ("key_bias", json!(spec.k_bias)),
            ("value_bias", json!(spec.v_bias)),
            ("proj_bias", json!(spec.proj_bias)),
            ("mlp_bias", json!(spec.ffn_bias)),
            ("use_gated_mlp", json!(is_swiglu)),
            ("use_swiglu_ffn", json!(is_swiglu)),
        ];
        if is_rope {
            fixed.push(("position_embedding_type", json!("rope")));
            fixed.push(("qkv_bias", json!(spec.q_bias && spec.k_bias && spec.v_bias)));
        } else {
            fixed.push(("position_embedding_type", json!("absolute")));
            fixed.push(("rope_theta", Value::Null));
            fixed.push(("rope_parameters", Value::Null));
        }
        self.file.only(&fixed)
    }

    fn check_rope(&self, spec: &VitSpec, theta: f64) -> Result<()> {
        self.file.positive_number("rope_theta", theta)?;
        // transformers 5 may write the same twice.
        let same = json!({"rope_type": "default", "rope_theta": theta});
        self.file.only(&[("rope_parameters", same)])?;
        if spec.head_dim().is_multiple_of(4) {
            return Ok(());
        }
        Err(self.file.contradiction(format!(
            "rotary positions need a head width that is a multiple of 4; hidden_size {} / num_attention_heads {} is {}",
            spec.hidden,
            spec.heads,
            spec.head_dim()
        )))
    }
}
