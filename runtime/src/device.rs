//! From a device to ONNX Runtime's execution provider.

use crate::{Error, Result, libraries};
use ort::{
    ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProviderDispatch},
    session::builder::SessionBuilder,
};
use stage1_core::device::Device;
use std::collections::BTreeMap;

/// The provider's name in ONNX Runtime.
pub(crate) fn ort_name(device: Device) -> &'static str {
    match device {
        Device::Cpu => "CPUExecutionProvider",
        Device::Cuda => "CUDAExecutionProvider",
        Device::Tensorrt => "TensorrtExecutionProvider",
    }
}

/// Registers the device's provider and no other; ONNX Runtime adds its CPU kernels by itself, which is why placement is
/// checked afterwards.
pub(crate) fn register(
    builder: SessionBuilder,
    device: Device,
    options: &BTreeMap<String, String>,
    arena: bool,
) -> Result<SessionBuilder> {
    let provider = provider(device, options, arena);
    // Registration is silent about failure unless it is told not to be.
    let provider = provider.error_on_failure();
    builder
        .with_execution_providers([provider])
        .map_err(|error| Error::Provider {
            device,
            reason: error.to_string().trim().to_owned(),
            advice: libraries::advice(device),
        })
}

fn provider(
    device: Device,
    options: &BTreeMap<String, String>,
    arena: bool,
) -> ExecutionProviderDispatch {
    match device {
        Device::Cpu => ep::CPU::default().with_arena_allocator(arena).build(),
        Device::Cuda => with_options(ep::CUDA::default(), options).build(),
        Device::Tensorrt => with_options(ep::TensorRT::default(), options).build(),
    }
}

fn with_options<P: ArbitrarilyConfigurableExecutionProvider>(
    provider: P,
    options: &BTreeMap<String, String>,
) -> P {
    let set = |provider: P, (name, value)| provider.with_arbitrary_config(name, value);
    options.iter().fold(provider, set)
}

/// Operators that move or count, and compute nothing that a logit could depend on in its last bits. ONNX Runtime keeps
/// some of them on the CPU on purpose, where shapes are.
const EXACT: [&str; 13] = [
    "Cast",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Equal",
    "Gather",
    "Range",
    "Shape",
    "Size",
    "Slice",
    "Squeeze",
    "Unsqueeze",
    "Where",
];

/// Whether a session on `device` may leave a node there: its own, or one on the CPU that computes nothing.
pub(crate) fn may_run(device: Device, provider: &str, operator: &str) -> bool {
    provider == ort_name(device) || (provider == ort_name(Device::Cpu) && EXACT.contains(&operator))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accelerator_computes_by_itself() {
        let (cpu, cuda) = (ort_name(Device::Cpu), ort_name(Device::Cuda));
        let cases = [
            (Device::Cpu, cpu, "MatMul", true),
            (Device::Cpu, cuda, "MatMul", false),
            (Device::Cuda, cuda, "MatMul", true),
            (Device::Cuda, cpu, "MatMul", false),
            (Device::Cuda, cpu, "Shape", true),
            (Device::Tensorrt, cpu, "Shape", true),
            (Device::Tensorrt, cuda, "Shape", false),
        ];
        for (device, provider, operator, want) in cases {
            let got = may_run(device, provider, operator);
            assert_eq!(got, want, "{device}: {operator} on {provider}");
        }
    }
}
