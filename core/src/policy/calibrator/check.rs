//! What a calibrator from a file must satisfy before it is applied: then applying it can neither panic nor give NaN.

use super::Calibrator;

/// The largest size of a parameter: products with logits and their squares stay finite.
const LARGEST: f64 = 1e100;

impl Calibrator {
    /// Checks that every parameter is in its range and that the sizes go with `classes`.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn validate(&self, classes: usize) -> Result<(), String> {
        if self.is_binary() && classes != 2 {
            return Err(format!(
                "calibrator {} is for 2 classes, there are {classes}",
                self.name()
            ));
        }
        match self {
            Self::None => Ok(()),
            Self::Temperature { t } => positive("t", *t),
            Self::TsMix(mixture) => mixture.validate(),
            Self::Vector { weights, biases } => vectors(classes, weights, biases),
            Self::Svs {
                mixture,
                weights,
                biases,
            } => mixture
                .validate()
                .and_then(|()| vectors(classes, weights, biases)),
            Self::Sms {
                mixture,
                matrix,
                biases,
            } => mixture
                .validate()
                .and_then(|()| numbers("matrix", matrix, classes.checked_mul(classes)))
                .and_then(|()| numbers("biases", biases, Some(classes))),
            Self::Platt { a, b } | Self::Affine { a, b } => rising(&[*a], *b),
            Self::Beta { a, b, c } => rising(&[*a, *b], *c),
            Self::Quadratic { c } => numbers("c", c, Some(3)),
            Self::Isotonic(curve) => curve.validate(),
            Self::VennAbers(steps) => steps.validate(),
        }
        .map_err(|reason| format!("calibrator {}: {reason}", self.name()))
    }

    /// Whether it is a function of the margin of two classes, and of nothing else.
    fn is_binary(&self) -> bool {
        match self {
            Self::None
            | Self::Temperature { .. }
            | Self::TsMix(_)
            | Self::Vector { .. }
            | Self::Svs { .. }
            | Self::Sms { .. } => false,
            Self::Platt { .. }
            | Self::Affine { .. }
            | Self::Beta { .. }
            | Self::Quadratic { .. }
            | Self::Isotonic(_)
            | Self::VennAbers(_) => true,
        }
    }

    /// As it is called in files and in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Temperature { .. } => "temperature",
            Self::TsMix(_) => "ts_mix",
            Self::Vector { .. } => "vector",
            Self::Svs { .. } => "svs",
            Self::Sms { .. } => "sms",
            Self::Platt { .. } => "platt",
            Self::Affine { .. } => "affine",
            Self::Beta { .. } => "beta",
            Self::Quadratic { .. } => "quadratic",
            Self::Isotonic(_) => "isotonic",
            Self::VennAbers(_) => "venn_abers",
        }
    }
}

pub(super) fn positive(name: &str, value: f64) -> Result<(), String> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(format!("{name} is {value}, a positive number is needed"))
}

fn rising(slopes: &[f64], intercept: f64) -> Result<(), String> {
    if slopes.iter().all(|a| a.is_finite() && *a >= 0.0) && intercept.is_finite() {
        return Ok(());
    }
    Err(format!(
        "slopes {slopes:?} and intercept {intercept}: slopes at least 0 and finite numbers are needed"
    ))
}

fn vectors(classes: usize, weights: &[f64], biases: &[f64]) -> Result<(), String> {
    numbers("weights", weights, Some(classes))?;
    numbers("biases", biases, Some(classes))
}

fn numbers(name: &str, values: &[f64], want: Option<usize>) -> Result<(), String> {
    if Some(values.len()) != want {
        return Err(format!(
            "{name} holds {} numbers, {} are needed",
            values.len(),
            want.map_or_else(|| "more".to_owned(), |want| want.to_string())
        ));
    }
    match values.iter().find(|x| !x.is_finite() || x.abs() > LARGEST) {
        None => Ok(()),
        Some(x) => Err(format!(
            "{name} holds {x}, finite numbers up to {LARGEST:e} are needed"
        )),
    }
}
