//! Bundles that aren't what they were: each is refused, with its file and the reason.

use crate::fixture::Fixture;
use stage1_core::{
    artifact::{Digest, Document},
    bundle::{self, Bundle, NewVariant, Recipe},
    certificate::BatchMode,
    config::Target,
};
use stage1_runtime::{Predictor, PredictorOptions};
use std::{collections::BTreeMap, fs, path::Path};

/// A calibrated bundle with a second variant, which nobody opens.
fn with_unused_variant() -> Fixture {
    let fixture = Fixture::calibrated();
    let dir = fixture.bundle();
    let open = Bundle::open(&dir).unwrap();
    let recipe = Recipe {
        schema_version: Recipe::SCHEMA_VERSION,
        source_digest: open.variant(bundle::FP32).unwrap().model.digest,
        settings_digest: Digest::of_bytes(b"settings"),
        target: Target::Portable,
        cpu_isa: "x86_64-avx2".to_owned(),
        weight_bits: Some(8),
        images: vec!["a.png".to_owned()],
        error: None,
        lowered: 1,
        float32: BTreeMap::new(),
    };
    let new = NewVariant {
        data: None,
        golden_gates: None,
        name: "int8",
        precision: "int8",
        batch_mode: BatchMode::Single,
        model: b"a model that isn't opened",
        parity: &open.parity(bundle::FP32).unwrap(),
        recipe: &recipe,
        golden_logits: &[0.0; 12],
    };
    bundle::add_variant(&dir, &new).unwrap();
    fixture
}

fn refusal(dir: &Path) -> String {
    let options = PredictorOptions {
        variant: Some(bundle::FP32.to_owned()),
        allow_uncertified: true,
        ..PredictorOptions::default()
    };
    let refused = Predictor::open(dir, &options).err();
    refused.expect("a damaged bundle is refused").to_string()
}

#[test]
fn one_flipped_byte_in_any_file_is_refused_by_name() {
    let fixture = with_unused_variant();
    let dir = fixture.bundle();
    let files = Bundle::open(&dir).unwrap();
    let files: Vec<_> = files.manifest().files().into_iter().cloned().collect();
    assert_eq!(files.len(), 11, "{files:?}");
    for file in files {
        let path = dir.join(&file.path);
        let whole = fs::read(&path).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            let error = refusal(&dir);
            let named = error.contains(&file.path) && error.contains("digest mismatch");
            assert!(named, "{}, byte {at}: {error}", file.path);
        }
        fs::remove_file(&path).unwrap();
        let error = refusal(&dir);
        let named = error.contains(&file.path) && error.contains("No such file");
        assert!(named, "{} is missing: {error}", file.path);
        fs::write(&path, whole).unwrap();
    }
    assert!(Predictor::open(&dir, &PredictorOptions::default()).is_ok());
}

#[test]
fn a_record_that_this_version_does_not_read_is_refused() {
    let fixture = Fixture::calibrated();
    let dir = fixture.bundle();
    let path = dir.join("bundle.json");
    let whole = fs::read_to_string(&path).unwrap();
    let cases = [
        (
            whole.replace("\"schema_version\": 1", "\"schema_version\": 7"),
            "bundle.json has schema_version 7, this program reads 1",
        ),
        (
            whole.replace("\"schema_version\": 1", "\"schema_version\": \"1\""),
            "at `schema_version`",
        ),
        (
            whole[..whole.len() / 2].to_owned(),
            "not a valid bundle.json",
        ),
        (
            whole.replace("\"labels\"", "\"label\""),
            "unknown field `label`",
        ),
        (String::new(), "not a valid bundle.json"),
    ];
    for (text, want) in cases {
        fs::write(&path, text).unwrap();
        let error = refusal(&dir);
        assert!(
            error.contains("bundle.json") && error.contains(want),
            "{error:?} should say {want:?}"
        );
    }
    fs::remove_file(&path).unwrap();
    assert!(refusal(&dir).contains("bundle.json"), "{}", refusal(&dir));
}
