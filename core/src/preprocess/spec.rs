use super::Error;
use crate::artifact::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The channel means of ImageNet, for pixel values in 0..1.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// The channel standard deviations of ImageNet, for pixel values in 0..1.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Raised whenever the same spec yields other pixels than before: it is part of [`PreprocessSpec::digest`].
const REVISION: u32 = 1;
/// The longest side in pixels that a spec may ask for.
const MAX_SIDE: u32 = 1 << 14;

/// (width, height) in pixels.
pub(super) type Size = (u32, u32);

/// What turns an 8-bit RGB picture into a model's input: resize, crop, `(value / 255 - mean) / std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreprocessSpec {
    /// What is decoded of a JPEG. Where it is all, specs are as they were before there was a choice, and so are their digests.
    #[serde(default, skip_serializing_if = "Decode::is_full")]
    pub decode: Decode,
    /// The size that the picture is brought to.
    pub resize: Resize,
    /// The filter of the resize, always widened to the scale when shrinking ("antialias").
    pub filter: Filter,
    /// The numbers that the resize computes in.
    pub arithmetic: Arithmetic,
    /// What is cut out after the resize; nothing if absent.
    #[serde(default)]
    pub crop: Option<CentreCrop>,
    /// Subtracted per channel (red, green, blue) from values in 0..1.
    pub mean: [f32; 3],
    /// Divides each channel after the mean was subtracted.
    pub std: [f32; 3],
}

/// What is decoded of a JPEG that is much larger than its [`Resize`] asks for. Other formats are decoded whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decode {
    /// All of it.
    #[default]
    Full,
    /// A half, a quarter or an eighth of its width and height, by inverse transforms of as many coefficients: the smallest
    /// that is at least twice as wide and high as what it is resized to. Faster, and other pixels: for training as for
    /// deployment.
    Scaled,
}

impl Decode {
    /// Whether it is [`Decode::Full`].
    pub fn is_full(&self) -> bool {
        *self == Self::Full
    }
}

/// The size that a picture is brought to, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Resize {
    /// Exactly this size, whatever the picture's aspect ratio.
    Exact {
        /// Height in pixels.
        height: u32,
        /// Width in pixels.
        width: u32,
    },
    /// The shorter side has this length, the longer one follows the aspect ratio (rounded down). Needs a `crop`.
    ShortSide {
        /// Length of the shorter side in pixels.
        size: u32,
    },
}

/// A resampling filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Triangle.
    Bilinear,
    /// Catmull-Rom (a = -0.5), as Pillow and torch's antialiased resize have it.
    Bicubic,
}

/// The numbers that a resize computes in, and the order of its passes, which shows where numbers are rounded between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// Whole grey levels, rounded and clipped after the horizontal and after the vertical pass: torchvision on uint8
    /// tensors, Hugging Face's DINOv2 processor.
    Uint8,
    /// As `uint8`, but the vertical pass comes first where the height loses more than twice as many pixels as the width:
    /// Pillow 13, torchvision on PIL images. Weights have 14 bits or more where Pillow has 22: one grey level apart at most,
    /// but for bicubic enlargements by tens.
    Pillow,
    /// Floats throughout, not clipped: torchvision on float tensors, Hugging Face's DINOv3 processor.
    Float32,
}

impl Arithmetic {
    /// The size (width, height) between the passes of a resize from `source` to `target`.
    pub(super) fn between(self, source: Size, target: Size) -> Size {
        let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
        let (width, height) = (lost(source.0, target.0), lost(source.1, target.1));
        let vertical_first = self == Self::Pillow && height > 0 && height > 2 * width;
        if vertical_first {
            (source.0, target.1)
        } else {
            (target.0, source.1)
        }
    }
}

/// A window in the middle of the resized picture, which is padded with black where it is smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CentreCrop {
    /// Height in pixels.
    pub height: u32,
    /// Width in pixels.
    pub width: u32,
    /// Where the window lies when the margins can't be equal.
    pub rounding: CropRounding,
}

/// How half a pixel of margin is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CropRounding {
    /// Down: Hugging Face.
    Floor,
    /// To the even pixel: torchvision.
    HalfEven,
}

impl PreprocessSpec {
    /// Hugging Face's DINOv3 processor: exact size, bilinear, floats, ImageNet's mean and deviation.
    pub fn dinov3(height: u32, width: u32) -> Self {
        Self {
            decode: Decode::Full,
            resize: Resize::Exact { height, width },
            filter: Filter::Bilinear,
            arithmetic: Arithmetic::Float32,
            crop: None,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }

    /// Hugging Face's DINOv2 processor (`short_side` 256 and 224 x 224 as published): short side, bicubic, whole grey
    /// levels, centre crop, ImageNet's mean and deviation.
    pub fn dinov2(short_side: u32, height: u32, width: u32) -> Self {
        Self {
            decode: Decode::Full,
            resize: Resize::ShortSide { size: short_side },
            filter: Filter::Bicubic,
            arithmetic: Arithmetic::Uint8,
            crop: Some(CentreCrop {
                height,
                width,
                rounding: CropRounding::Floor,
            }),
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        }
    }

    /// (height, width) of the output, in pixels.
    ///
    /// A short-side resize without a crop, which [`PreprocessSpec::validate`] refuses, counts as square.
    pub fn output_size(&self) -> (usize, usize) {
        let (height, width) = match (self.crop, self.resize) {
            (Some(crop), _) => (crop.height, crop.width),
            (None, Resize::Exact { height, width }) => (height, width),
            (None, Resize::ShortSide { size }) => (size, size),
        };
        (height as usize, width as usize)
    }

    /// A digest of the spec and of the revision of the code behind it: equal digests mean equal pixels.
    pub fn digest(&self) -> Digest {
        Digest::of_json(&(REVISION, self))
    }

    /// Fails unless the spec can be carried out on every picture.
    ///
    /// # Errors
    /// [`Error::Spec`], naming the field: a side that is zero or above 16384, a crop that is larger than an exact size, a
    /// short-side resize without a crop, a mean that isn't finite, a deviation that isn't positive and finite.
    pub fn validate(&self) -> Result<(), Error> {
        match self.resize {
            Resize::Exact { height, width } => {
                check_side("resize.exact.height", height)?;
                check_side("resize.exact.width", width)?;
                self.check_crop_within(height, width)?;
            }
            Resize::ShortSide { size } => check_side("resize.short_side.size", size)?,
        }
        self.check_crop()?;
        self.check_normalisation()
    }

    fn check_crop(&self) -> Result<(), Error> {
        match (self.crop, self.resize) {
            (Some(crop), _) => {
                check_side("crop.height", crop.height)?;
                check_side("crop.width", crop.width)
            }
            (None, Resize::Exact { .. }) => Ok(()),
            (None, Resize::ShortSide { .. }) => Err(Error::Spec {
                field: "crop",
                got: "absent".to_owned(),
                expected: "a crop: after `short_side` pictures differ in size",
            }),
        }
    }

    fn check_crop_within(&self, height: u32, width: u32) -> Result<(), Error> {
        match self.crop {
            Some(crop) if crop.height > height || crop.width > width => Err(Error::Spec {
                field: "crop",
                got: format!("{}x{} (height x width)", crop.height, crop.width),
                expected: "at most the size in `resize.exact`",
            }),
            _ => Ok(()),
        }
    }

    fn check_normalisation(&self) -> Result<(), Error> {
        let wrong = |field, got: [f32; 3], expected| Error::Spec {
            field,
            got: format!("{got:?}"),
            expected,
        };
        if !self.mean.iter().all(|mean| mean.is_finite()) {
            return Err(wrong("mean", self.mean, "three finite numbers"));
        }
        // Normal numbers only: the reciprocal of a subnormal overflows.
        if !self.std.iter().all(|std| *std > 0.0 && std.is_normal()) {
            return Err(wrong("std", self.std, "three positive, finite numbers"));
        }
        Ok(())
    }
}

fn check_side(field: &'static str, side: u32) -> Result<(), Error> {
    if (1..=MAX_SIDE).contains(&side) {
        return Ok(());
    }
    Err(Error::Spec {
        field,
        got: side.to_string(),
        expected: "1 to 16384 pixels",
    })
}

impl Resize {
    /// The (width, height) that a picture of `width` x `height` is brought to.
    ///
    /// `None` when the longer side would not fit into 32 bits.
    pub(super) fn target(self, width: u32, height: u32) -> Option<Size> {
        let size = match self {
            Self::Exact { height, width } => return Some((width, height)),
            Self::ShortSide { size } => size,
        };
        let long = u64::from(size) * u64::from(width.max(height)) / u64::from(width.min(height));
        let long = u32::try_from(long).ok()?;
        Some(if width <= height {
            (size, long)
        } else {
            (long, size)
        })
    }
}

impl CropRounding {
    /// The first pixel of a window of `crop` pixels in `size` pixels; negative where the picture is padded.
    pub(super) fn start(self, size: u32, crop: u32) -> i64 {
        let margin = i64::from(size) - i64::from(crop);
        let half = margin / 2;
        match self {
            // Both references pad the smaller half in front: division truncates towards zero.
            _ if margin < 0 => half,
            Self::HalfEven if margin % 2 == 1 => half + half % 2,
            Self::Floor | Self::HalfEven => half,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut PreprocessSpec);

    #[test]
    fn short_side_sizes_are_those_of_torchvision() {
        let cases = [
            ((451, 300), 64, (96, 64)),
            ((640, 427), 64, (95, 64)),
            ((427, 640), 64, (64, 95)),
            ((33, 33), 256, (256, 256)),
            ((1, 7), 10, (10, 70)),
        ];
        for ((width, height), size, want) in cases {
            let got = Resize::ShortSide { size }.target(width, height);
            assert_eq!(got, Some(want), "{width}x{height} to {size}");
        }
        assert_eq!(Resize::ShortSide { size: 16_384 }.target(1, u32::MAX), None);
    }

    #[test]
    fn crop_windows_are_those_of_the_references() {
        // (size, crop, floor, half even): Python's int(x / 2) and round(x / 2), and both libraries' padding.
        let cases = [
            (96, 56, 20, 20),
            (95, 56, 19, 20),
            (97, 56, 20, 20),
            (57, 56, 0, 0),
            (59, 56, 1, 2),
            (56, 56, 0, 0),
            (55, 56, 0, 0),
            (53, 56, -1, -1),
            (52, 56, -2, -2),
        ];
        for (size, crop, floor, even) in cases {
            assert_eq!(
                CropRounding::Floor.start(size, crop),
                floor,
                "{size} {crop}"
            );
            assert_eq!(
                CropRounding::HalfEven.start(size, crop),
                even,
                "{size} {crop}"
            );
        }
    }

    #[test]
    fn only_pillow_may_start_with_the_vertical_pass() {
        let cases = [
            ((300, 451), (56, 56), (56, 451)),
            ((100, 144), (56, 56), (56, 144)),
            ((100, 145), (56, 56), (100, 56)),
            ((100, 149), (56, 56), (100, 56)),
            ((55, 57), (56, 56), (55, 56)),
            ((40, 50), (80, 80), (80, 50)),
        ];
        for (source, target, want) in cases {
            assert_eq!(
                Arithmetic::Pillow.between(source, target),
                want,
                "{source:?}"
            );
            let other = (target.0, source.1);
            assert_eq!(Arithmetic::Uint8.between(source, target), other);
            assert_eq!(Arithmetic::Float32.between(source, target), other);
        }
    }

    #[test]
    fn json_round_trips_and_refuses_unknown_keys() {
        for spec in [
            PreprocessSpec::dinov3(224, 448),
            PreprocessSpec::dinov2(256, 224, 224),
        ] {
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<PreprocessSpec>(&json).unwrap(), spec);
            let typo = json.replace("\"crop\"", "\"crops\"");
            assert!(serde_json::from_str::<PreprocessSpec>(&typo).is_err());
        }
    }

    #[test]
    fn the_digest_follows_every_field() {
        let base = PreprocessSpec::dinov2(256, 224, 224);
        assert_eq!(base.digest(), base.clone().digest());
        let changes: [Change; 8] = [
            |s| s.decode = Decode::Scaled,
            |s| s.resize = Resize::ShortSide { size: 255 },
            |s| s.filter = Filter::Bilinear,
            |s| s.arithmetic = Arithmetic::Float32,
            |s| s.arithmetic = Arithmetic::Pillow,
            |s| s.crop.as_mut().unwrap().rounding = CropRounding::HalfEven,
            |s| s.mean[2] += 0.001,
            |s| s.std[0] += 0.001,
        ];
        for change in changes {
            let mut other = base.clone();
            change(&mut other);
            assert_ne!(other.digest(), base.digest(), "{other:?}");
        }
    }

    #[test]
    fn specs_from_before_there_was_scaled_decoding_keep_their_digest() {
        let json = serde_json::to_string(&PreprocessSpec::dinov3(224, 224)).unwrap();
        assert!(!json.contains("decode"), "{json}");
        let scaled = PreprocessSpec {
            decode: Decode::Scaled,
            ..PreprocessSpec::dinov3(224, 224)
        };
        let json = serde_json::to_string(&scaled).unwrap();
        assert!(json.starts_with(r#"{"decode":"scaled","#), "{json}");
        assert_eq!(
            serde_json::from_str::<PreprocessSpec>(&json).unwrap(),
            scaled
        );
    }

    #[test]
    fn validate_names_the_field() {
        let cases: [(&str, Change); 9] = [
            ("resize.short_side.size", |s| {
                s.resize = Resize::ShortSide { size: 0 }
            }),
            ("resize.exact.height", |s| {
                s.resize = Resize::Exact {
                    height: 0,
                    width: 9,
                }
            }),
            ("resize.exact.width", |s| {
                s.resize = Resize::Exact {
                    height: 9,
                    width: 99_999,
                }
            }),
            ("`crop`", |s| {
                s.resize = Resize::Exact {
                    height: 300,
                    width: 200,
                }
            }),
            ("`crop`", |s| s.crop = None),
            ("crop.width", |s| s.crop.as_mut().unwrap().width = 0),
            ("`mean`", |s| s.mean[1] = f32::NAN),
            ("`std`", |s| s.std[1] = 0.0),
            ("`std`", |s| s.std[1] = f32::INFINITY),
        ];
        PreprocessSpec::dinov2(256, 224, 224).validate().unwrap();
        PreprocessSpec::dinov3(1, 16_384).validate().unwrap();
        for (field, change) in cases {
            let mut spec = PreprocessSpec::dinov2(256, 224, 224);
            change(&mut spec);
            let message = spec.validate().unwrap_err().to_string();
            assert!(message.contains(field), "{message} should name {field}");
        }
    }
}
