use crate::Error;
use std::{fmt, str::FromStr};

/// What a session runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// ONNX Runtime's own CPU kernels.
    #[default]
    Cpu,
}

impl Device {
    /// The provider's name in fingerprints.
    pub fn provider(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
        }
    }

    /// The provider's name in ONNX Runtime.
    pub(crate) fn ort_name(self) -> &'static str {
        match self {
            Self::Cpu => "CPUExecutionProvider",
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.provider())
    }
}

impl FromStr for Device {
    type Err = Error;

    /// Parses `--device`: `cpu`.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "cpu" => Ok(Self::Cpu),
            _ => Err(Error::Device {
                got: text.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_is_accepted() {
        assert_eq!("cpu".parse::<Device>().unwrap(), Device::Cpu);
        for text in ["cuda", "cuda:1", "tensorrt:0", "CPU", "gpu", ""] {
            let message = text.parse::<Device>().unwrap_err().to_string();
            assert!(message.contains("runs on the CPU only"), "{message}");
        }
    }
}
