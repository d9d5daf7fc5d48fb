//! The golden pictures: every case of every `cases.safetensors` against the pipeline that its name spells out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use stage1_core::preprocess::{
    Arithmetic, CentreCrop, CropRounding, Decode, Filter, IMAGENET_MEAN, IMAGENET_STD, Limits,
    PreprocessSpec, Preprocessor, Resize, RgbImage, decode_file,
};

use crate::goldens::Suite;

const PICTURES: [&str; 10] = [
    "bmp", "gif", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp",
];

#[test]
fn pipelines_agree_with_the_references() {
    let mut suite = Suite::discover("preprocess", "preprocess", is_golden, &[]);
    let (tables, pictures): (Vec<_>, Vec<_>) =
        suite.paths().into_iter().partition(|path| is_table(path));
    let pictures: BTreeMap<_, _> = pictures.into_iter().map(Picture::open).collect();
    let mut failures = Vec::new();
    for table in tables {
        let bytes = fs::read(&table).expect("readable");
        let cases = SafeTensors::deserialize(&bytes).expect("safetensors");
        let has_picture = |case: &&str| pictures.contains_key(&picture_stem(&table, case));
        suite.expand(&table, cases.names().into_iter().filter(has_picture));
        for (case, expected) in cases.iter() {
            let Some(picture) = pictures.get(&picture_stem(&table, case)) else {
                continue; // A subset of the goldens without this picture.
            };
            let Some(pipeline) = Pipeline::parse(case) else {
                continue; // Stays unused, and so fails the suite.
            };
            suite.mark_case(&table, case);
            if let Err(failure) = pipeline.check(picture, expected.dtype(), expected.data()) {
                failures.push(format!("{case}: {failure}"));
            }
        }
    }
    for picture in pictures.values() {
        suite.mark_used(&picture.path);
    }
    assert!(failures.is_empty(), "{failures:#?}");
    suite.finish();
}

fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "safetensors")
}

fn is_golden(path: &Path) -> bool {
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    is_table(path) || PICTURES.contains(&&*extension.to_lowercase())
}

/// The path without extension of the picture of `<stem>/<pipeline>` in `table`.
fn picture_stem(table: &Path, case: &str) -> PathBuf {
    let stem = case.rsplit_once('/').map_or(case, |pair| pair.0);
    table.with_file_name(stem)
}

struct Picture {
    path: PathBuf,
    image: RgbImage,
    /// Decoders of this format may differ by a few levels.
    lossy: bool,
}

impl Picture {
    fn open(path: PathBuf) -> (PathBuf, Self) {
        let image = decode_file(&path, Limits::default()).expect("the golden pictures are sound");
        let extension = path.extension().expect("matched by it");
        let lossy = ["jpg", "jpeg", "webp"]
            .iter()
            .any(|e| extension.eq_ignore_ascii_case(e));
        (path.with_extension(""), Self { path, image, lossy })
    }
}

/// A pipeline as its name spells it, e.g. `torchvision.pil.short64.bicubic.center56`.
struct Pipeline {
    spec: PreprocessSpec,
}

impl Pipeline {
    fn parse(case: &str) -> Option<Self> {
        let words: Vec<_> = case.rsplit_once('/')?.1.split('.').collect();
        let exact = |word: &str| {
            let (height, width) = size(word.strip_prefix("square")?)?;
            Some(Resize::Exact { height, width })
        };
        let short = |word: &str| {
            let size = word.strip_prefix("short")?.parse().ok()?;
            Some(Resize::ShortSide { size })
        };
        let crop = |word: &str, rounding| {
            let (height, width) = size(word.strip_prefix("center")?)?;
            Some(CentreCrop {
                height,
                width,
                rounding,
            })
        };
        let levels = |resize, f, crop| spec(resize, f, Arithmetic::Pillow, crop, Normalise::Levels);
        let spec = match *words.as_slice() {
            ["pillow", square, f] => levels(exact(square)?, filter(f)?, None),
            ["torchvision", "pil", side, f, centre] => {
                let crop = crop(centre, CropRounding::HalfEven)?;
                levels(short(side)?, filter(f)?, Some(crop))
            }
            ["torchvision", "float", square, f, "imagenet"] => spec(
                exact(square)?,
                filter(f)?,
                Arithmetic::Float32,
                None,
                Normalise::ImageNet,
            ),
            ["hf", "dinov3", square] => {
                let Resize::Exact { height, width } = exact(square)? else {
                    return None;
                };
                PreprocessSpec::dinov3(height, width)
            }
            ["hf", "dinov2", side, "bicubic", centre] => {
                let Resize::ShortSide { size } = short(side)? else {
                    return None;
                };
                let crop = crop(centre, CropRounding::Floor)?;
                PreprocessSpec::dinov2(size, crop.height, crop.width)
            }
            _ => return None,
        };
        Some(Self { spec })
    }

    fn check(&self, picture: &Picture, dtype: Dtype, expected: &[u8]) -> Result<(), String> {
        let mut preprocessor = Preprocessor::new(self.spec.clone()).map_err(|e| e.to_string())?;
        let (got, want, unit) = match dtype {
            Dtype::U8 => {
                let image = preprocessor
                    .resized_u8(&picture.image)
                    .map_err(|e| e.to_string())?;
                let want = expected.iter().map(|&level| f32::from(level)).collect();
                (planes(&image), want, 1.0)
            }
            Dtype::F32 => {
                let got = preprocessor
                    .run(&picture.image)
                    .map_err(|e| e.to_string())?;
                let want: Vec<_> = expected
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| f32::from_le_bytes(*b))
                    .collect();
                (got, want, FLOAT_TOLERANCE)
            }
            other => return Err(format!("unexpected dtype {other:?}")),
        };
        compare(&got, &want, unit, picture.lossy)
    }
}

/// A grey level of the channel with the smallest deviation, normalised, is 0.0175: a pipeline that rounds to grey levels must
/// hit each of them within one.
const FLOAT_TOLERANCE: f32 = 2e-2;

/// Decoders of lossy formats round in their own ways: over the 58 JPEG files of Pillow's test suite, ours and libjpeg-turbo
/// differ by at most 4 levels in a pixel and 0.4 in the mean of a picture, before any resizing.
const LOSSY_LEVELS: f32 = 4.0;
const LOSSY_MEAN_LEVELS: f32 = 0.5;

/// Lossless pictures agree within `unit` (one grey level, or its normalised size).
fn compare(got: &[f32], want: &[f32], unit: f32, lossy: bool) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} values, expected {}", got.len(), want.len()));
    }
    let differences = || got.iter().zip(want).map(|(a, b)| (a - b).abs());
    let largest = differences().fold(0.0, f32::max);
    let mean = differences().sum::<f32>() / got.len() as f32;
    let (max_allowed, mean_allowed) = if lossy {
        (LOSSY_LEVELS * unit, LOSSY_MEAN_LEVELS * unit)
    } else {
        (unit, unit)
    };
    if largest <= max_allowed && mean <= mean_allowed {
        return Ok(());
    }
    Err(format!(
        "largest difference {largest} (allowed {max_allowed}), mean {mean} (allowed {mean_allowed})"
    ))
}

/// The values of a picture in the order of the goldens, `[3, height, width]`.
fn planes(image: &RgbImage) -> Vec<f32> {
    let channel = |c: usize| image.pixels().map(move |pixel| f32::from(pixel.0[c]));
    (0..3).flat_map(channel).collect()
}

enum Normalise {
    Levels,
    ImageNet,
}

fn spec(
    resize: Resize,
    filter: Filter,
    arithmetic: Arithmetic,
    crop: Option<CentreCrop>,
    normalise: Normalise,
) -> PreprocessSpec {
    let (mean, std) = match normalise {
        Normalise::Levels => ([0.0; 3], [1.0; 3]),
        Normalise::ImageNet => (IMAGENET_MEAN, IMAGENET_STD),
    };
    PreprocessSpec {
        decode: Decode::Full,
        resize,
        filter,
        arithmetic,
        crop,
        mean,
        std,
    }
}

/// `56` or `56x48` as (height, width).
fn size(text: &str) -> Option<(u32, u32)> {
    let (height, width) = text.split_once('x').unwrap_or((text, text));
    Some((height.parse().ok()?, width.parse().ok()?))
}

fn filter(name: &str) -> Option<Filter> {
    match name {
        "bilinear" => Some(Filter::Bilinear),
        "bicubic" => Some(Filter::Bicubic),
        _ => None,
    }
}
