//! Which library a provider lacks, and what package has it.

use crate::{init, native};
use ort::ep::{self, ExecutionProvider};
use stage1_core::device::Device;
use std::{
    env::consts::{DLL_PREFIX, DLL_SUFFIX},
    path::{Path, PathBuf},
};

/// What to do where a device's provider can't be registered.
pub(crate) fn advice(device: Device) -> String {
    let Ok(loaded) = init::loaded(None) else {
        return "load ONNX Runtime first".to_owned();
    };
    let (library, version) = (&loaded.info.library, &loaded.info.version);
    if !is_compiled(device) {
        return format!(
            "{} was built without it; take the libonnxruntime of the PyPI package onnxruntime-gpu=={version} (set ORT_DYLIB_PATH to it)",
            library.display()
        );
    }
    let provider = provider_library(device, library);
    if !provider.is_file() {
        return format!(
            "{} is missing; it comes with the PyPI package onnxruntime-gpu=={version}, beside its libonnxruntime",
            provider.display()
        );
    }
    match native::why_not_loaded(&provider).as_deref().and_then(missing) {
        Some(name) => match package(name) {
            Some(package) => format!("{name} is missing; it comes with {package} (LD_LIBRARY_PATH must lead to it)"),
            None => format!("{name} is missing (LD_LIBRARY_PATH must lead to it)"),
        },
        None => "its libraries are there: see whether `nvidia-smi` shows a GPU, and a driver that is new enough".to_owned(),
    }
}

fn is_compiled(device: Device) -> bool {
    let available = match device {
        Device::Cpu => ep::CPU::is_available(),
        Device::Cuda => ep::CUDA::is_available(),
        Device::Tensorrt => ep::TensorRT::is_available(),
    };
    available.unwrap_or(false)
}

fn provider_library(device: Device, library: &Path) -> PathBuf {
    let name = format!("{DLL_PREFIX}onnxruntime_providers_{device}{DLL_SUFFIX}");
    library.with_file_name(name)
}

/// The name in `libcudart.so.13: cannot open shared object file: No such file or directory`.
fn missing(reason: &str) -> Option<&str> {
    let (before, _) = reason.split_once(": cannot open shared object file")?;
    before.rsplit([' ', ':']).next()
}

/// Those of CUDA 13 and TensorRT 10, which ONNX Runtime 1.31 is built for.
const PACKAGES: [(&str, &str); 11] = [
    (
        "libcublas",
        "CUDA: the PyPI package nvidia-cublas, or NVIDIA's cuda-libraries-13-0",
    ),
    (
        "libcublasLt",
        "CUDA: the PyPI package nvidia-cublas, or NVIDIA's cuda-libraries-13-0",
    ),
    (
        "libcuda",
        "NVIDIA's driver: the package nvidia-driver or libnvidia-compute",
    ),
    (
        "libcudart",
        "CUDA: the PyPI package nvidia-cuda-runtime, or NVIDIA's cuda-libraries-13-0",
    ),
    (
        "libcudnn",
        "cuDNN 9: the PyPI package nvidia-cudnn-cu13, or NVIDIA's libcudnn9-cuda-13",
    ),
    (
        "libcufft",
        "CUDA: the PyPI package nvidia-cufft, or NVIDIA's cuda-libraries-13-0",
    ),
    (
        "libcurand",
        "CUDA: the PyPI package nvidia-curand, or NVIDIA's cuda-libraries-13-0",
    ),
    (
        "libnvinfer",
        "TensorRT 10: the PyPI package tensorrt-cu13-libs, or NVIDIA's libnvinfer10",
    ),
    (
        "libnvonnxparser",
        "TensorRT 10: the PyPI package tensorrt-cu13-libs, or NVIDIA's libnvonnxparsers10",
    ),
    (
        "libnvrtc",
        "CUDA: the PyPI package nvidia-cuda-nvrtc, or NVIDIA's cuda-libraries-13-0",
    ),
    (
        "libonnxruntime_providers_shared",
        "the PyPI package onnxruntime-gpu",
    ),
];

fn package(library: &str) -> Option<&'static str> {
    let (stem, _) = library.split_once(".so")?;
    let found = PACKAGES.iter().find(|(name, _)| *name == stem);
    found.map(|(_, package)| *package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named_with_its_package() {
        let cases = [
            (
                "libcublasLt.so.13: cannot open shared object file: No such file or directory",
                Some(("libcublasLt.so.13", "nvidia-cublas")),
            ),
            (
                "dlopen: libnvinfer.so.10: cannot open shared object file: No such file or directory",
                Some(("libnvinfer.so.10", "tensorrt-cu13")),
            ),
            (
                "libcuda.so.1: cannot open shared object file: x",
                Some(("libcuda.so.1", "driver")),
            ),
            ("undefined symbol: Provider_GetHost", None),
        ];
        for (reason, want) in cases {
            let got = missing(reason);
            assert_eq!(got, want.map(|(name, _)| name), "{reason}");
            if let (Some(name), Some((_, part))) = (got, want) {
                assert!(package(name).unwrap().contains(part), "{name}");
            }
        }
    }
}
