//! Other precisions of exported models on ONNX Runtime: how near they are, that an image's logits don't depend on its
//! batch, and that choices are what they are said to be.

use crate::{
    classifier::{SHAPE, Trained},
    support::{Opener, Ort, golden_backbones, normalisation, numbers},
};
use stage1_core::{
    artifact::Digest,
    bundle::Parity,
    model::{Features, HeadKind},
};
use stage1_exporter::{
    Attention, Error, Exported, Form, Int8, Int8Options, Sample, Tolerances, fp16, inspect, int8,
    parity,
};

fn exported(trained: &Trained) -> Exported {
    let model = trained.export().expect("exported");
    Exported {
        digest: Digest::of_bytes(&model),
        model,
        data: None,
    }
}

fn training_images() -> Vec<f32> {
    numbers(4 * SHAPE.iter().product::<usize>(), 7)
}

fn image() -> [usize; 3] {
    [SHAPE[1], SHAPE[2], SHAPE[3]]
}

fn quantise(model: &Exported, weight_bits: u8, max_error: f64) -> Result<Int8, Error> {
    let pixels = training_images();
    let sample = Sample::new(&pixels, image())?;
    let options = Int8Options {
        weight_bits,
        max_error,
    };
    int8(model, sample, &mut Opener::default(), options)
}

/// Parity with the reference, within `tolerance`, and with 1e-5 of the scale between batches.
pub(crate) fn check(trained: &Trained, model: &Exported, tolerance: f64) -> Parity {
    let tolerances = Tolerances {
        reference: tolerance,
        ..Tolerances::default()
    };
    parity(
        &mut Ort::new(&model.model),
        &trained.reference(),
        normalisation(),
        tolerances,
    )
    .expect("it runs")
}

#[test]
fn every_variant_of_every_family_is_near_and_independent_of_its_batch() {
    for name in golden_backbones() {
        for features in [Features::Cls, Features::ClsMeanPatch] {
            let trained = Trained::new(&name, HeadKind::Linear, features);
            let model = exported(&trained);
            let pixels = training_images();
            let sample = Sample::new(&pixels, image()).unwrap();
            let mut lowered = Vec::new();
            for attention in [Attention::Half, Attention::Single] {
                let half = fp16(&model, sample, &mut Opener::default(), attention).unwrap();
                assert!(half.half > 0, "{name}");
                lowered.push(half.half);
                assert!(half.kept.is_empty(), "{name}: {:?}", half.kept);
                assert!(half.model.model.len() < model.model.len(), "{name}");
                let parity = check(&trained, &half.model, 5e-3);
                assert!(
                    parity.passed,
                    "{name} {features:?} {attention:?}: {parity:?}"
                );
            }
            // Each block's scores, and nothing else, is what the attention's precision is about.
            let nodes = inspect(&model.model).unwrap().nodes;
            let softmax = nodes.get("Softmax").copied().unwrap_or(0);
            assert_eq!(lowered[0] - lowered[1], softmax, "{name} {features:?}");
            for (bits, tolerance) in [(8, 0.1), (7, 0.15)] {
                let int8 = quantise(&model, bits, 0.5).unwrap();
                assert!(
                    int8.error <= 0.5 && int8.error > 0.0,
                    "{name}: {}",
                    int8.error
                );
                assert!(int8.kept.is_empty(), "{name}: {:?}", int8.kept);
                let parity = check(&trained, &int8.model, tolerance);
                assert!(parity.passed, "{name} {features:?} {bits} bits: {parity:?}");
            }
        }
    }
}

#[test]
fn layers_stay_in_float32_until_the_error_holds() {
    let trained = Trained::new(&golden_backbones()[0], HeadKind::Linear, Features::Cls);
    let model = exported(&trained);
    let all = quantise(&model, 7, 1.0).unwrap();
    let half = quantise(&model, 7, 0.5 * all.error).unwrap();
    assert!(!half.kept.is_empty() && half.error <= 0.5 * all.error);
    assert_eq!(half.kept.len() + half.quantised.len(), all.quantised.len());
    assert_eq!(
        half,
        quantise(&model, 7, 0.5 * all.error).unwrap(),
        "the same again"
    );
    let refused = quantise(&model, 7, 1e-12);
    assert!(
        matches!(refused, Err(Error::NothingQuantised { .. })),
        "{refused:?}"
    );
}

#[test]
fn options_and_samples_that_mean_nothing_are_refused() {
    let trained = Trained::new(&golden_backbones()[0], HeadKind::Linear, Features::Cls);
    let model = exported(&trained);
    for (bits, error) in [(6, 0.1), (9, 0.1), (8, 0.0), (8, f64::NAN)] {
        let refused = quantise(&model, bits, error);
        assert!(
            matches!(refused, Err(Error::Option { .. })),
            "{bits} {error}"
        );
    }
    assert!(Sample::new(&[], image()).is_err());
    assert!(Sample::new(&[0.0; 5], image()).is_err());
    let broken = Exported {
        model: vec![1, 2, 3],
        ..model
    };
    assert!(matches!(quantise(&broken, 8, 0.1), Err(Error::Form { .. })));
}

/// What is made of it is the same, and has its weights outside of it, too.
#[test]
fn a_model_whose_weights_lie_outside_of_it_makes_others_of_that_kind() {
    for name in golden_backbones() {
        let trained = Trained::new(&name, HeadKind::Linear, Features::Cls);
        let inside = exported(&trained);
        let form = Form {
            external_above: 0,
            ..Form::default()
        };
        let outside = trained.export_as(&form).expect("exported");
        let data = outside.data.as_ref().expect("weights outside");
        let pixels = training_images();
        let sample = Sample::new(&pixels, image()).expect("a sample");
        let half = |model| {
            fp16(model, sample, &mut Opener::default(), Attention::Half)
                .expect("half precision")
                .model
        };
        let pairs = [
            (half(&inside), half(&outside)),
            (
                quantise(&inside, 8, 0.5).expect("int8").model,
                quantise(&outside, 8, 0.5).expect("int8").model,
            ),
        ];
        for (want, got) in pairs {
            let made = got.data.as_ref().expect("weights outside");
            assert_eq!(made.name, data.name);
            assert!(made.bytes.len() < data.bytes.len(), "{name}");
            assert!(got.model.len() < want.model.len(), "{name}");
            let told = String::from_utf8_lossy(&got.model).into_owned();
            assert!(told.contains(&made.digest.to_string()), "{name}");
            let logits =
                |model: &Exported| Ort::of(model).outputs(&trained.pixels, SHAPE, &["logits"]);
            assert_eq!(logits(&want), logits(&got), "{name}");
        }
    }
}
