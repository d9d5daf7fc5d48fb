use super::*;
use crate::model::{Ffn, VitFamily};

pub(in crate::model) fn dinov2(hidden: usize, heads: usize) -> VitSpec {
    VitSpec {
        family: VitFamily::Dinov2,
        hidden,
        layers: 12,
        heads,
        ffn: Ffn::Mlp,
        ffn_hidden: 4 * hidden,
        patch: 14,
        registers: 0,
        norm_eps: 1e-6,
        positions: Positions::Learned {
            grid: 37,
            antialias: false,
        },
        q_bias: true,
        k_bias: true,
        v_bias: true,
        proj_bias: true,
        ffn_bias: true,
    }
}

pub(in crate::model) fn dinov3(hidden: usize, heads: usize, ffn: Ffn) -> VitSpec {
    VitSpec {
        family: VitFamily::Dinov3Vit,
        ffn,
        patch: 16,
        registers: 4,
        norm_eps: 1e-5,
        positions: Positions::Rope {
            theta: 100.0,
            periods: RopePeriods::Fp32,
        },
        k_bias: false,
        ..dinov2(hidden, heads)
    }
}

pub(in crate::model) fn convnext() -> ConvNextSpec {
    ConvNextSpec {
        depths: vec![3, 3, 9, 3],
        widths: vec![96, 192, 384, 768],
        norm_eps: 1e-6,
    }
}

#[test]
fn grid_wants_whole_patches_and_names_the_nearest() {
    let vit = BackboneSpec::Vit(dinov2(384, 6));
    let convnext = BackboneSpec::ConvNext(convnext());
    assert_eq!(vit.grid(70, 98).unwrap(), (5, 7));
    assert_eq!(vit.token_count(70, 98).unwrap(), 36);
    assert_eq!(convnext.grid(64, 96).unwrap(), (2, 3));
    for (spec, (height, width), smaller, larger) in [
        (&vit, (72, 70), (70, 70), (84, 70)),
        (&vit, (5, 28), (14, 28), (14, 28)),
        (&vit, (0, 14), (14, 14), (14, 14)),
        (&convnext, (48, 64), (32, 64), (64, 64)),
    ] {
        match spec.grid(height, width) {
            Err(ModelError::ImageSize {
                smaller: s,
                larger: l,
                ..
            }) => assert_eq!((s, l), (smaller, larger)),
            other => panic!("{height}x{width}: {other:?}"),
        }
    }
}

#[test]
fn a_spec_survives_json() {
    let specs = [
        BackboneSpec::Vit(dinov2(384, 6)),
        BackboneSpec::Vit(dinov3(384, 6, Ffn::SwiGlu)),
        BackboneSpec::ConvNext(convnext()),
    ];
    for spec in specs {
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<BackboneSpec>(&json).unwrap(), spec);
    }
}

#[test]
fn a_backbone_ends_after_any_of_its_blocks() {
    let whole = BackboneSpec::Vit(dinov2(384, 6));
    let with = |spec: &BackboneSpec, blocks| spec.clone().with_blocks(blocks);
    for all in [Blocks::All, Blocks::First(12)] {
        assert_eq!(with(&whole, all).unwrap(), whole);
    }
    let (six, all) = (with(&whole, Blocks::First(6)).unwrap(), whole.tensors());
    let blocks: usize = all.iter().filter(|t| t.name.contains(".layer.6.")).count();
    assert_eq!(six.tensors().len(), all.len() - 6 * blocks);
    assert_eq!(six.tensors().last(), all.last(), "the final norm stays");
    for (count, want) in [(0, "0 blocks are to be run"), (13, "the backbone has 12")] {
        let error = with(&whole, Blocks::First(count)).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    let convnext = BackboneSpec::ConvNext(convnext());
    assert_eq!(with(&convnext, Blocks::All).unwrap(), convnext);
    let error = with(&convnext, Blocks::First(1)).unwrap_err().to_string();
    assert!(
        error.contains("dinov3_convnext backbone consists of stages"),
        "{error}"
    );
}

#[test]
fn a_number_of_blocks_is_a_number_or_null() {
    for (json, want) in [("null", Blocks::All), ("6", Blocks::First(6))] {
        assert_eq!(serde_json::from_str::<Blocks>(json).unwrap(), want);
        assert_eq!(serde_json::to_string(&want).unwrap(), json);
    }
    let error = serde_json::from_str::<Blocks>("\"last\"").unwrap_err();
    assert!(error.to_string().contains("null for all"), "{error}");
}

#[test]
fn only_rotary_positions_have_periods_to_round() {
    let rotary = BackboneSpec::Vit(dinov3(384, 6, Ffn::Mlp));
    let rounded = rotary.clone().with_rope_periods(RopePeriods::Bf16).unwrap();
    assert_ne!(rounded, rotary);
    assert_eq!(
        rounded.with_rope_periods(RopePeriods::Fp32).unwrap(),
        rotary
    );
    for spec in [
        BackboneSpec::Vit(dinov2(384, 6)),
        BackboneSpec::ConvNext(convnext()),
    ] {
        let kept = spec.clone().with_rope_periods(RopePeriods::Fp32);
        assert_eq!(kept.unwrap(), spec);
        let error = spec.with_rope_periods(RopePeriods::Bf16).unwrap_err();
        assert!(matches!(error, ModelError::NoRotaryPositions { .. }));
    }
}
