use super::*;
use serde_json::json;

fn dinov2() -> Value {
    json!({
        "model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "mlp_ratio": 4, "patch_size": 14, "image_size": 518, "hidden_act": "gelu", "num_channels": 3,
        "layer_norm_eps": 1e-6, "apply_layernorm": true, "torch_dtype": "float32",
    })
}

fn dinov3() -> Value {
    json!({
        "model_type": "dinov3_vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "patch_size": 16, "image_size": 224, "num_register_tokens": 4,
        "hidden_act": "gelu", "pos_embed_rescale": 2.0,
    })
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    let keys = config.as_object_mut().unwrap();
    match value {
        Value::Null => keys.remove(key),
        value => keys.insert(key.to_owned(), value),
    };
    config
}

fn read_json(config: &Value) -> Result<BackboneSpec> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    read(&path)
}

#[test]
fn defaults_are_those_of_transformers() {
    let spec = read_json(&dinov2()).unwrap();
    assert_eq!(
        (spec.ffn, spec.ffn_hidden, spec.registers),
        (Ffn::Mlp, 128, 0)
    );
    assert!(spec.q_bias && spec.k_bias && spec.v_bias);
    let grid = Positions::Learned {
        grid: 37,
        antialias: false,
    };
    assert_eq!(spec.positions, grid);

    let spec = read_json(&dinov3()).unwrap();
    assert!(spec.q_bias && !spec.k_bias && spec.v_bias && spec.proj_bias && spec.ffn_bias);
    assert_eq!(spec.positions, Positions::Rope { theta: 100.0 });
    assert!((spec.norm_eps - 1e-5).abs() < 1e-20);

    let swiglu = with(dinov2(), "use_swiglu_ffn", true.into());
    let spec = read_json(&with(swiglu, "hidden_act", "relu".into())).unwrap();
    assert_eq!((spec.ffn, spec.ffn_hidden), (Ffn::SwiGlu, 88));
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let cases = [
        (
            dinov2(),
            "model_type",
            json!("dinov3_convnext"),
            "dinov3_convnext",
        ),
        (dinov2(), "model_type", Value::Null, "(none)"),
        (
            dinov2(),
            "hidden_act",
            json!("relu"),
            "`hidden_act` is `relu`",
        ),
        (dinov2(), "num_channels", json!(4), "`num_channels` is 4"),
        (
            dinov2(),
            "apply_layernorm",
            json!(false),
            "`apply_layernorm` is false",
        ),
        (
            dinov2(),
            "image_size",
            json!([518, 224]),
            "`image_size` is [518, 224]",
        ),
        (dinov2(), "hidden_size", json!(30), "num_attention_heads 4"),
        (dinov2(), "hidden_size", json!("32"), "at `hidden_size`"),
        (
            dinov2(),
            "hidden_size",
            Value::Null,
            "`hidden_size` is missing",
        ),
        (dinov2(), "image_size", json!(7), "image_size"),
        (dinov2(), "patch_size", json!(0), "patch_size is 0"),
        (
            dinov2(),
            "num_attention_heads",
            json!(0),
            "num_attention_heads is 0",
        ),
        (
            dinov2(),
            "layer_norm_eps",
            json!(-1.0),
            "`layer_norm_eps` is -1",
        ),
        (
            dinov3(),
            "num_register_tokens",
            Value::Null,
            "`num_register_tokens` is missing",
        ),
        (
            dinov3(),
            "use_gated_mlp",
            json!(true),
            "`hidden_act` is `gelu`",
        ),
        (dinov3(), "num_attention_heads", json!(16), "multiple of 4"),
        (dinov3(), "rope_theta", json!(0.0), "`rope_theta` is 0"),
        (
            dinov3(),
            "rope_scaling",
            json!({"type": "linear"}),
            "`rope_scaling` is",
        ),
    ];
    for (config, key, value, want) in cases {
        let error = read_json(&with(config, key, value.clone()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(want) && error.contains("config.json"),
            "{key} = {value}: {error}"
        );
    }
}
