//! Counts of exported models against the formulas of their architectures.

use crate::support::golden_backbone;
use stage1_core::model::{BackboneSpec, Ffn};
use stage1_exporter::{export_embedding, inspect};

#[test]
fn a_transformers_counts_are_those_of_its_formula() {
    let (height, width) = (32, 64);
    for name in [
        "dinov2",
        "dinov2-registers-swiglu",
        "dinov3-vit-mlp",
        "dinov3-vit-swiglu",
    ] {
        let weights = golden_backbone(name);
        let BackboneSpec::Vit(vit) = weights.spec() else {
            panic!("{name}");
        };
        let exported = export_embedding(&weights, height, width).expect("exported");
        let found = inspect(&exported.model).expect("a model");
        let patches = height * width / (vit.patch * vit.patch);
        let (t, d) = (vit.prefix_tokens() + patches, vit.hidden);
        let matrices = match vit.ffn {
            Ffn::Mlp => 2,
            Ffn::SwiGlu => 3,
        };
        let block = 4 * t * d * d + 2 * t * t * d + matrices * t * d * vit.ffn_hidden;
        let embedding = patches * d * 3 * vit.patch * vit.patch;
        let flops = 2 * (embedding + vit.layers * block);
        assert_eq!(found.flops_per_image, Some(flops as u64), "{name}");
        assert_eq!(found.nodes["Softmax"], vit.layers, "{name}");
        assert_eq!(
            found.nodes["LayerNormalization"],
            2 * vit.layers + 1,
            "{name}"
        );
        assert_eq!(found.bytes, exported.model.len() as u64);
        assert!(4 * found.parameters < found.bytes, "{name}: {found:?}");
        assert!(found.folded.iter().any(|fold| fold.contains("LayerScale")));
    }
}

#[test]
fn a_convnexts_counts_are_those_of_its_formula() {
    let weights = golden_backbone("dinov3-convnext");
    let BackboneSpec::ConvNext(spec) = weights.spec() else {
        panic!("a ConvNeXt");
    };
    let exported = export_embedding(&weights, 64, 96).expect("exported");
    let found = inspect(&exported.model).expect("a model");
    let (mut places, mut from, mut products) = (64 * 96, 3, 0);
    for (stage, (depth, width)) in spec.depths.iter().zip(&spec.widths).enumerate() {
        let side = if stage == 0 { 4 } else { 2 };
        places /= side * side;
        products += places * width * from * side * side;
        products += depth * places * width * (7 * 7 + 8 * width);
        from = *width;
    }
    assert_eq!(found.flops_per_image, Some(2 * products as u64));
}
