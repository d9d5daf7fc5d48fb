//! What Meta and timm call the tensors of a backbone, by role. There is one table of Hugging Face names, in core: these
//! names lead to roles, not to other names.
//!
//! Meta's names are those of `facebookresearch/dinov2` and `dinov3`, timm's those of `vision_transformer.py` (DINOv2),
//! `eva.py` (DINOv3) and `convnext.py`.

use stage1_core::model::{
    BackboneSpec, BlockRole, ConvNextSpec, LayerRole, Role, StageRole, VitSpec,
};

/// What a tensor of another format is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// A tensor of the backbone.
    Whole(Role),
    /// Queries, keys and values of a block in one tensor, in thirds.
    Thirds([Role; 3]),
    /// Which entries of a block's packed biases count.
    BiasMask(usize),
    /// Something that the forward pass doesn't use.
    Unused,
}

/// The tensors that show where a backbone's names begin, most specific first: Hugging Face's, Meta's and timm's.
pub(super) fn anchors(spec: &BackboneSpec) -> Vec<String> {
    let hugging_face = spec.tensors().swap_remove(0).name;
    let others: &[&str] = match spec {
        BackboneSpec::Vit(_) => &["cls_token"],
        BackboneSpec::ConvNext(_) => &["downsample_layers.0.0.weight", "stem.0.weight"],
    };
    let others = others.iter().map(|name| (*name).to_owned());
    std::iter::once(hugging_face).chain(others).collect()
}

/// The meaning of a name without the prefix that a file puts before all of them.
pub(super) fn meaning(spec: &BackboneSpec, name: &str) -> Option<Meaning> {
    match spec {
        BackboneSpec::Vit(vit) => vit_meaning(vit, name),
        BackboneSpec::ConvNext(convnext) => convnext_meaning(convnext, name),
    }
}

fn vit_meaning(spec: &VitSpec, name: &str) -> Option<Meaning> {
    let role = match name {
        "cls_token" => Role::ClsToken,
        "storage_tokens" | "register_tokens" | "reg_token" => Role::RegisterTokens,
        "pos_embed" => Role::PositionEmbeddings,
        "patch_embed.proj.weight" => Role::PatchWeight,
        "patch_embed.proj.bias" => Role::PatchBias,
        "norm.weight" => Role::NormWeight,
        "norm.bias" => Role::NormBias,
        "mask_token"
        | "embeddings.mask_token"
        | "rope_embed.periods"
        | "rope.periods"
        | "local_cls_norm.weight"
        | "local_cls_norm.bias"
        | "head.weight"
        | "head.bias" => {
            return Some(Meaning::Unused);
        }
        _ => return block_meaning(spec, name),
    };
    Some(Meaning::Whole(role))
}

fn block_meaning(spec: &VitSpec, name: &str) -> Option<Meaning> {
    use BlockRole as R;
    let (index, part) = numbered(name.strip_prefix("blocks.")?)?;
    let role = |part| Role::Block(index, part);
    let packed = spec
        .packs_gate_and_up()
        .then_some((R::GateUpWeight, R::GateUpBias));
    let role = match part {
        "attn.qkv.weight" => {
            return Some(Meaning::Thirds(
                [R::QWeight, R::KWeight, R::VWeight].map(role),
            ));
        }
        "attn.qkv.bias" => {
            return Some(Meaning::Thirds([R::QBias, R::KBias, R::VBias].map(role)));
        }
        "attn.qkv.bias_mask" => return Some(Meaning::BiasMask(index)),
        "norm1.weight" => R::Norm1Weight,
        "norm1.bias" => R::Norm1Bias,
        "attn.q_bias" => R::QBias,
        "attn.k_bias" => R::KBias,
        "attn.v_bias" => R::VBias,
        "attn.proj.weight" => R::ProjWeight,
        "attn.proj.bias" => R::ProjBias,
        "ls1.gamma" | "gamma_1" => R::Scale1,
        "norm2.weight" => R::Norm2Weight,
        "norm2.bias" => R::Norm2Bias,
        // timm calls DINOv2's packed layer as it calls the first of two.
        "mlp.fc1.weight" => packed.map_or(R::UpWeight, |packed| packed.0),
        "mlp.fc1.bias" => packed.map_or(R::UpBias, |packed| packed.1),
        "mlp.w12.weight" => R::GateUpWeight,
        "mlp.w12.bias" => R::GateUpBias,
        "mlp.w1.weight" | "mlp.fc1_g.weight" => R::GateWeight,
        "mlp.w1.bias" | "mlp.fc1_g.bias" => R::GateBias,
        "mlp.w2.weight" | "mlp.fc1_x.weight" => R::UpWeight,
        "mlp.w2.bias" | "mlp.fc1_x.bias" => R::UpBias,
        "mlp.w3.weight" | "mlp.fc2.weight" => R::DownWeight,
        "mlp.w3.bias" | "mlp.fc2.bias" => R::DownBias,
        "ls2.gamma" | "gamma_2" => R::Scale2,
        _ => return None,
    };
    Some(Meaning::Whole(Role::Block(index, role)))
}

fn convnext_meaning(spec: &ConvNextSpec, name: &str) -> Option<Meaning> {
    let role = match name {
        "norm.weight" | "head.norm.weight" => Role::NormWeight,
        "norm.bias" | "head.norm.bias" => Role::NormBias,
        "head.weight" | "head.bias" | "head.fc.weight" | "head.fc.bias" => {
            return Some(Meaning::Unused);
        }
        // Meta norms the last stage's map with a second name of the final norm.
        _ if is_output_norm(spec, name) => return Some(Meaning::Unused),
        _ => step_role(name).or_else(|| layer_role(name))?,
    };
    Some(Meaning::Whole(role))
}

fn is_output_norm(spec: &ConvNextSpec, name: &str) -> bool {
    let norm = name.strip_prefix("norms.").and_then(numbered);
    matches!(norm, Some((stage, "weight" | "bias")) if stage + 1 == spec.widths.len())
}

/// `downsample_layers.<stage>.<0|1>.…`, `stem.<0|1>.…` or `stages.<stage>.downsample.<0|1>.…`.
fn step_role(name: &str) -> Option<Role> {
    let (stage, part) = if let Some(part) = name.strip_prefix("stem.") {
        (0, part)
    } else if let Some(rest) = name.strip_prefix("downsample_layers.") {
        numbered(rest)?
    } else {
        let (stage, part) = numbered(name.strip_prefix("stages.")?)?;
        (stage, part.strip_prefix("downsample.")?)
    };
    let (conv, norm) = if stage == 0 { ("0", "1") } else { ("1", "0") };
    let (layer, part) = part.split_once('.')?;
    let role = match (layer, part) {
        (layer, "weight") if layer == conv => StageRole::ConvWeight,
        (layer, "bias") if layer == conv => StageRole::ConvBias,
        (layer, "weight") if layer == norm => StageRole::NormWeight,
        (layer, "bias") if layer == norm => StageRole::NormBias,
        _ => return None,
    };
    Some(Role::Stage(stage, role))
}

/// `stages.<stage>.<layer>.…` or `stages.<stage>.blocks.<layer>.…`.
fn layer_role(name: &str) -> Option<Role> {
    use LayerRole as R;
    let (stage, rest) = numbered(name.strip_prefix("stages.")?)?;
    let (layer, part) = numbered(rest.strip_prefix("blocks.").unwrap_or(rest))?;
    let role = match part {
        "dwconv.weight" | "conv_dw.weight" => R::ConvWeight,
        "dwconv.bias" | "conv_dw.bias" => R::ConvBias,
        "norm.weight" => R::NormWeight,
        "norm.bias" => R::NormBias,
        "pwconv1.weight" | "mlp.fc1.weight" => R::UpWeight,
        "pwconv1.bias" | "mlp.fc1.bias" => R::UpBias,
        "pwconv2.weight" | "mlp.fc2.weight" => R::DownWeight,
        "pwconv2.bias" | "mlp.fc2.bias" => R::DownBias,
        "gamma" => R::Scale,
        _ => return None,
    };
    Some(Role::Layer(stage, layer, role))
}

/// `<number>.<rest>`.
fn numbered(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}
