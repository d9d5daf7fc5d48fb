//! The golden backbones under the names of other formats, back again.

use super::*;
use stage1_core::model::{BlockRole, ConvNextSpec, PRESETS, Role, TensorSpec, VitSpec, preset};

type Tensors = BTreeMap<String, Tensor>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Meta,
    Timm,
}

fn golden(name: &str) -> Weights {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones");
    Weights::open(&goldens.join(name)).unwrap()
}

fn whole(weights: &Weights, role: Role) -> Tensor {
    Tensor::f32(weights.shape(role), weights.get(role).to_vec())
}

/// The weights as another format has them.
fn renamed(weights: &Weights, form: Form) -> Tensors {
    match weights.spec() {
        BackboneSpec::Vit(vit) => vit_renamed(weights, vit, form),
        BackboneSpec::ConvNext(convnext) => convnext_renamed(weights, convnext, form),
    }
}

fn vit_renamed(weights: &Weights, vit: &VitSpec, form: Form) -> Tensors {
    let dinov3 = weights.spec().model_type() == "dinov3_vit";
    let registers = match (form, dinov3) {
        (Form::Timm, _) => "reg_token",
        (Form::Meta, true) => "storage_tokens",
        (Form::Meta, false) => "register_tokens",
    };
    let mut tensors = BTreeMap::new();
    for role in weights.spec().tensors().into_iter().map(|t| t.role) {
        let name = match role {
            Role::ClsToken => "cls_token".to_owned(),
            Role::RegisterTokens => registers.to_owned(),
            Role::PositionEmbeddings => "pos_embed".to_owned(),
            Role::PatchWeight => "patch_embed.proj.weight".to_owned(),
            Role::PatchBias => "patch_embed.proj.bias".to_owned(),
            Role::NormWeight => "norm.weight".to_owned(),
            Role::NormBias => "norm.bias".to_owned(),
            Role::Block(i, part) => match block_name(part, form, dinov3) {
                Some(name) => format!("blocks.{i}.{name}"),
                None => continue,
            },
            other => panic!("{other:?}"),
        };
        tensors.insert(name, whole(weights, role));
    }
    for block in 0..vit.layers {
        pack(weights, vit, block, form, &mut tensors);
    }
    if form == Form::Meta {
        let mask = Tensor::f32([1, vit.hidden], vec![0.0; vit.hidden]);
        tensors.insert("mask_token".to_owned(), mask);
    }
    tensors
}

/// Queries, keys and values are packed.
fn block_name(part: BlockRole, form: Form, dinov3: bool) -> Option<&'static str> {
    use BlockRole as R;
    let timm = form == Form::Timm;
    Some(match part {
        R::QWeight | R::KWeight | R::VWeight | R::KBias => return None,
        R::QBias if timm && dinov3 => "attn.q_bias",
        R::VBias if timm && dinov3 => "attn.v_bias",
        R::QBias | R::VBias => return None,
        R::Norm1Weight => "norm1.weight",
        R::Norm1Bias => "norm1.bias",
        R::ProjWeight => "attn.proj.weight",
        R::ProjBias => "attn.proj.bias",
        R::Scale1 if timm && dinov3 => "gamma_1",
        R::Scale1 => "ls1.gamma",
        R::Norm2Weight => "norm2.weight",
        R::Norm2Bias => "norm2.bias",
        R::GateUpWeight if timm => "mlp.fc1.weight",
        R::GateUpBias if timm => "mlp.fc1.bias",
        R::GateUpWeight => "mlp.w12.weight",
        R::GateUpBias => "mlp.w12.bias",
        R::GateWeight if timm => "mlp.fc1_g.weight",
        R::GateBias if timm => "mlp.fc1_g.bias",
        R::GateWeight => "mlp.w1.weight",
        R::GateBias => "mlp.w1.bias",
        R::UpWeight => "mlp.up.weight",
        R::UpBias => "mlp.up.bias",
        R::DownWeight => "mlp.down.weight",
        R::DownBias => "mlp.down.bias",
        R::Scale2 if timm && dinov3 => "gamma_2",
        R::Scale2 => "ls2.gamma",
    })
}

/// Packs queries, keys and values, and gives the layers of the feed-forward network the names that depend on its form.
fn pack(weights: &Weights, vit: &VitSpec, block: usize, form: Form, tensors: &mut Tensors) {
    use BlockRole as R;
    let role = |part| Role::Block(block, part);
    let name = |part: &str| format!("blocks.{block}.{part}");
    let d = vit.hidden;
    let values = |parts: [R; 3]| -> Vec<f32> {
        let third = |part| match weights.has(role(part)) {
            true => weights.get(role(part)).to_vec(),
            // What a masked key bias holds doesn't matter.
            false => vec![9.0; d],
        };
        parts.into_iter().flat_map(third).collect()
    };
    let packed = values([R::QWeight, R::KWeight, R::VWeight]);
    tensors.insert(name("attn.qkv.weight"), Tensor::f32([3 * d, d], packed));
    let apart = tensors.contains_key(&name("attn.q_bias"));
    if vit.q_bias && !apart {
        let bias = values([R::QBias, R::KBias, R::VBias]);
        tensors.insert(name("attn.qkv.bias"), Tensor::f32([3 * d], bias));
        if !vit.k_bias {
            let mask = [vec![1.0; d], vec![0.0; d], vec![1.0; d]].concat();
            tensors.insert(name("attn.qkv.bias_mask"), Tensor::f32([3 * d], mask));
        }
    }
    let gated = weights.has(role(R::GateWeight));
    let (up, down) = match (form, gated) {
        (Form::Meta, true) => ("w2", "w3"),
        (Form::Timm, true) => ("fc1_x", "fc2"),
        (Form::Meta, false) if weights.has(role(R::GateUpWeight)) => ("", "w3"),
        (_, false) => ("fc1", "fc2"),
    };
    for (from, to) in [("up", up), ("down", down)] {
        for kind in ["weight", "bias"] {
            if let Some(tensor) = tensors.remove(&name(&format!("mlp.{from}.{kind}"))) {
                tensors.insert(name(&format!("mlp.{to}.{kind}")), tensor);
            }
        }
    }
}

fn convnext_renamed(weights: &Weights, spec: &ConvNextSpec, form: Form) -> Tensors {
    let table = weights.spec().tensors();
    let rename = |name: &str| -> String {
        let parts: Vec<_> = name.split('.').collect();
        match (&parts[..], form) {
            (["layer_norm", kind], Form::Meta) => format!("norm.{kind}"),
            (["layer_norm", kind], Form::Timm) => format!("head.norm.{kind}"),
            (["stages", s, "downsample_layers", i, kind], Form::Meta) => {
                format!("downsample_layers.{s}.{i}.{kind}")
            }
            (["stages", "0", "downsample_layers", i, kind], Form::Timm) => {
                format!("stem.{i}.{kind}")
            }
            (["stages", s, "downsample_layers", i, kind], Form::Timm) => {
                format!("stages.{s}.downsample.{i}.{kind}")
            }
            (["stages", s, "layers", l, rest @ ..], form) => {
                let names = [
                    ("depthwise_conv", "dwconv", "conv_dw"),
                    ("layer_norm", "norm", "norm"),
                    ("pointwise_conv1", "pwconv1", "mlp.fc1"),
                    ("pointwise_conv2", "pwconv2", "mlp.fc2"),
                    ("gamma", "gamma", "gamma"),
                ];
                let found = names.into_iter().find(|(name, ..)| *name == rest[0]);
                let (_, meta, timm) = found.unwrap();
                let blocks = if form == Form::Timm { "blocks." } else { "" };
                let part = if form == Form::Timm { timm } else { meta };
                let kind: String = rest[1..].iter().map(|kind| format!(".{kind}")).collect();
                format!("stages.{s}.{blocks}{l}.{part}{kind}")
            }
            (other, _) => panic!("{other:?}"),
        }
    };
    let mut tensors: Tensors = table
        .into_iter()
        .map(|t| (rename(&t.name), whole(weights, t.role)))
        .collect();
    if form == Form::Meta {
        let last = spec.widths.len() - 1;
        let norm = Tensor::f32([spec.hidden()], vec![1.0; spec.hidden()]);
        tensors.insert(format!("norms.{last}.weight"), norm);
    }
    tensors
}

fn import_tensors(tensors: &Tensors, wanted: Option<&BackboneSpec>) -> Result<ImportReport> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.bin");
    tensors::save(&file, tensors, &BTreeMap::new()).unwrap();
    import(&file, &dir.path().join("out"), wanted)
}

const GOLDENS: [&str; 5] = [
    "dinov2",
    "dinov2-registers-swiglu",
    "dinov3-vit-mlp",
    "dinov3-vit-swiglu",
    "dinov3-convnext",
];

#[test]
fn other_names_give_the_backbone_back() {
    for golden_name in GOLDENS {
        let weights = golden(golden_name);
        for form in [Form::Meta, Form::Timm] {
            for prefix in ["", "teacher.backbone."] {
                let mut tensors: Tensors = renamed(&weights, form)
                    .into_iter()
                    .map(|(name, tensor)| (format!("{prefix}{name}"), tensor))
                    .collect();
                let beside = (!prefix.is_empty()).then_some("teacher.head.weight");
                if let Some(name) = beside {
                    tensors.insert(name.to_owned(), Tensor::f32([1], vec![1.0]));
                }
                let report = import_tensors(&tensors, Some(weights.spec()));
                let report =
                    report.unwrap_or_else(|error| panic!("{golden_name} {form:?}: {error}"));
                assert_eq!(report.backbone, weights.digest(), "{golden_name} {form:?}");
                assert_eq!(report.tensors, weights.spec().tensors().len());
                let left_out = |name| report.left_out.iter().any(|left| left == name);
                assert!(beside.is_none_or(left_out), "{:?}", report.left_out);
            }
        }
    }
}

#[test]
fn hugging_faces_own_names_are_a_form_too() {
    for name in GOLDENS {
        let weights = golden(name);
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones");
        let out = tempfile::tempdir().unwrap();
        let file = goldens.join(name).join("model.safetensors");
        let report = import(&file, out.path(), Some(weights.spec())).unwrap();
        assert_eq!(report.backbone, weights.digest(), "{name}");
        assert_eq!(report.format, "safetensors");
    }
}

#[test]
fn so_are_the_names_of_transformers_5() {
    for name in ["dinov2", "dinov2-registers-swiglu"] {
        let weights = golden(name);
        let spec = weights.spec();
        let new = spec.renamed_tensors();
        assert!(
            new.iter()
                .any(|t| t.name.ends_with("attention.q_proj.weight"))
        );
        let is_old = |role: Role| new.iter().any(|t| t.role == role);
        let mut tensors = Tensors::new();
        for TensorSpec { role, name, shape } in spec.tensors() {
            if !is_old(role) {
                tensors.insert(name, Tensor::f32(shape, weights.get(role).to_vec()));
            }
        }
        for t in &new {
            let row: usize = t.shape[1..].iter().product();
            let values = &weights.get(t.role)[t.first_row * row..][..t.shape[0] * row];
            tensors.insert(
                t.name.clone(),
                Tensor::f32(t.shape.clone(), values.to_vec()),
            );
        }
        let report = import_tensors(&tensors, Some(spec)).unwrap();
        assert_eq!(report.backbone, weights.digest(), "{name}");
        let lost = new.iter().rfind(|t| t.first_row > 0).unwrap_or(&new[0]);
        tensors.remove(&lost.name).unwrap();
        let error = import_tensors(&tensors, Some(spec))
            .unwrap_err()
            .to_string();
        assert!(error.contains("all of it under the names"), "{error}");
    }
}

/// What is no backbone leaves the one that is there alone, and none half-made.
#[test]
fn weights_that_are_not_finite_replace_nothing() {
    let good = golden("dinov2");
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    import(
        &goldens.join("dinov2/model.safetensors"),
        &out,
        Some(good.spec()),
    )
    .unwrap();
    let weights = golden("dinov3-vit-mlp");
    for (value, told) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut tensors = renamed(&weights, Form::Timm);
        let d = weights.spec().hidden();
        let mut norm = vec![1.0; d];
        norm[3] = value;
        tensors.insert("norm.weight".to_owned(), Tensor::f32([d], norm));
        let file = dir.path().join("broken.safetensors");
        tensors::save(&file, &tensors, &BTreeMap::new()).unwrap();
        for out in [&out, &dir.path().join("new")] {
            let error = import(&file, out, Some(weights.spec())).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("broken.safetensors")
                    && error.contains(&format!("holds {told} at index 3")),
                "{error}"
            );
        }
        assert!(!dir.path().join("new").exists());
        assert_eq!(Weights::open(&out).unwrap().digest(), good.digest());
    }
}

/// timm adds the class token's position to the class token when there are registers.
#[test]
fn a_position_table_without_the_class_token_gets_a_row_of_zeros() {
    let weights = golden("dinov2-registers-swiglu");
    let mut tensors = renamed(&weights, Form::Timm);
    let d = weights.spec().hidden();
    let table = weights.get(Role::PositionEmbeddings);
    let rows = table.len() / d;
    tensors.insert(
        "pos_embed".to_owned(),
        Tensor::f32([1, rows - 1, d], table[d..].to_vec()),
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("timm.safetensors");
    tensors::save(&file, &tensors, &BTreeMap::new()).unwrap();
    import(&file, dir.path(), Some(weights.spec())).unwrap();
    let got = Weights::open(dir.path()).unwrap();
    let got = got.get(Role::PositionEmbeddings);
    assert!(got[..d].iter().all(|x| x.to_bits() == 0));
    assert_eq!(got[d..], table[d..]);
}

#[test]
fn biases_that_the_file_lacks_are_not_in_the_backbone() {
    let weights = golden("dinov3-vit-mlp");
    let mut tensors = renamed(&weights, Form::Timm);
    tensors.retain(|name, _| !name.ends_with("q_bias") && !name.ends_with("v_bias"));
    let report = import_tensors(&tensors, Some(weights.spec())).unwrap();
    let BackboneSpec::Vit(vit) = report.spec else {
        panic!("a vision transformer");
    };
    assert!(!vit.q_bias && !vit.k_bias && !vit.v_bias && vit.proj_bias && vit.ffn_bias);
}

/// Shapes of published backbones are found among the presets, in each form; with and without biases.
#[test]
fn published_backbones_are_recognised_by_their_shapes() {
    let path = Path::new("x");
    for (name, _) in PRESETS {
        let spec = preset(name).unwrap();
        let shapes: BTreeMap<_, _> = spec
            .tensors()
            .into_iter()
            .map(|t| (t.name, t.shape))
            .collect();
        let plan = assemble::plan(path, &shapes, None).unwrap();
        assert_eq!(plan.spec, spec, "{name}");
        let mut other = shapes;
        other.pop_last();
        let error = assemble::plan(path, &other, None).unwrap_err().to_string();
        assert!(
            error.contains("--config") && error.contains(name),
            "{error}"
        );
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let weights = golden("dinov3-vit-mlp");
    let meta = renamed(&weights, Form::Meta);
    let with = |name: &str, tensor: Tensor| {
        let mut tensors = meta.clone();
        tensors.insert(name.to_owned(), tensor);
        tensors
    };
    let without = |name: &str| {
        let mut tensors = meta.clone();
        tensors.remove(name).unwrap();
        tensors
    };
    let cases = [
        (
            without("blocks.1.mlp.fc2.bias"),
            "`layer.1.mlp.down_proj.bias` is missing",
        ),
        (without("cls_token"), "this is no dinov3_vit backbone"),
        (
            without("blocks.0.attn.qkv.bias_mask"),
            "gives the keys a bias",
        ),
        (
            with(
                "blocks.0.attn.qkv.bias_mask",
                Tensor::f32([96], vec![1.0; 96]),
            ),
            "bias_mask` gives the keys a bias",
        ),
        (
            with(
                "blocks.0.attn.qkv.weight",
                Tensor::f32([32, 32], vec![0.0; 1024]),
            ),
            "has shape [32, 32], expected [96, 32]",
        ),
        (
            with("blocks.0.gamma_1", Tensor::f32([32], vec![0.0; 32])),
            "are the same part of the backbone",
        ),
        (
            with("blocks.2.norm1.weight", Tensor::f32([32], vec![0.0; 32])),
            "`blocks.2.norm1.weight` is not part of",
        ),
        (
            with("pos_embed", Tensor::f32([1], vec![0.0])),
            "`pos_embed` is not part of",
        ),
        (
            with("student.cls_token", Tensor::f32([1], vec![0.0])),
            "2 tensors are named `…cls_token`",
        ),
        (
            with("norm.bias", Tensor::f32([32], vec![f32::INFINITY; 32])),
            "holds inf",
        ),
    ];
    for (tensors, want) in cases {
        let error = import_tensors(&tensors, Some(weights.spec()));
        let error = error.expect_err(want).to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
}

#[test]
fn files_of_pytorch_are_told_from_others_by_content() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let out = tempfile::tempdir().unwrap();
    let spec = preset("dinov3-vits16");
    let cases = [
        ("tensors.pth", "no tensor is named"),
        ("tensors-legacy.pth", "no tensor is named"),
        ("command.pth", "nothing is executed"),
        ("make.py", "neither a file of torch.save"),
    ];
    for (name, want) in cases {
        let file = data.join(name);
        let error = import(&file, out.path(), spec.as_ref())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(want) && error.contains(name),
            "{name}: {error}"
        );
        assert!(!out.path().join("config.json").exists());
    }
}
