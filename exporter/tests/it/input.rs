//! Models that take grey levels: the same answers as those that take normalised planes, in every precision and form.

use crate::{
    classifier::{SHAPE, Trained},
    goldens::Suite,
    precision::check,
    support::{Opener, Ort, golden_backbones, normalisation, numbers, relative_error},
};
use stage1_core::{
    artifact::tensors::TensorFile,
    model::{Features, HeadKind, Weights},
    preprocess::{Arithmetic, Normalisation, PixelFormat},
};
use stage1_exporter::{
    Attention, Error, Form, Input, Int8Options, Sample, export_embedding, export_embedding_as,
    fp16, inspect, int8,
};
use std::{num::NonZero, path::Path};

pub(crate) fn levels(count: usize, seed: u64) -> Vec<u8> {
    let level = |x: f32| ((x + 1.0) * 127.5).round() as u8;
    numbers(count, seed).into_iter().map(level).collect()
}

/// `[n, H, W, 3]` to normalised `[n, 3, H, W]`.
pub(crate) fn normalised(levels: &[u8], [_, _, height, width]: [usize; 4]) -> Vec<f32> {
    let pixels = height * width;
    let mut planes = vec![0.0; levels.len()];
    for (i, pixel) in levels.as_chunks::<3>().0.iter().enumerate() {
        let values = normalisation().apply(pixel.map(f32::from));
        for (channel, value) in values.into_iter().enumerate() {
            planes[(i / pixels * 3 + channel) * pixels + i % pixels] = value;
        }
    }
    planes
}

fn of_levels() -> Form {
    Form {
        input: Input::Uint8(normalisation()),
        ..Form::default()
    }
}

/// A trained head whose pictures are whole grey levels.
fn trained(name: &str, features: Features) -> Trained {
    let mut trained = Trained::new(name, HeadKind::Linear, features);
    trained.checkpoint.preprocess.arithmetic = Arithmetic::Uint8;
    trained.pixels = normalised(&levels(SHAPE.iter().product(), 99), SHAPE);
    trained
}

#[test]
fn every_golden_backbone_answers_to_bytes_as_to_normalised_planes() {
    let is_case = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name == "cases.safetensors")
            && !path.starts_with("adapters")
    };
    let mut suite = Suite::discover("backbones of bytes", "backbones", is_case, &[]);
    for path in suite.paths() {
        suite.mark_used(&path);
        let dir = path.parent().expect("a folder");
        let Ok(weights) = Weights::open(dir) else {
            panic!("{}: a golden backbone", dir.display());
        };
        let shapes = TensorFile::open(&path).and_then(|file| file.shapes());
        for (name, shape) in shapes.expect("golden cases") {
            if name.ends_with(".pixel_values") {
                let shape: [usize; 4] = shape.try_into().expect("[N, 3, H, W]");
                compare(&weights, shape, &format!("{} {name}", dir.display()));
            }
        }
    }
    suite.finish();
}

fn compare(weights: &Weights, shape: [usize; 4], name: &str) {
    let [n, _, height, width] = shape;
    let levels = levels(shape.iter().product(), 11);
    let names = ["tokens", "features"];
    let plain = export_embedding(weights, height, width).expect("exported");
    let bytes = export_embedding_as(weights, height, width, &of_levels()).expect("exported");
    let want = Ort::new(&plain.model).outputs(&normalised(&levels, shape), shape, &names);
    let shape = PixelFormat::Uint8.shape(n, height, width);
    let got = Ort::new(&bytes.model).outputs_of_levels(&levels, shape, &names);
    for (output, (got, want)) in names.iter().zip(got.iter().zip(&want)) {
        let error = relative_error(got, want);
        assert!(error <= 1e-5, "{name} {output}: {error:e}");
    }
    let [plain, bytes] = [plain, bytes].map(|model| inspect(&model.model).expect("a model"));
    assert_eq!(bytes.flops_per_image, plain.flops_per_image, "{name}");
    assert_eq!(bytes.parameters, plain.parameters, "{name}");
    assert_eq!(bytes.nodes["Cast"], 1, "{name}");
    let folded = |list: &[String]| list.iter().any(|line| line.contains("normalisation"));
    assert!(folded(&bytes.folded) && !folded(&plain.folded), "{name}");
}

/// Bytes, and a fixed number of images, through parity and through the other precisions.
#[test]
fn every_precision_takes_bytes_and_fixed_batches() {
    let pixels = normalised(&levels(4 * SHAPE.iter().product::<usize>(), 7), SHAPE);
    let sample = Sample::new(&pixels, [SHAPE[1], SHAPE[2], SHAPE[3]]).expect("a sample");
    let options = Int8Options {
        weight_bits: 8,
        max_error: 0.5,
    };
    for name in golden_backbones() {
        let trained = trained(&name, Features::Cls);
        for batch in [0, 3] {
            let form = Form {
                batch: NonZero::new(batch),
                ..of_levels()
            };
            let model = trained.export_as(&form).expect("exported");
            let opener = &mut Opener::default();
            let half = fp16(&model, sample, opener, Attention::Half).expect("fp16");
            let int8 = int8(&model, sample, opener, options).expect("int8");
            assert!(half.half > 0 && !int8.quantised.is_empty(), "{name}");
            for (made, tolerance) in [(&model, 1e-5), (&half.model, 5e-3), (&int8.model, 0.1)] {
                let parity = check(&trained, made, tolerance);
                assert!(parity.passed, "{name}, {batch}, {tolerance}: {parity:?}");
                let got = Ort::new(&made.model).batch();
                assert_eq!(got, form.batch.map(NonZero::get), "{name}");
            }
        }
    }
}

/// What is made of a model for a fixed number of images is what is made of one for any number.
#[test]
fn a_fixed_batch_changes_no_other_precision() {
    let pixels = normalised(&levels(4 * SHAPE.iter().product::<usize>(), 7), SHAPE);
    let sample = Sample::new(&pixels, [SHAPE[1], SHAPE[2], SHAPE[3]]).expect("a sample");
    let trained = trained("dinov3-vit-mlp", Features::ClsMeanPatch);
    let options = Int8Options {
        weight_bits: 7,
        max_error: 0.02,
    };
    let [any, three] = [0, 3].map(|batch| {
        let form = Form {
            batch: NonZero::new(batch),
            ..Form::default()
        };
        let model = trained.export_as(&form).expect("exported");
        let made = int8(&model, sample, &mut Opener::default(), options).expect("int8");
        (made.quantised, made.kept, made.error)
    });
    assert_eq!(any, three);
}

#[test]
fn bytes_that_the_preprocessing_does_not_make_are_refused() {
    let trained = trained("dinov2", Features::Cls);
    let other = Form {
        input: Input::Uint8(Normalisation::new([0.5; 3], [0.5; 3])),
        ..Form::default()
    };
    let error = trained
        .export_as(&other)
        .expect_err("another normalisation");
    assert!(matches!(error, Error::Normalisation { .. }), "{error}");
    let floats = Trained::new("dinov2", HeadKind::Linear, Features::Cls);
    let error = floats.export_as(&of_levels()).expect_err("floats");
    assert!(
        error.to_string().contains("preprocess.arithmetic"),
        "{error}"
    );
}
