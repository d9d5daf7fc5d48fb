use crate::model::{BackboneSpec, VitFamily};

/// The preprocessing that a backbone was published with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Published {
    /// [`PreprocessSpec::dinov3`](crate::preprocess::PreprocessSpec::dinov3) at 224 x 224.
    #[default]
    Dinov3,
    /// [`PreprocessSpec::dinov2`](crate::preprocess::PreprocessSpec::dinov2): short side 256, cropped to 224 x 224.
    Dinov2,
}

impl Published {
    /// That of a backbone's family.
    pub fn of(backbone: &BackboneSpec) -> Self {
        match backbone {
            BackboneSpec::Vit(vit) if vit.family != VitFamily::Dinov3Vit => Self::Dinov2,
            _ => Self::Dinov3,
        }
    }

    /// The lines of the template, below `preprocess:`.
    const fn yaml(self) -> &'static str {
        match self {
            Self::Dinov3 => DINOV3,
            Self::Dinov2 => DINOV2,
        }
    }
}

/// The commented default configuration that `stage1 init` writes, with the source of images, the backbone and its
/// preprocessing filled in.
pub fn template(source: &str, backbone: &str, preprocess: Published) -> String {
    let quote = |text: &str| serde_json::to_string(text).expect("a string has a JSON form");
    TEMPLATE
        .replace("$SOURCE", &quote(source))
        .replace("$BACKBONE", &quote(backbone))
        .replace("$PREPROCESS", preprocess.yaml())
}

// JSON strings are YAML strings, so that any path survives.
const TEMPLATE: &str = include_str!("template.yaml");

const DINOV3: &str = "  resize:
    exact:                  # or short_side: {size: 256}, with a crop
      height: 224           # multiples of the backbone's patch: 14 (DINOv2), 16 (DINOv3), 32 (its ConvNeXt)
      width: 224
  filter: bilinear          # or bicubic
  arithmetic: float32       # or pillow, as Pillow resizes; or uint8, as torchvision resizes uint8 tensors
  crop: null                # or {height: 224, width: 224, rounding: floor}
  # decode: scaled          # of a JPEG that is much larger, only a half, a quarter or an eighth: faster, and other pixels";

const DINOV2: &str = "  resize:
    short_side:             # or exact: {height: 224, width: 224}, without a crop
      size: 256
  filter: bicubic           # or bilinear
  arithmetic: uint8         # as torchvision resizes uint8 tensors; or pillow, as Pillow resizes; or float32
  crop:
    height: 224             # multiples of the backbone's patch: 14 (DINOv2), 16 (DINOv3), 32 (its ConvNeXt)
    width: 224
    rounding: floor         # of half a pixel of margin, as Hugging Face; or half_even, as torchvision
  # decode: scaled          # of a JPEG that is much larger, only a half, a quarter or an eighth: faster, and other pixels";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, json_schema},
        preprocess::PreprocessSpec,
    };
    use serde_json::Value;

    #[test]
    fn the_template_holds_the_defaults_and_every_key() {
        let text = template("C:\\im: ages", "weights # 1", Published::Dinov3);
        let document: Value = serde_saphyr::from_str(&text).unwrap();
        let config = Config::from_document(document.clone(), "template", &[]).unwrap();
        assert_eq!(config.data.source.to_str(), Some("C:\\im: ages"));
        assert_eq!(config.backbone.path.to_str(), Some("weights # 1"));
        let mut resolved: Value = serde_saphyr::from_str(&config.to_yaml()).unwrap();
        // Left out where it is the default.
        assert_eq!(resolved["train"]["device"], Value::Null);
        resolved["train"]["device"] = "cpu".into();
        assert_eq!(resolved["head"].get("blocks"), None);
        resolved["head"]["blocks"] = Value::Null;
        assert_eq!(
            document, resolved,
            "the template leaves out a key, or differs from a default"
        );
        assert!(json_schema()["properties"]["train"].is_object());
        let dinov2 = template("images", "weights", Published::Dinov2);
        let dinov2 = serde_saphyr::from_str(&dinov2).unwrap();
        let dinov2 = Config::from_document(dinov2, "template", &[]).unwrap();
        assert_eq!(dinov2.preprocess, PreprocessSpec::dinov2(256, 224, 224));

        let mut bare = document;
        for optional in [
            "split",
            "preprocess",
            "head",
            "train",
            "peft",
            "explora",
            "augment",
            "export",
            "calibrate",
            "validate",
            "seed",
            "threads",
            "phase",
            "run_dir",
        ] {
            bare.as_object_mut().unwrap().remove(optional);
        }
        bare["data"]
            .as_object_mut()
            .unwrap()
            .retain(|key, _| key == "source");
        assert_eq!(Config::from_document(bare, "bare", &[]).unwrap(), config);
    }
}
