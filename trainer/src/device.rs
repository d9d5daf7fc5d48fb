//! Where a training computes.

use crate::{Error, Result};
use stage1_core::config::TrainDevice;
use tch::{Cuda, Device, utils};

/// The device that the configuration names; never another one.
///
/// # Errors
/// [`Error::Device`] when it isn't there, with what is missing.
pub(crate) fn choose(wanted: TrainDevice) -> Result<Device> {
    let TrainDevice::Cuda(number) = wanted else {
        return Ok(Device::Cpu);
    };
    let missing = |reason: String| Error::Device {
        device: String::from(wanted),
        reason,
    };
    if !utils::has_cuda() {
        return Err(missing(
            "this libtorch was built for the CPU alone; let LD_LIBRARY_PATH name the folder `lib` of a libtorch (or PyTorch) 2.11.0 \
             with CUDA, and those of its CUDA libraries"
                .to_owned(),
        ));
    }
    let found = usize::try_from(Cuda::device_count()).unwrap_or(0);
    if number < found {
        return Ok(Device::Cuda(number));
    }
    Err(missing(match found {
        0 => "libtorch finds no CUDA device: is there one, is its driver installed, and does CUDA_VISIBLE_DEVICES hide it?"
            .to_owned(),
        _ => format!("libtorch finds {found} CUDA device(s), numbered from 0"),
    }))
}
