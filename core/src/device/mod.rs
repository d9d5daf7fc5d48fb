//! What models run on: the devices that may be asked for, in which order, and the options of their providers.
//!
//! The names are those of ONNX Runtime's execution providers and of their own options, so that its documentation holds here.

mod options;

pub use options::{OptionValue, ProviderOptions};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a session runs on.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// ONNX Runtime's own CPU kernels.
    #[default]
    Cpu,
    /// An NVIDIA GPU, through ONNX Runtime's CUDA kernels.
    Cuda,
    /// An NVIDIA GPU, through engines that TensorRT builds.
    Tensorrt,
}

impl Device {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Cuda, Self::Tensorrt];

    /// Its name in configurations, on the command line, and as a certificate's `provider`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tensorrt => "tensorrt",
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|device| device.name() == text);
        found.ok_or_else(|| Error::Unknown {
            got: text.to_owned(),
        })
    }
}

/// Devices in the order in which they are tried: `tensorrt,cuda,cpu`. At least one, none twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Device>", into = "Vec<Device>")]
pub struct Ladder(Vec<Device>);

impl Ladder {
    /// # Errors
    /// [`Error::Empty`] and [`Error::Twice`].
    pub fn new(devices: Vec<Device>) -> Result<Self, Error> {
        if devices.is_empty() {
            return Err(Error::Empty);
        }
        let mut sorted = devices.clone();
        sorted.sort();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::Twice { device: pair[0] }),
            None => Ok(Self(devices)),
        }
    }

    /// The devices, in order.
    pub fn devices(&self) -> &[Device] {
        &self.0
    }
}

impl Default for Ladder {
    fn default() -> Self {
        Self::from(Device::default())
    }
}

impl From<Device> for Ladder {
    fn from(device: Device) -> Self {
        Self(vec![device])
    }
}

impl TryFrom<Vec<Device>> for Ladder {
    type Error = Error;

    fn try_from(devices: Vec<Device>) -> Result<Self, Error> {
        Self::new(devices)
    }
}

impl From<Ladder> for Vec<Device> {
    fn from(ladder: Ladder) -> Self {
        ladder.0
    }
}

impl JsonSchema for Ladder {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ladder".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let device = generator.subschema_for::<Device>();
        schemars::json_schema!({"type": "array", "items": device, "minItems": 1, "uniqueItems": true})
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|device| device.name()).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for Ladder {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let devices = text.split(',').map(|name| name.trim().parse());
        Self::new(devices.collect::<Result<_, _>>()?)
    }
}

/// Why devices or their options are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such device.
    #[error(
        "device `{got}` isn't known; there are cpu, cuda and tensorrt, or several in the order in which they are tried: tensorrt,cuda,cpu"
    )]
    Unknown {
        /// As given.
        got: String,
    },
    /// No device at all.
    #[error("no device is given; `cpu` is always there")]
    Empty,
    /// A device would be tried again after it failed.
    #[error("device `{device}` is given twice")]
    Twice {
        /// Which.
        device: Device,
    },
    /// Not `PROVIDER.NAME=VALUE`.
    #[error(
        "provider option `{got}`: expected PROVIDER.NAME=VALUE, e.g. cuda.gpu_mem_limit=4294967296"
    )]
    Form {
        /// As given.
        got: String,
    },
    /// The CPU has none, or there is no such provider.
    #[error("provider `{got}` has no options here; those that have are cuda and tensorrt")]
    Provider {
        /// As given.
        got: String,
    },
    /// ONNX Runtime's provider has no such option.
    #[error("{device} has no option `{name}`{}", nearest.as_ref().map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?")))]
    UnknownOption {
        /// The provider.
        device: Device,
        /// As given.
        name: String,
        /// The known option that looks most like it.
        nearest: Option<String>,
    },
    /// ONNX Runtime has the option, but it can't be used here.
    #[error("{device}'s option `{name}` can't be used here: {reason}")]
    Refused {
        /// The provider.
        device: Device,
        /// The option.
        name: String,
        /// Why.
        reason: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ladder_is_an_order_without_repetition() {
        let ladder: Ladder = "tensorrt, cuda,cpu".parse().unwrap();
        assert_eq!(
            ladder.devices(),
            [Device::Tensorrt, Device::Cuda, Device::Cpu]
        );
        assert_eq!(ladder.to_string(), "tensorrt,cuda,cpu");
        let json = serde_json::to_string(&ladder).unwrap();
        assert_eq!(json, r#"["tensorrt","cuda","cpu"]"#);
        assert_eq!(serde_json::from_str::<Ladder>(&json).unwrap(), ladder);
        assert_eq!(Ladder::default().to_string(), "cpu");
        for (text, want) in [
            ("", "device `` isn't known"),
            (
                "gpu",
                "device `gpu` isn't known; there are cpu, cuda and tensorrt",
            ),
            ("cpu,", "device `` isn't known"),
            ("CUDA", "device `CUDA` isn't known"),
            ("cuda,cpu,cuda", "device `cuda` is given twice"),
        ] {
            let error = text.parse::<Ladder>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
        for json in ["[]", r#"["cpu","cpu"]"#, r#"["rocm"]"#] {
            assert!(serde_json::from_str::<Ladder>(json).is_err(), "{json}");
        }
    }
}
