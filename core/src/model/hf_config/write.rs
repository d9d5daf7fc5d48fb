//! The way back: what transformers' `from_pretrained` needs to build the model.

use crate::model::{BackboneSpec, ConvNextSpec, Ffn, Positions, VitFamily, VitSpec};
use serde_json::{Map, Value, json};

pub(in crate::model) fn write(spec: &BackboneSpec) -> Value {
    let mut config = match spec {
        BackboneSpec::Vit(vit) => vit_config(vit),
        BackboneSpec::ConvNext(convnext) => convnext_config(convnext),
    };
    config.insert("model_type".to_owned(), spec.model_type().into());
    config.insert("num_channels".to_owned(), 3.into());
    config.insert("dtype".to_owned(), "float32".into());
    Value::Object(config)
}

fn vit_config(spec: &VitSpec) -> Map<String, Value> {
    let mut config = object(json!({
        "hidden_size": spec.hidden,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "layer_norm_eps": spec.norm_eps,
        "layerscale_value": 1.0,
        "patch_size": spec.patch,
        "apply_layernorm": true,
    }));
    config.extend(match spec.positions {
        Positions::Learned { grid, .. } => dinov2(spec, grid),
        Positions::Rope { theta, .. } => dinov3(spec, theta),
    });
    config
}

fn dinov2(spec: &VitSpec, grid: usize) -> Map<String, Value> {
    let swiglu = spec.ffn == Ffn::SwiGlu;
    let mut config = object(json!({
        "architectures": ["Dinov2Model"],
        "mlp_ratio": mlp_ratio(spec),
        "hidden_act": "gelu",
        "use_swiglu_ffn": swiglu,
        "qkv_bias": spec.q_bias,
        "image_size": grid * spec.patch,
        // Only training needs a mask token.
        "use_mask_token": false,
    }));
    if spec.family == VitFamily::Dinov2WithRegisters {
        config.insert(
            "architectures".to_owned(),
            json!(["Dinov2WithRegistersModel"]),
        );
        config.insert("num_register_tokens".to_owned(), spec.registers.into());
    }
    config
}

/// The ratio from which transformers computes the inner width: that of the SwiGLU is two thirds of the ratio's, rounded up
/// to a multiple of 8.
#[expect(
    clippy::cast_precision_loss,
    reason = "widths are far below 2^52, and reading rounds the same way"
)]
fn mlp_ratio(spec: &VitSpec) -> Value {
    let inner = match spec.ffn {
        Ffn::Mlp => spec.ffn_hidden,
        Ffn::SwiGlu => spec.ffn_hidden * 3 / 2,
    };
    match inner.is_multiple_of(spec.hidden) {
        true => (inner / spec.hidden).into(),
        false => (inner as f64 / spec.hidden as f64).into(),
    }
}

fn dinov3(spec: &VitSpec, theta: f64) -> Map<String, Value> {
    let (gated, activation) = match spec.ffn {
        Ffn::Mlp => (false, "gelu"),
        Ffn::SwiGlu => (true, "silu"),
    };
    object(json!({
        "architectures": ["DINOv3ViTModel"],
        "intermediate_size": spec.ffn_hidden,
        "hidden_act": activation,
        "use_gated_mlp": gated,
        "num_register_tokens": spec.registers,
        "rope_theta": theta,
        "query_bias": spec.q_bias,
        "key_bias": spec.k_bias,
        "value_bias": spec.v_bias,
        "proj_bias": spec.proj_bias,
        "mlp_bias": spec.ffn_bias,
        "image_size": 224,
    }))
}

fn convnext_config(spec: &ConvNextSpec) -> Map<String, Value> {
    object(json!({
        "architectures": ["DINOv3ConvNextModel"],
        "depths": spec.depths,
        "hidden_sizes": spec.widths,
        "hidden_act": "gelu",
        "layer_norm_eps": spec.norm_eps,
        "image_size": 224,
    }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("{other} is written as an object"),
    }
}
