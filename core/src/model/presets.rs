use super::{BackboneSpec, hf_config};
use std::path::Path;

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../models/presets/", $name, ".json")))),*]
    };
}

/// The published backbones: their names, and their configurations as Hugging Face writes them (`models/presets/`).
pub const PRESETS: [(&str, &str); 18] = presets![
    "dinov2-small",
    "dinov2-base",
    "dinov2-large",
    "dinov2-giant",
    "dinov2-with-registers-small",
    "dinov2-with-registers-base",
    "dinov2-with-registers-large",
    "dinov2-with-registers-giant",
    "dinov3-vits16",
    "dinov3-vits16plus",
    "dinov3-vitb16",
    "dinov3-vitl16",
    "dinov3-vith16plus",
    "dinov3-vit7b16",
    "dinov3-convnext-tiny",
    "dinov3-convnext-small",
    "dinov3-convnext-base",
    "dinov3-convnext-large",
];

/// A published backbone's architecture, by its name in [`PRESETS`].
pub fn preset(name: &str) -> Option<BackboneSpec> {
    let (name, json) = PRESETS.iter().find(|(preset, _)| *preset == name)?;
    let path = Path::new("models/presets").join(format!("{name}.json"));
    Some(hf_config::parse(json.as_bytes(), &path).expect("a preset is a valid configuration"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ConvNextSpec, VitSpec};
    use std::fs;

    /// Counts of transformers 5.23 (`sum(p.numel() for p in model.parameters())`), equal to the published ones (DINOv3
    /// ViT: the second number of each pair in the paper's models as Hugging Face has them; ConvNeXt: 29, 50, 89 and 198
    /// million with the 1000-class head, which a backbone lacks).
    const PUBLISHED: [(&str, usize); 18] = [
        ("dinov2-small", 22_056_576),
        ("dinov2-base", 86_580_480),
        ("dinov2-large", 304_368_640),
        ("dinov2-giant", 1_136_480_768),
        ("dinov2-with-registers-small", 22_058_112),
        ("dinov2-with-registers-base", 86_583_552),
        ("dinov2-with-registers-large", 304_372_736),
        ("dinov2-with-registers-giant", 1_136_486_912),
        ("dinov3-vits16", 21_596_544),
        ("dinov3-vits16plus", 28_692_864),
        ("dinov3-vitb16", 85_660_416),
        ("dinov3-vitl16", 303_129_600),
        ("dinov3-vith16plus", 840_592_640),
        ("dinov3-vit7b16", 6_716_035_072),
        ("dinov3-convnext-tiny", 27_820_128),
        ("dinov3-convnext-small", 49_454_688),
        ("dinov3-convnext-base", 87_566_464),
        ("dinov3-convnext-large", 196_230_336),
    ];

    #[test]
    fn parameter_counts_are_the_published_ones() {
        for ((name, want), (preset_name, _)) in PUBLISHED.into_iter().zip(PRESETS) {
            assert_eq!(name, preset_name);
            let spec = preset(name).unwrap();
            // The published counts of vision transformers include the mask token, which only training uses.
            let mask = match &spec {
                BackboneSpec::Vit(VitSpec { hidden, .. }) => *hidden,
                BackboneSpec::ConvNext(_) => 0,
            };
            assert_eq!(spec.parameter_count() + mask, want, "{name}");
        }
    }

    /// ConvNeXt's published sizes (Liu et al., arXiv 2201.03545, table 9: 28.6, 50.2, 88.6 and 197.8 million) count the
    /// classifier of 1000 classes.
    #[test]
    fn convnext_with_a_classifier_has_the_size_of_its_paper() {
        for (name, want) in [
            ("tiny", 28.6),
            ("small", 50.2),
            ("base", 88.6),
            ("large", 197.8),
        ] {
            let spec = preset(&format!("dinov3-convnext-{name}")).unwrap();
            let count = spec.parameter_count() + 1000 * (spec.hidden() + 1);
            assert!((count as f64 / 1e6 - want).abs() < 0.05, "{name}: {count}");
        }
    }

    #[test]
    fn every_file_is_a_preset_and_written_as_it_is_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/presets");
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut presets: Vec<_> = PRESETS
            .map(|(name, _)| format!("{name}.json"))
            .into_iter()
            .collect();
        files.sort();
        presets.sort();
        assert_eq!(files, presets);
        for (name, _) in PRESETS {
            let spec = preset(name).unwrap();
            let written = spec.to_hf_config().to_string();
            let again = hf_config::parse(written.as_bytes(), Path::new(name)).unwrap();
            assert_eq!(again, spec, "{name}");
        }
    }

    #[test]
    fn shapes_are_those_of_the_table() {
        let vit = |name| match preset(name) {
            Some(BackboneSpec::Vit(vit)) => vit,
            other => panic!("{name}: {other:?}"),
        };
        let seven = vit("dinov3-vit7b16");
        assert_eq!((seven.head_dim(), seven.registers), (128, 4));
        assert!(!seven.q_bias && !seven.v_bias && seven.proj_bias && seven.ffn_bias);
        assert_eq!(vit("dinov3-vith16plus").head_dim(), 64);
        assert_eq!(vit("dinov2-giant").ffn_hidden, 4096);
        let Some(BackboneSpec::ConvNext(tiny)) = preset("dinov3-convnext-tiny") else {
            panic!("a ConvNeXt");
        };
        assert_eq!((tiny.stride(), ConvNextSpec::step_side(0)), (32, 4));
        assert_eq!(preset("dinov3-vith14"), None);
    }
}
