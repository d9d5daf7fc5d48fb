use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a model takes its pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PixelFormat {
    /// Normalised, as planes: float32 `[N, 3, height, width]`.
    #[default]
    Float32,
    /// Grey levels, as decoders deliver them: uint8 `[N, height, width, 3]`. The model normalises them itself.
    Uint8,
}

impl PixelFormat {
    /// Whether it is [`PixelFormat::Float32`].
    pub fn is_float32(&self) -> bool {
        *self == Self::Float32
    }

    /// The shape of `images` pictures.
    pub fn shape(self, images: usize, height: usize, width: usize) -> [usize; 4] {
        match self {
            Self::Float32 => [images, 3, height, width],
            Self::Uint8 => [images, height, width, 3],
        }
    }
}

/// Why normalised values have no form in bytes.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error(
    "the normalised value {value} is grey level {level}, expected a whole one from 0 to 255: this picture wasn't made by \
     preprocessing in whole grey levels"
)]
pub struct NotLevels {
    /// The normalised value.
    pub value: f32,
    /// What it is before normalisation.
    pub level: f32,
}
