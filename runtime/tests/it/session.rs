use crate::onnx::{Input, channel_means};
use stage1_core::preprocess::{Normalisation, PixelFormat};
use stage1_runtime::{Error, OrtSession, SessionOptions};

const WEIGHTS: [[f32; 3]; 3] = [[1.0, 10.0, 0.5], [2.0, 20.0, 0.25], [3.0, 30.0, 0.125]];
const BIAS: [f32; 3] = [0.0, 1.0, 2.0];

fn open(input: &Input) -> Result<OrtSession, Error> {
    let model = channel_means(input, 2, &WEIGHTS, BIAS);
    OrtSession::from_bytes(&model, "model.onnx", &SessionOptions::default())
}

/// Two images of 2 x 2 pixels whose channel means are 1, 2, 3 and 0, 4, 0.
fn pixels() -> Vec<f32> {
    let one = [[0.0, 2.0, 1.0, 1.0], [2.0; 4], [3.0; 4]];
    let other = [[0.0; 4], [4.0; 4], [-1.0, 1.0, -2.0, 2.0]];
    [one, other].as_flattened().as_flattened().to_vec()
}

#[test]
fn outputs_are_found_by_name() {
    let mut session = open(&Input::default()).unwrap();
    let want = [14.0, 141.0, 3.375, 8.0, 81.0, 3.0];
    assert_eq!(session.run(&pixels(), [2, 3, 2, 2]).unwrap(), want);
    let named = session
        .run_named(&pixels(), [2, 3, 2, 2], &["features", "logits"])
        .unwrap();
    assert_eq!(
        (named[0].name.as_str(), &named[0].shape),
        ("features", &vec![2, 3])
    );
    assert_eq!(named[0].values, [1.0, 2.0, 3.0, 0.0, 4.0, 0.0]);
    assert_eq!(named[1].values, want);
}

/// Levels of one image, pixel by pixel, and the same in planes.
#[test]
fn grey_levels_go_in_as_bytes() {
    let mut session = open(&Input::levels()).unwrap();
    assert_eq!(session.pixels(), PixelFormat::Uint8);
    let levels = [0, 2, 3, 2, 2, 3, 1, 2, 3, 1, 2, 3];
    let shape = [1, 2, 2, 3];
    let bytes = session.run_bytes(&levels, shape, &["features"]).unwrap();
    assert_eq!(bytes[0].values, [1.0, 2.0, 3.0]);
    let planes = [0_u8, 2, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3].map(f32::from);
    let normalisation = Normalisation::new([0.0; 3], [1.0; 3]);
    let planes = planes.map(|level| level / 255.0);
    let again = session
        .run_normalised(&planes, [1, 3, 2, 2], normalisation, &["features"])
        .unwrap();
    assert_eq!(again, bytes);
    let error = session
        .run_named(&planes, [1, 3, 2, 2], &["features"])
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("uint8 `pixel_values` [any, 2, 2, 3]"),
        "{error}"
    );
    let mut floats = open(&Input::default()).unwrap();
    let error = floats.run_bytes(&levels, shape, &["features"]).unwrap_err();
    assert!(error.to_string().contains("uint8 values"), "{error}");
}

#[test]
fn the_session_says_what_it_is() {
    let session = open(&Input::default()).unwrap();
    assert_eq!(session.provider(), "cpu");
    assert!(session.provider_version().starts_with("onnxruntime 1."));
    assert_eq!(
        session.placement().keys().collect::<Vec<_>>(),
        ["CPUExecutionProvider"]
    );
    assert!(
        session.placement().values().sum::<usize>() >= 2,
        "{:?}",
        session.placement()
    );
    assert_eq!(session.input().shape, [None, Some(3), Some(2), Some(2)]);
}

#[test]
fn inputs_that_do_not_fit_are_refused_before_the_run() {
    let mut session = open(&Input::default()).unwrap();
    let cases: [(usize, [usize; 4], &str); 5] = [
        (24, [2, 3, 4, 1], "[2, 3, 4, 1]"),
        (16, [2, 2, 2, 2], "[2, 2, 2, 2]"),
        (0, [0, 3, 2, 2], "[0, 3, 2, 2]"),
        (23, [2, 3, 2, 2], "23 values"),
        (0, [1, 3, 2, 2], "0 values"),
    ];
    for (len, shape, named) in cases {
        let error = session.run(&vec![0.0; len], shape).unwrap_err();
        assert!(matches!(error, Error::Input { .. }), "{error:?}");
        assert!(error.to_string().contains(named), "{error}");
    }
    let error = session
        .run_named(&pixels(), [2, 3, 2, 2], &["tokens"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`tokens`") && error.contains("logits, features"),
        "{error}"
    );
}

#[test]
fn models_of_another_kind_are_refused() {
    let two_channels = Input {
        channels: 2,
        ..Input::default()
    };
    for input in [Input::integers(), two_channels] {
        let error = open(&input).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("one float32 tensor [N, 3, H, W]"),
            "{error}"
        );
    }
    for bytes in [
        &b""[..],
        b"not a model",
        &channel_means(&Input::default(), 2, &WEIGHTS, BIAS)[..40],
    ] {
        let error =
            OrtSession::from_bytes(bytes, "bad.onnx", &SessionOptions::default()).unwrap_err();
        assert!(error.to_string().starts_with("bad.onnx: "), "{error}");
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let model = channel_means(&Input::default(), 64, &WEIGHTS, BIAS);
    let pixels: Vec<f32> = (0..5 * 3 * 64 * 64)
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    let logits = [1, 2, 4].map(|intra_threads| {
        let options = SessionOptions {
            intra_threads,
            ..SessionOptions::default()
        };
        let mut session = OrtSession::from_bytes(&model, "model", &options).unwrap();
        session.run(&pixels, [5, 3, 64, 64]).unwrap()
    });
    assert_eq!(logits[0], logits[1]);
    assert_eq!(logits[0], logits[2]);
}
