use super::*;
use crate::{
    artifact::tensors::{self, Tensor},
    model::{BlockRole, ConvNextSpec, Ffn, TensorSpec, spec::tests},
};
use serde_json::{Value, json};
use std::fs;

type Tensors = BTreeMap<String, Tensor>;

fn spec() -> BackboneSpec {
    BackboneSpec::Vit(VitSpec {
        layers: 1,
        ffn_hidden: 3,
        patch: 1,
        registers: 0,
        ..tests::dinov2(2, 1)
    })
}

fn weights(spec: &BackboneSpec) -> Weights {
    let dir = tempfile::tempdir().unwrap();
    let tensor = |t: TensorSpec| {
        let count: usize = t.shape.iter().product();
        let values = (0..count).map(|i| i as f32 + 1.0).collect();
        (t.name, Tensor::f32(t.shape, values))
    };
    let tensors = spec.tensors().into_iter().map(tensor).collect();
    let config = spec.to_hf_config().to_string();
    fs::write(dir.path().join("config.json"), config).unwrap();
    save(&dir.path().join("model.safetensors"), &tensors);
    Weights::open(dir.path()).unwrap()
}

fn save(path: &Path, tensors: &Tensors) {
    tensors::save(path, tensors, &BTreeMap::new()).unwrap();
}

fn config() -> Value {
    json!({
        "peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["query", "fc1"], "bias": "none",
        "use_rslora": false, "use_dora": false, "lora_dropout": 0.1, "inference_mode": true, "init_lora_weights": true,
        "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": null, "eva_config": null, "lora_bias": false,
    })
}

const QUERY: &str = "base_model.model.encoder.layer.0.attention.attention.query";

/// Query: `[[1, 2], [3, 4]] + s [[1], [2]] [[3, 5]]`.
fn adapter() -> Tensors {
    BTreeMap::from([
        (
            format!("{QUERY}.lora_A.weight"),
            Tensor::f32([1, 2], vec![3.0, 5.0]),
        ),
        (
            format!("{QUERY}.lora_B.weight"),
            Tensor::f32([2, 1], vec![1.0, 2.0]),
        ),
    ])
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

fn open(config: &Value, tensors: &Tensors) -> Result<Adapter> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    save(&dir.path().join("adapter_model.safetensors"), tensors);
    Adapter::open(dir.path())
}

fn query(config: &Value, tensors: &Tensors) -> Vec<f32> {
    let adapter = open(config, tensors).unwrap();
    let merged = weights(&spec()).merged(&adapter).unwrap();
    merged.get(Role::Block(0, BlockRole::QWeight)).to_vec()
}

#[test]
fn merged_weights_are_those_of_the_formula() {
    assert_eq!(query(&config(), &adapter()), [7.0, 12.0, 15.0, 24.0]);
    let doubled = with(
        config(),
        "alpha_pattern",
        json!({"attention.query": 4, "fc1": 1}),
    );
    assert_eq!(query(&doubled, &adapter()), [13.0, 22.0, 27.0, 44.0]);

    // W + s B A = [[7, 12], [15, 24]]; rows of length 1 and 2.
    let dora = with(config(), "use_dora", json!(true));
    let mut tensors = adapter();
    let magnitude = Tensor::f32([2], vec![1.0, 2.0]);
    tensors.insert(format!("{QUERY}.lora_magnitude_vector"), magnitude);
    let (first, second) = (193.0_f64.sqrt(), 801.0_f64.sqrt());
    let want = [7.0 / first, 12.0 / first, 30.0 / second, 48.0 / second];
    for (got, want) in query(&dora, &tensors).into_iter().zip(want) {
        assert!((f64::from(got) - want).abs() < 1e-6, "{got} for {want}");
    }
}

#[test]
fn rank_stabilised_adapters_divide_by_the_root() {
    let tensors = BTreeMap::from([
        (
            format!("{QUERY}.lora_A.weight"),
            Tensor::f32([4, 2], vec![1.0; 8]),
        ),
        (
            format!("{QUERY}.lora_B.weight"),
            Tensor::f32([2, 4], vec![0.25; 8]),
        ),
    ]);
    let config = with(config(), "rank_pattern", json!({"query": 4}));
    assert_eq!(query(&config, &tensors), [1.5, 2.5, 3.5, 4.5]);
    let config = with(config, "use_rslora", json!(true));
    assert_eq!(query(&config, &tensors), [2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn names_may_carry_the_path_of_the_backbone() {
    let want = query(&config(), &adapter());
    for path in ["model.", "dinov2.", "wrapper.backbone."] {
        let rename = |name: String| name.replacen(WRAPPER, &format!("{WRAPPER}{path}"), 1);
        let mut tensors: Tensors = adapter()
            .into_iter()
            .map(|(name, tensor)| (rename(name), tensor))
            .collect();
        // A head that was saved whole is left out, as a model's own is.
        let head = Tensor::f32([1], vec![1.0]);
        tensors.insert(format!("{WRAPPER}classifier.weight"), head);
        let config = with(config(), "modules_to_save", json!(["classifier"]));
        assert_eq!(query(&config, &tensors), want, "{path}");
    }
}

/// transformers 5 calls DINOv2's modules as DINOv3's, and has gate and up apart, but saves models as before.
#[test]
fn names_of_renamed_modules_are_understood() {
    let BackboneSpec::Vit(mlp) = spec() else {
        panic!("a vision transformer");
    };
    let spec = BackboneSpec::Vit(VitSpec {
        ffn: Ffn::SwiGlu,
        ffn_hidden: 8,
        ..mlp
    });
    let plain = weights(&spec);
    let config = with(config(), "target_modules", json!("all-linear"));
    let merged = |module: &str, rows: usize, role| {
        let name = |part: &str| format!("{WRAPPER}encoder.layer.0.{module}.{part}.weight");
        let tensors = BTreeMap::from([
            (name("lora_A"), Tensor::f32([1, 2], vec![3.0, 5.0])),
            (name("lora_B"), Tensor::f32([rows, 1], vec![1.0; rows])),
        ]);
        let merged = plain.clone().merged(&open(&config, &tensors).unwrap());
        let (merged, role) = (merged.unwrap(), Role::Block(0, role));
        let pairs = merged.get(role).iter().zip(plain.get(role));
        pairs.map(|(a, b)| a - b).collect::<Vec<_>>()
    };
    let changed = |rows: usize| [6.0, 10.0].repeat(rows);
    let query = merged("attention.q_proj", 2, BlockRole::QWeight);
    assert_eq!(query, changed(2));
    let gate = merged("mlp.gate_proj", 8, BlockRole::GateUpWeight);
    assert_eq!(gate, [changed(8), vec![0.0; 16]].concat());
    let up = merged("mlp.up_proj", 8, BlockRole::GateUpWeight);
    assert_eq!(up, [vec![0.0; 16], changed(8)].concat());
}

#[test]
fn a_convnexts_linear_layers_can_be_adapted() {
    let spec = BackboneSpec::ConvNext(ConvNextSpec {
        depths: vec![1],
        widths: vec![2],
        norm_eps: 1e-6,
    });
    let rename = |name: &str| {
        name.replace(
            "encoder.layer.0.attention.attention.query",
            "model.stages.0.layers.0.pointwise_conv1",
        )
    };
    let mut tensors: Tensors = adapter()
        .into_iter()
        .map(|(name, tensor)| (rename(&name), tensor))
        .collect();
    let up = rename(&format!("{QUERY}.lora_B.weight"));
    tensors.insert(up, Tensor::f32([8, 1], vec![1.0; 8]));
    let config = with(config(), "target_modules", json!("all-linear"));
    let merged = weights(&spec)
        .merged(&open(&config, &tensors).unwrap())
        .unwrap();
    let role = Role::Layer(0, 0, crate::model::LayerRole::UpWeight);
    assert_eq!(merged.get(role)[..2], [7.0, 12.0]);
}

#[test]
fn configurations_that_are_not_understood_are_refused_by_name() {
    let cases = [
        ("peft_type", json!("VERA"), "`peft_type` is \"VERA\""),
        ("bias", json!("all"), "`bias` is \"all\""),
        ("init_lora_weights", json!("pissa"), "`init_lora_weights`"),
        ("modules_to_save", json!(["norm"]), "`modules_to_save`"),
        ("fan_in_fan_out", json!(true), "`fan_in_fan_out` is true"),
        ("lora_bias", json!(true), "`lora_bias` is true"),
        ("target_parameters", json!(["x"]), "`target_parameters`"),
        (
            "a_key_of_tomorrow",
            json!(0.5),
            "`a_key_of_tomorrow` is 0.5",
        ),
        ("rank_pattern", json!({"que.*y": 1}), "`que.*y`"),
        ("rank_pattern", json!(3), "`rank_pattern` is 3"),
        ("r", json!(0), "`r` is 0"),
        ("r", json!(2), "[1, 2], expected [2, in]"),
        ("lora_alpha", json!("x"), "`lora_alpha` is \"x\""),
        ("use_rslora", json!(1), "`use_rslora` is 1"),
        ("use_dora", json!(true), "lora_magnitude_vector` is missing"),
        ("target_modules", json!(["key", "uery"]), "doesn't name"),
    ];
    for (key, value, want) in cases {
        let error = open(&with(config(), key, value.clone()), &adapter());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(want), "{key} = {value}: {error}");
    }
    let mut without = config();
    without.as_object_mut().unwrap().remove("peft_type");
    let error = open(&without, &adapter()).unwrap_err().to_string();
    assert!(error.contains("`peft_type` is missing"), "{error}");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let cases: [(&str, Option<Tensor>, &str); 6] = [
        (
            "query.lora_A.weight",
            None,
            "query.lora_A.weight` is missing",
        ),
        (
            "query.lora_B.weight",
            Some(Tensor::f32([2, 2], vec![0.0; 4])),
            "expected [out, 1]",
        ),
        (
            "query.lora_A.weight",
            Some(Tensor::f32([0], vec![])),
            "two axes",
        ),
        (
            "query.lora_A.weight",
            Some(Tensor::f32([1, 2], vec![f32::NAN; 2])),
            "holds NaN",
        ),
        (
            "query.lora_embedding_A",
            Some(Tensor::f32([1], vec![0.0])),
            "lora_embedding_A",
        ),
        (
            "query.lora_magnitude_vector",
            Some(Tensor::f32([2], vec![0.0; 2])),
            "lora_magnitude_vector",
        ),
    ];
    for (part, tensor, want) in cases {
        let name = QUERY.replace("query", part);
        let mut tensors = adapter();
        match tensor {
            Some(tensor) => tensors.insert(name, tensor),
            None => tensors.remove(&name),
        };
        let error = open(&config(), &tensors).unwrap_err().to_string();
        assert!(error.contains(want), "{part}: {error}");
    }
    let error = open(&config(), &BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains("no adapted module"), "{error}");
}

#[test]
fn a_backbone_without_the_layer_is_refused() {
    let renamed = |to: &str| -> Tensors {
        let rename = |name: String| name.replace("attention.attention.query", to);
        adapter()
            .into_iter()
            .map(|(name, tensor)| (rename(name), tensor))
            .collect()
    };
    let config = with(config(), "target_modules", json!("all-linear"));
    let cases = [
        (renamed("attention.conv"), "no linear layer of this dinov2"),
        (
            renamed("mlp.fc1"),
            "of shape [2, 2], the backbone's is [3, 2]",
        ),
        (
            adapter().into_iter().chain(renamed_twice()).collect(),
            "adapt the same layer",
        ),
    ];
    for (tensors, want) in cases {
        let adapter = open(&config, &tensors).unwrap();
        let error = weights(&spec()).merged(&adapter).unwrap_err().to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
}

fn renamed_twice() -> Tensors {
    let rename = |name: String| name.replacen(WRAPPER, &format!("{WRAPPER}other."), 1);
    adapter()
        .into_iter()
        .map(|(name, tensor)| (rename(name), tensor))
        .collect()
}
