//! Devices that aren't there. What they compute is checked by `scripts/gpu-check`, on a machine that has one.

use crate::fixture::Fixture;
use stage1_core::device;
use stage1_runtime::{
    Device, Error, Ladder, OrtSession, Predictor, PredictorOptions, ProviderOptions, Scorer,
    ScorerOptions, SessionOptions, init,
};

fn predictor_options(devices: &str) -> PredictorOptions {
    PredictorOptions {
        devices: devices.parse().unwrap(),
        ..PredictorOptions::default()
    }
}

/// Whether this machine has what the CUDA provider needs: then these tests have nothing to show.
fn has_cuda() -> bool {
    init(None).unwrap().compiled_providers.contains(&"cuda")
        && std::path::Path::new("/proc/driver/nvidia/version").exists()
}

#[test]
fn a_device_that_is_not_there_is_refused_with_what_is_missing() {
    if has_cuda() {
        panic!("this machine has a GPU: run scripts/gpu-check instead of these tests");
    }
    let fixture = Fixture::calibrated();
    for device in ["cuda", "tensorrt"] {
        let error = Predictor::open(&fixture.bundle(), &predictor_options(device))
            .err()
            .unwrap();
        assert!(matches!(error, Error::Provider { .. }), "{error:?}");
        let text = error.to_string();
        let names_a_package = ["onnxruntime-gpu", "nvidia-", "tensorrt-cu13"];
        assert!(
            text.contains(&format!("{device} can't be used"))
                && names_a_package.iter().any(|name| text.contains(name)),
            "{text}"
        );
    }
}

#[test]
fn a_ladder_ends_on_the_cpu_and_says_why() {
    let fixture = Fixture::calibrated();
    let options = predictor_options("tensorrt,cuda,cpu");
    let predictor = Predictor::open(&fixture.bundle(), &options).unwrap();
    let climb = predictor.scorer().climb();
    assert_eq!(climb.device, Device::Cpu);
    let failed: Vec<_> = climb.failed.iter().map(|rung| rung.device).collect();
    assert_eq!(failed, [Device::Tensorrt, Device::Cuda]);
    assert!(
        climb
            .failed
            .iter()
            .all(|rung| rung.reason.contains("can't be used")),
        "{climb:?}"
    );
    assert!(
        predictor.standing().is_certified(),
        "the CPU is what was certified"
    );
    assert_eq!(predictor.scorer().fingerprint().provider, "cpu");

    let options = ScorerOptions {
        devices: Ladder::new(vec![Device::Cuda, Device::Tensorrt]).unwrap(),
        ..ScorerOptions::default()
    };
    let error = Scorer::open(&fixture.bundle(), &options).err().unwrap();
    let text = error.to_string();
    assert!(
        matches!(error, Error::NoRung { ref failed } if failed.len() == 2),
        "{text}"
    );
    assert!(
        text.contains("  cuda: ") && text.contains("  tensorrt: "),
        "{text}"
    );
}

#[test]
fn a_damaged_bundle_is_not_a_matter_of_the_device() {
    let fixture = Fixture::calibrated();
    let model = fixture.bundle().join("variants/fp32/model.onnx");
    std::fs::write(model, b"not this").unwrap();
    let options = predictor_options("cuda,cpu");
    let error = Predictor::open(&fixture.bundle(), &options).err().unwrap();
    assert!(error.to_string().contains("digest mismatch"), "{error}");
}

#[test]
fn options_are_checked_before_anything_is_loaded() {
    let mut providers = ProviderOptions::default();
    providers
        .cuda
        .insert("use_tf23".to_owned(), device::OptionValue::Bool(true));
    let options = SessionOptions {
        providers,
        ..SessionOptions::default()
    };
    let error = OrtSession::from_bytes(b"", "model", &options).unwrap_err();
    assert!(matches!(error, Error::Device(_)), "{error:?}");
    assert!(
        error.to_string().contains("did you mean `use_tf32`?"),
        "{error}"
    );
}
