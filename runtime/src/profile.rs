//! The shapes that TensorRT builds an engine for.

use crate::{Error, Result};
use std::{collections::BTreeMap, fmt};

/// The input's smallest, usual and largest shape. Outside of it TensorRT would build another engine, for minutes, so that
/// such an input is refused before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeProfile {
    /// The input's name.
    pub input: String,
    /// The smallest shape.
    pub min: Vec<usize>,
    /// What the engine is made fastest for.
    pub opt: Vec<usize>,
    /// The largest shape.
    pub max: Vec<usize>,
}

const KEYS: [&str; 3] = [
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_profile_max_shapes",
];

impl ShapeProfile {
    /// 1 to `batch` images of a fixed size, usually `batch`.
    pub fn images(input: &str, batch: usize, image: [usize; 3]) -> Self {
        let shape = |images| [&[images], &image[..]].concat();
        Self {
            input: input.to_owned(),
            min: shape(1),
            opt: shape(batch),
            max: shape(batch),
        }
    }

    /// What the options say, if they do: all three shapes, or none.
    ///
    /// # Errors
    /// [`Error::Profile`].
    pub(crate) fn of_options(options: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let [min, opt, max] = KEYS.map(|key| options.get(key));
        let (Some(min), Some(opt), Some(max)) = (min, opt, max) else {
            return match (min, opt, max) {
                (None, None, None) => Ok(None),
                _ => Err(wrong(format!("{} come together", KEYS.join(", ")))),
            };
        };
        let parse = |text: &str| {
            let (name, shape) = text.rsplit_once(':')?;
            let shape = shape.split('x').map(|side| side.parse().ok());
            Some((name.to_owned(), shape.collect::<Option<Vec<usize>>>()?))
        };
        let unreadable = |text: &str| wrong(format!("`{text}` isn't NAME:1x3x224x224"));
        let [(input, min), (second, opt), (third, max)] = [
            parse(min).ok_or_else(|| unreadable(min))?,
            parse(opt).ok_or_else(|| unreadable(opt))?,
            parse(max).ok_or_else(|| unreadable(max))?,
        ];
        let rises =
            |a: &[usize], b: &[usize]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a <= b);
        if input != second || input != third || !rises(&min, &opt) || !rises(&opt, &max) {
            return Err(wrong(
                "the three shapes must be of one input, and rise".to_owned(),
            ));
        }
        Ok(Some(Self {
            input,
            min,
            opt,
            max,
        }))
    }

    /// As the provider takes it.
    pub(crate) fn options(&self) -> impl Iterator<Item = (String, String)> {
        let told = |shape: &[usize]| {
            let sides: Vec<_> = shape.iter().map(ToString::to_string).collect();
            format!("{}:{}", self.input, sides.join("x"))
        };
        let values = [&self.min, &self.opt, &self.max].map(|shape| told(shape));
        KEYS.map(str::to_owned).into_iter().zip(values)
    }

    /// Whether an input has a shape that the engine was built for.
    pub(crate) fn covers(&self, shape: &[usize]) -> bool {
        let sides = self.min.iter().zip(&self.max).zip(shape);
        shape.len() == self.min.len()
            && sides
                .into_iter()
                .all(|((min, max), side)| (min..=max).contains(&side))
    }
}

impl fmt::Display for ShapeProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {:?} to {:?}", self.input, self.min, self.max)
    }
}

fn wrong(reason: String) -> Error {
    Error::Profile { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_what_its_options_say() {
        let profile = ShapeProfile::images("pixel_values", 8, [3, 224, 224]);
        let options: BTreeMap<_, _> = profile.options().collect();
        assert_eq!(
            options["trt_profile_min_shapes"],
            "pixel_values:1x3x224x224"
        );
        assert_eq!(
            options["trt_profile_max_shapes"],
            "pixel_values:8x3x224x224"
        );
        assert_eq!(
            ShapeProfile::of_options(&options).unwrap(),
            Some(profile.clone())
        );
        for (shape, want) in [
            ([1, 3, 224, 224], true),
            ([8, 3, 224, 224], true),
            ([9, 3, 224, 224], false),
            ([0, 3, 224, 224], false),
            ([1, 3, 225, 224], false),
        ] {
            assert_eq!(profile.covers(&shape), want, "{shape:?}");
        }
        assert_eq!(ShapeProfile::of_options(&BTreeMap::new()).unwrap(), None);
    }

    #[test]
    fn half_a_profile_is_refused() {
        let whole: BTreeMap<_, _> = ShapeProfile::images("x", 8, [3, 2, 2]).options().collect();
        let with = |key: &str, value: Option<&str>| {
            let mut options = whole.clone();
            match value {
                None => options.remove(key),
                Some(value) => options.insert(key.to_owned(), value.to_owned()),
            };
            ShapeProfile::of_options(&options).unwrap_err().to_string()
        };
        for (value, want) in [
            (None, "come together"),
            (Some("x:ax3x2x2"), "isn't NAME:1x3x224x224"),
            (Some("y:8x3x2x2"), "of one input"),
            (Some("x:9x3x2x2"), "rise"),
            (Some("x:8x3x2"), "rise"),
        ] {
            let error = with("trt_profile_opt_shapes", value);
            assert!(error.contains(want), "{value:?}: {error}");
        }
    }
}
