//! Devices that are tried in order.

use crate::{Error, Result};
use serde::Serialize;
use stage1_core::device::{Device, Ladder};
use std::fmt;

/// A device that was tried in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedRung {
    /// Which.
    pub device: Device,
    /// Why nothing runs on it.
    pub reason: String,
}

impl fmt::Display for FailedRung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.device, self.reason)
    }
}

/// Which device of a ladder runs, and why those before it don't.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Climb {
    /// What runs.
    pub device: Device,
    /// Those that were tried before it, in order.
    pub failed: Vec<FailedRung>,
}

/// Opens something on the first device on which it opens. Each attempt is a fresh one, and none is passed over in silence:
/// what failed is logged, and handed out with what did not.
///
/// # Errors
/// What no device can mend, at once: a damaged bundle, no ONNX Runtime. The device's own error where only one is asked for;
/// [`Error::NoRung`] with every reason where several are.
pub fn climb<T>(ladder: &Ladder, mut open: impl FnMut(Device) -> Result<T>) -> Result<(T, Climb)> {
    let mut failed = Vec::new();
    for &device in ladder.devices() {
        match open(device) {
            Ok(opened) => return Ok((opened, Climb { device, failed })),
            Err(error) if !is_of_the_device(&error) || ladder.devices().len() == 1 => {
                return Err(error);
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!(%device, reason, "nothing runs on this device, the next one is tried");
                failed.push(FailedRung { device, reason });
            }
        }
    }
    Err(Error::NoRung { failed })
}

/// Whether another device may do better.
fn is_of_the_device(error: &Error) -> bool {
    matches!(
        error,
        Error::Provider { .. }
            | Error::Ort { .. }
            | Error::Placement { .. }
            | Error::NotCovered { .. }
            | Error::Golden { .. }
            | Error::Profile { .. }
            | Error::Engines { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(device: Device) -> Error {
        Error::Provider {
            device,
            reason: "not here".to_owned(),
            advice: "get one".to_owned(),
        }
    }

    #[test]
    fn the_first_device_that_works_is_taken_and_the_others_are_told() {
        let ladder: Ladder = "tensorrt,cuda,cpu".parse().unwrap();
        let mut tried = Vec::new();
        let (opened, climb) = climb(&ladder, |device| {
            tried.push(device);
            match device {
                Device::Cpu => Ok("a session"),
                _ => Err(failure(device)),
            }
        })
        .unwrap();
        assert_eq!((opened, climb.device), ("a session", Device::Cpu));
        assert_eq!(tried, ladder.devices());
        let json = serde_json::to_value(&climb).unwrap();
        assert_eq!(json["device"], "cpu");
        assert_eq!(json["failed"][1]["device"], "cuda");
        assert_eq!(
            climb.failed[0].to_string(),
            "tensorrt: tensorrt can't be used: not here; get one"
        );
    }

    #[test]
    fn what_no_device_can_mend_ends_the_climb() {
        let ladder: Ladder = "cuda,cpu".parse().unwrap();
        let mut tried = 0;
        let result = climb(&ladder, |_| -> Result<()> {
            tried += 1;
            Err(Error::VariantNeeded {
                dir: "bundle".into(),
                known: Vec::new(),
            })
        });
        assert!(matches!(result, Err(Error::VariantNeeded { .. })));
        assert_eq!(tried, 1);
        let error = climb(&ladder, |device| -> Result<()> { Err(failure(device)) }).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("cuda: cuda can't be used") && text.contains("cpu: cpu can't"),
            "{text}"
        );
        let alone = Ladder::from(Device::Cuda);
        let error = climb(&alone, |device| -> Result<()> { Err(failure(device)) }).unwrap_err();
        assert!(
            matches!(error, Error::Provider { .. }),
            "its own error: {error}"
        );
    }
}
