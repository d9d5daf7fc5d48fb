use super::*;
use crate::model::{Ffn, Positions, RopePeriods, VitSpec};
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

fn convnext() -> Value {
    json!({
        "model_type": "dinov3_convnext", "depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32], "hidden_act": "gelu",
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

fn read_vit(config: &Value) -> VitSpec {
    match read_json(config).unwrap() {
        BackboneSpec::Vit(vit) => vit,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_is_read_back() {
    let swiglu = |config: Value, ratio: f64| {
        with(
            with(config, "use_swiglu_ffn", true.into()),
            "mlp_ratio",
            ratio.into(),
        )
    };
    let gated = with(dinov3(), "use_gated_mlp", true.into());
    let registers = with(
        with(dinov2(), "model_type", json!("dinov2_with_registers")),
        "num_register_tokens",
        json!(3),
    );
    let configs = [
        dinov2(),
        with(dinov2(), "mlp_ratio", json!(2.53)),
        with(dinov2(), "qkv_bias", json!(false)),
        swiglu(dinov2(), 4.0),
        swiglu(registers.clone(), 3.1),
        swiglu(with(registers.clone(), "hidden_size", json!(52)), 2.7),
        registers,
        dinov3(),
        with(gated.clone(), "hidden_act", json!("silu")),
        with(
            with(gated, "hidden_act", json!("silu")),
            "mlp_bias",
            json!(false),
        ),
        with(dinov3(), "rope_theta", json!(31.5)),
        convnext(),
        with(convnext(), "layer_norm_eps", json!(3e-5)),
        with(convnext(), "depths", json!([1, 0, 1, 1])),
    ];
    for config in configs {
        let spec = read_json(&config).unwrap();
        let written = spec.to_hf_config();
        assert_eq!(
            read_json(&written).unwrap(),
            spec,
            "{config} became {written}"
        );
    }
}

#[test]
fn defaults_are_those_of_transformers() {
    let spec = read_vit(&dinov2());
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

    let spec = read_vit(&dinov3());
    assert!(spec.q_bias && !spec.k_bias && spec.v_bias && spec.proj_bias && spec.ffn_bias);
    let rope = Positions::Rope {
        theta: 100.0,
        periods: RopePeriods::Fp32,
    };
    assert_eq!(spec.positions, rope);
    assert!((spec.norm_eps - 1e-5).abs() < 1e-20);

    let swiglu = with(dinov2(), "use_swiglu_ffn", true.into());
    let spec = read_vit(&with(swiglu, "hidden_act", "relu".into()));
    assert_eq!((spec.ffn, spec.ffn_hidden), (Ffn::SwiGlu, 88));
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let cases = [
        (dinov2(), "model_type", json!("convnextv2"), "convnextv2"),
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
            "num_hidden_layers",
            json!(1_000_000_000_000_u64),
            "`num_hidden_layers` is 1000000000000",
        ),
        (
            convnext(),
            "depths",
            json!([1_000_000_000_000_u64, 1, 2, 1]),
            "`depths` is 1000000000000",
        ),
        // What other families' configurations say.
        (
            dinov2(),
            "num_register_tokens",
            json!(4),
            "`num_register_tokens` is 4",
        ),
        (dinov2(), "key_bias", json!(false), "`key_bias` is false"),
        (
            dinov2(),
            "use_gated_mlp",
            json!(true),
            "`use_gated_mlp` is true",
        ),
        (
            dinov2(),
            "intermediate_size",
            json!(7),
            "`intermediate_size` is 7",
        ),
        (dinov2(), "rope_theta", json!(100.0), "`rope_theta` is 100"),
        (
            dinov2(),
            "position_embedding_type",
            json!("relative"),
            "`position_embedding_type` is \"relative\"",
        ),
        (dinov3(), "qkv_bias", json!(true), "`qkv_bias` is true"),
        (
            dinov3(),
            "use_swiglu_ffn",
            json!(true),
            "`use_swiglu_ffn` is true",
        ),
        (dinov3(), "head_dim", json!(3), "`head_dim` is 3"),
        (
            dinov3(),
            "num_key_value_heads",
            json!(1),
            "`num_key_value_heads` is 1",
        ),
        (dinov3(), "is_causal", json!(true), "`is_causal` is true"),
        (convnext(), "kernel_size", json!(5), "`kernel_size` is 5"),
        (convnext(), "use_grn", json!(true), "`use_grn` is true"),
        (convnext(), "num_stages", json!(3), "`num_stages` is 3"),
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
            "layer_norm_eps",
            json!(1e30),
            "`layer_norm_eps` is 1000000000000000",
        ),
        (
            dinov3(),
            "rope_parameters",
            json!({"rope_type": "linear", "rope_theta": 100.0}),
            "`rope_parameters` is",
        ),
        (
            dinov2(),
            "rope_parameters",
            json!({"rope_type": "default", "rope_theta": 100.0}),
            "`rope_parameters` is",
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
            convnext(),
            "hidden_act",
            json!("relu"),
            "`hidden_act` is `relu`",
        ),
        (convnext(), "depths", Value::Null, "`depths` is missing"),
        (
            convnext(),
            "depths",
            json!([1, 2]),
            "depths [1, 2] and hidden_sizes [8, 16, 24, 32]",
        ),
        (
            convnext(),
            "hidden_sizes",
            json!([8, 16, 0, 32]),
            "in hidden_sizes is 0",
        ),
        (
            convnext(),
            "hidden_sizes",
            json!([]),
            "length of hidden_sizes is 0",
        ),
        (convnext(), "num_channels", json!(1), "`num_channels` is 1"),
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

/// transformers 5 may say the same twice.
#[test]
fn rope_parameters_may_repeat_the_base() {
    let same = json!({"rope_type": "default", "rope_theta": 100.0});
    let spec = read_json(&with(dinov3(), "rope_parameters", same)).unwrap();
    assert_eq!(spec, read_json(&dinov3()).unwrap());
}
