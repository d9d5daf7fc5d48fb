use super::*;
use crate::{
    artifact::tensors::{self, Tensor},
    model::{BlockRole, ConvNextSpec, Ffn, VitSpec, spec::tests},
};
use half::bf16;
use safetensors::{Dtype, tensor::TensorView};
use std::fs;

type Tensors = BTreeMap<String, Tensor>;

fn config() -> serde_json::Value {
    serde_json::json!({
        "model_type": "dinov3_vit", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 12, "patch_size": 2, "num_register_tokens": 1, "hidden_act": "silu",
        "use_gated_mlp": true,
    })
}

fn spec() -> BackboneSpec {
    BackboneSpec::Vit(VitSpec {
        layers: 2,
        ffn_hidden: 12,
        patch: 2,
        registers: 1,
        ..tests::dinov3(8, 2, Ffn::SwiGlu)
    })
}

/// Values that float32 and bfloat16 both hold, all different within a tensor of this size.
fn model() -> Tensors {
    model_of(&spec())
}

fn model_of(spec: &BackboneSpec) -> Tensors {
    let tensor = |(i, t): (usize, TensorSpec)| {
        let count: usize = t.shape.iter().product();
        let values = (0..count).map(|j| ((i + j) % 256) as f32 / 64.0).collect();
        (t.name, Tensor::f32(t.shape, values))
    };
    spec.tensors().into_iter().enumerate().map(tensor).collect()
}

fn folder(tensors: &Tensors) -> tempfile::TempDir {
    folder_of(&config(), tensors)
}

fn folder_of(config: &serde_json::Value, tensors: &Tensors) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    tensors::save(
        &dir.path().join("model.safetensors"),
        tensors,
        &BTreeMap::new(),
    )
    .unwrap();
    dir
}

fn renamed(rename: impl Fn(&str) -> String) -> Tensors {
    model()
        .into_iter()
        .map(|(name, tensor)| (rename(&name), tensor))
        .collect()
}

fn with(name: &str, tensor: Tensor) -> Tensors {
    let mut tensors = model();
    tensors.insert(name.to_owned(), tensor);
    tensors
}

#[test]
fn spellings_and_precisions_are_one_model() {
    let plain = Weights::open(folder(&model()).path()).unwrap();
    assert_eq!(*plain.spec(), spec());
    let nested = |name: &str| match name.starts_with("layer.") {
        true => format!("model.{name}"),
        false => name.to_owned(),
    };
    let mask = Tensor::f32([1, 1, 8], vec![0.0; 8]);
    let same = [
        ("nested", renamed(nested)),
        ("prefixed", renamed(|name| format!("backbone.{name}"))),
        ("module", renamed(|name| format!("model.{}", nested(name)))),
        ("mask token", with("embeddings.mask_token", mask.clone())),
        ("classifier", with("classifier.weight", mask)),
        (
            "an empty tensor",
            with("embeddings.extra_tokens", Tensor::f32([1, 0, 8], vec![])),
        ),
    ];
    for (what, tensors) in same {
        let weights = Weights::open(folder(&tensors).path()).unwrap();
        assert_eq!(weights.digest(), plain.digest(), "{what}");
    }
    let dir = folder(&model());
    save_bf16(&dir.path().join("model.safetensors"));
    assert_eq!(Weights::open(dir.path()).unwrap().digest(), plain.digest());
}

#[test]
fn a_convnext_may_be_nested_too() {
    let spec = BackboneSpec::ConvNext(ConvNextSpec {
        depths: vec![1, 2],
        widths: vec![4, 8],
        norm_eps: 1e-6,
    });
    let (config, tensors) = (spec.to_hf_config(), model_of(&spec));
    let plain = Weights::open(folder_of(&config, &tensors).path()).unwrap();
    assert_eq!(*plain.spec(), spec);
    let nested = |prefix: &str| -> Tensors {
        let rename = |name: &String| match name.starts_with("stages.") {
            true => format!("{prefix}model.{name}"),
            false => format!("{prefix}{name}"),
        };
        tensors
            .iter()
            .map(|(name, tensor)| (rename(name), tensor.clone()))
            .collect()
    };
    for prefix in ["", "backbone.", "model."] {
        let weights = Weights::open(folder_of(&config, &nested(prefix)).path()).unwrap();
        assert_eq!(weights.digest(), plain.digest(), "{prefix}");
    }
}

fn save_bf16(path: &Path) {
    let narrow = |tensor: Tensor| -> Vec<u8> {
        let tensors::Values::F32(values) = tensor.values else {
            panic!("floats")
        };
        values
            .iter()
            .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
            .collect()
    };
    let raw: Vec<_> = model()
        .into_iter()
        .map(|(name, t)| (name, t.shape.clone(), narrow(t)))
        .collect();
    let views = raw.iter().map(|(name, shape, bytes)| {
        (
            name,
            TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap(),
        )
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn the_digest_follows_the_values() {
    let plain = Weights::open(folder(&model()).path()).unwrap();
    let other = with("norm.bias", Tensor::f32([8], vec![9.0; 8]));
    let other = Weights::open(folder(&other).path()).unwrap();
    assert_ne!(plain.digest(), other.digest());
}

#[test]
fn what_does_not_fit_is_named() {
    let without = |name: &str| {
        let mut tensors = model();
        tensors.remove(name).unwrap();
        tensors
    };
    let anchors = with("teacher.embeddings.cls_token", Tensor::f32([1], vec![0.0]));
    let cases = [
        (
            without("layer.1.mlp.gate_proj.bias"),
            "missing: [\"layer.1.mlp.gate_proj.bias\"]",
        ),
        (
            without("embeddings.cls_token"),
            "no tensor is named `embeddings.cls_token`",
        ),
        (anchors, "several tensors"),
        (
            with("layer.2.norm1.weight", Tensor::f32([8], vec![0.0; 8])),
            "do not belong",
        ),
        (
            with(
                "layer.0.attention.k_proj.bias",
                Tensor::f32([8], vec![0.0; 8]),
            ),
            "k_proj.bias",
        ),
        (
            with("model.layer.0.norm1.weight", Tensor::f32([8], vec![0.0; 8])),
            "model.layer.0.norm1.weight",
        ),
        (
            with("norm.bias", Tensor::f32([4], vec![0.0; 4])),
            "has shape [4], `config.json` says [8]",
        ),
        (
            with("norm.bias", Tensor::f32([8], vec![f32::NAN; 8])),
            "holds NaN at index 0",
        ),
    ];
    for (tensors, want) in cases {
        let error = Weights::open(folder(&tensors).path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(want) && error.contains("model.safetensors"),
            "{want}: {error}"
        );
    }
}

#[test]
fn blocks_above_are_neither_read_nor_needed() {
    let is_above = |name: &String| name.starts_with("layer.1.");
    let first = Blocks::First(1);
    let whole = Weights::open(folder(&model()).path()).unwrap();
    let cut = Weights::open_blocks(folder(&model()).path(), first).unwrap();
    assert!(!cut.has(Role::Block(1, BlockRole::QWeight)));
    assert_ne!(cut.digest(), whole.digest());
    let mut without = model();
    without.retain(|name, _| !is_above(name));
    let mut broken = model();
    for (_, tensor) in broken.iter_mut().filter(|(name, _)| is_above(name)) {
        *tensor = Tensor::f32([1], vec![f32::NAN]);
    }
    // A model that was published with one block.
    let mut small = config();
    small["num_hidden_layers"] = 1.into();
    let same = [
        ("cut afterwards", whole.with_blocks(first).unwrap()),
        (
            "absent",
            Weights::open_blocks(folder(&without).path(), first).unwrap(),
        ),
        (
            "broken",
            Weights::open_blocks(folder(&broken).path(), first).unwrap(),
        ),
        (
            "one block",
            Weights::open(folder_of(&small, &without).path()).unwrap(),
        ),
    ];
    for (what, weights) in same {
        assert_eq!(weights.digest(), cut.digest(), "{what}");
    }
    let unknown = with("layer.2.norm1.weight", Tensor::f32([8], vec![0.0; 8]));
    let error = Weights::open_blocks(folder(&unknown).path(), first).unwrap_err();
    assert!(
        matches!(error, ModelError::UnknownTensors { .. }),
        "{error}"
    );
}

#[test]
fn what_is_saved_is_read_back_with_its_changes() {
    let whole = Weights::open(folder(&model()).path()).unwrap();
    let changes = BTreeMap::from([(Role::ClsToken, vec![7.0; 8])]);
    let changed = whole.clone().with_values(changes);
    assert_ne!(changed.digest(), whole.digest());
    assert_eq!(changed.get(Role::ClsToken), [7.0; 8]);
    let dir = tempfile::tempdir().unwrap();
    let files = changed.save(dir.path()).unwrap();
    assert_eq!(files.len(), 2);
    for (name, digest) in files {
        assert_eq!(Digest::of_file(&dir.path().join(name)).unwrap(), digest);
    }
    let back = Weights::open(dir.path()).unwrap();
    assert_eq!(back.digest(), changed.digest());
}

#[test]
fn a_mask_token_is_found_where_there_is_one() {
    let token = |values: Vec<f32>| Tensor::f32([1, 1, values.len()], values);
    let read = |tensors| Weights::mask_token(folder(&tensors).path(), 8);
    assert_eq!(read(model()).unwrap(), None);
    let mask = with("embeddings.mask_token", token(vec![2.0; 8]));
    assert_eq!(read(mask).unwrap(), Some(vec![2.0; 8]));
    let narrow = with("embeddings.mask_token", token(vec![2.0; 4]));
    assert!(read(narrow).unwrap_err().to_string().contains("[1, 1, 8]"));
    let broken = with("embeddings.mask_token", token(vec![f32::NAN; 8]));
    assert!(read(broken).unwrap_err().to_string().contains("NaN"));
}

const SHARDS: [&str; 2] = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
];

/// A model in two files, and the index of where its tensors lie.
fn sharded() -> (tempfile::TempDir, BTreeMap<String, String>) {
    let dir = folder(&model());
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let mut map = BTreeMap::new();
    for (i, shard) in SHARDS.into_iter().enumerate() {
        let part: Tensors = model().into_iter().skip(i).step_by(2).collect();
        map.extend(part.keys().map(|name| (name.clone(), shard.to_owned())));
        tensors::save(&dir.path().join(shard), &part, &BTreeMap::new()).unwrap();
    }
    (dir, map)
}

fn write_index(dir: &tempfile::TempDir, map: &BTreeMap<String, String>) {
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    let path = dir.path().join("model.safetensors.index.json");
    fs::write(path, index.to_string()).unwrap();
}

#[test]
fn shards_are_one_model() {
    let (dir, map) = sharded();
    write_index(&dir, &map);
    let plain = Weights::open(folder(&model()).path()).unwrap();
    assert_eq!(Weights::open(dir.path()).unwrap().digest(), plain.digest());
}

#[test]
fn an_index_that_is_not_of_the_files_is_refused() {
    type Change = fn(&mut BTreeMap<String, String>);
    let cases: [(Change, &str); 6] = [
        (BTreeMap::clear, "`weight_map` is empty"),
        (
            |map| _ = map.remove("norm.bias"),
            "tensor `norm.bias` is not listed",
        ),
        (
            |map| _ = map.insert("norm.gamma".to_owned(), SHARDS[0].to_owned()),
            "tensor `norm.gamma` is not in model-00001",
        ),
        (
            |map| {
                let other = SHARDS.into_iter().find(|shard| *shard != map["norm.bias"]);
                map.insert("norm.bias".to_owned(), other.unwrap().to_owned());
            },
            "tensor `norm.bias` is not in model-0000",
        ),
        (
            |map| _ = map.insert("norm.bias".to_owned(), "../other.safetensors".to_owned()),
            "is not the name of a file beside it",
        ),
        (
            |map| _ = map.insert("norm.bias".to_owned(), "absent.safetensors".to_owned()),
            "absent.safetensors: cannot read",
        ),
    ];
    for (change, want) in cases {
        let (dir, mut map) = sharded();
        change(&mut map);
        write_index(&dir, &map);
        let error = Weights::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
    let (dir, map) = sharded();
    let twice: Tensors = model().into_iter().take(2).collect();
    tensors::save(&dir.path().join(SHARDS[1]), &twice, &BTreeMap::new()).unwrap();
    write_index(&dir, &map);
    let error = Weights::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("is in model-00001"), "{error}");
}

/// DINOv2 as transformers 5 saves it with `save_original_format=False`: renamed, and SwiGLU's packed layer as two.
#[test]
fn dinov2_may_have_the_names_of_transformers_5() {
    let renames = [
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("mlp.weights_out", "mlp.down_proj"),
    ];
    for ffn in [Ffn::Mlp, Ffn::SwiGlu] {
        let spec = BackboneSpec::Vit(VitSpec {
            ffn,
            ..tests::dinov2(8, 2)
        });
        let (config, saved) = (spec.to_hf_config(), model_of(&spec));
        let mut renamed = Tensors::new();
        for (name, tensor) in &saved {
            let halves = ["mlp.gate_proj", "mlp.up_proj"];
            if !name.contains("mlp.weights_in") {
                let rename = |name: String, (old, new): &(&str, &str)| name.replace(old, new);
                let name = renames.iter().fold(name.clone(), rename);
                renamed.insert(name, tensor.clone());
                continue;
            }
            let tensors::Values::F32(values) = &tensor.values else {
                panic!("not float32: {name}");
            };
            let mut shape = tensor.shape.clone();
            shape[0] /= 2;
            for (half, values) in halves.iter().zip(values.chunks(values.len() / 2)) {
                let name = name.replace("mlp.weights_in", half);
                renamed.insert(name, Tensor::f32(shape.clone(), values.to_vec()));
            }
        }
        let open = |tensors: &Tensors| Weights::open(folder_of(&config, tensors).path());
        let plain = open(&saved).unwrap();
        assert_eq!(open(&renamed).unwrap().digest(), plain.digest(), "{ffn:?}");

        let in_prefix =
            |(name, tensor): (&String, &Tensor)| (format!("dinov2.{name}"), tensor.clone());
        let prefixed = open(&renamed.iter().map(in_prefix).collect()).unwrap();
        assert_eq!(prefixed.digest(), plain.digest(), "{ffn:?}");

        if ffn == Ffn::SwiGlu {
            let mut lacks_half = renamed.clone();
            lacks_half
                .remove("encoder.layer.0.mlp.up_proj.weight")
                .unwrap();
            let error = open(&lacks_half).unwrap_err().to_string();
            assert!(
                error.contains("the other rows of encoder.layer.0.mlp.gate_proj.weight"),
                "{error}"
            );
        }
        let query = "encoder.layer.0.attention.attention.query.weight";
        let mut twice = renamed.clone();
        twice.insert(query.to_owned(), saved[query].clone());
        let error = open(&twice).unwrap_err().to_string();
        assert!(
            error.contains("encoder.layer.0.attention.q_proj.weight"),
            "{error}"
        );
    }
}
