//! Numbers in JSON, in lists in lists, as the protocol has tensors.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;

/// The elements of lists in lists, in row-major order.
#[derive(Debug, PartialEq)]
pub(super) struct Flat<T>(pub(super) Vec<T>);

/// An element that may stand alone or in lists.
pub(super) trait Element: Sized {
    const EXPECTED: &'static str;

    fn of_number(_: f64) -> Option<Self> {
        None
    }

    fn of_text(_: &str) -> Option<Self> {
        None
    }
}

impl Element for f32 {
    const EXPECTED: &'static str = "numbers, in lists";

    fn of_number(number: f64) -> Option<Self> {
        Some(number as Self)
    }
}

impl Element for u8 {
    const EXPECTED: &'static str = "whole numbers from 0 to 255, in lists";

    fn of_number(number: f64) -> Option<Self> {
        let is_level = number.fract() == 0.0 && (0.0..=255.0).contains(&number);
        is_level.then_some(number as Self)
    }
}

impl Element for String {
    const EXPECTED: &'static str = "texts, in lists";

    fn of_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl<'de, T: Element> Deserialize<'de> for Flat<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut values = Vec::new();
        Into(&mut values).deserialize(deserializer)?;
        Ok(Self(values))
    }
}

/// Where elements go.
struct Into<'a, T>(&'a mut Vec<T>);

impl<T: Element> Into<'_, T> {
    fn push<E: Error>(self, element: Option<T>, what: impl fmt::Display) -> Result<(), E> {
        let element =
            element.ok_or_else(|| E::custom(format!("{what}, expected {}", T::EXPECTED)))?;
        self.0.push(element);
        Ok(())
    }
}

impl<'de, T: Element> DeserializeSeed<'de> for Into<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Element> Visitor<'de> for Into<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Into(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.push(T::of_number(number), number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.push(T::of_number(number as f64), number)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.push(T::of_number(number as f64), number)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.push(T::of_text(text), format_args!("a text"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_flattened_and_elements_checked() {
        let floats = |text| {
            serde_json::from_str::<Flat<f32>>(text)
                .map(|flat| flat.0)
                .map_err(|e| e.to_string())
        };
        assert_eq!(
            floats("[[1, -2.5], [[3e2]], 4]").unwrap(),
            [1.0, -2.5, 300.0, 4.0]
        );
        assert!(
            floats("[1, \"2\"]")
                .unwrap_err()
                .contains("expected numbers")
        );
        assert!(floats("[1, null]").is_err());
        assert!(floats("{}").is_err());
        let levels = |text| serde_json::from_str::<Flat<u8>>(text).map(|flat| flat.0);
        assert_eq!(levels("[0, [255]]").unwrap(), [0, 255]);
        assert!(levels("[256]").is_err() && levels("[0.5]").is_err() && levels("[-1]").is_err());
        let texts: Flat<String> = serde_json::from_str("[[\"a\"], \"b\"]").unwrap();
        assert_eq!(texts.0, ["a", "b"]);
        let deep = format!("{}1{}", "[".repeat(1000), "]".repeat(1000));
        assert!(floats(&deep).is_err());
    }
}
