//! Pictures of every colour kind, decoded as Pillow decodes them (`fixtures/pictures/generate.py`).

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use stage1_core::preprocess::{Limits, decode_file};

pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures")
}

#[test]
fn every_colour_kind_decodes_as_in_pillow() {
    let bytes = fs::read(folder().join("pillow.safetensors")).expect("fixture");
    let expected = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut failures = Vec::new();
    for (name, want) in expected.iter() {
        let got = decode_file(&folder().join(name), Limits::default()).expect(name);
        let size = [got.height() as usize, got.width() as usize, 3];
        assert_eq!(size, want.shape(), "{name}");
        // JPEG leaves the rounding of the inverse transform and of the colour conversion to the decoder.
        let allowed = if name.ends_with(".jpg") { 3 } else { 0 };
        let pairs = got.as_raw().iter().zip(want.data());
        let largest = pairs.map(|(a, b)| a.abs_diff(*b)).max().expect("pixels");
        if largest > allowed {
            failures.push(format!(
                "{name}: largest difference {largest}, allowed {allowed}"
            ));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
