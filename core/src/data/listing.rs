use serde::{Deserialize, Serialize};
use std::fmt;

/// How many things there are, with the first few as examples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// How many.
    pub count: u64,
    /// The first few.
    pub examples: Vec<String>,
}

impl Listing {
    const SHOWN: usize = 10;

    /// Adds one.
    pub fn push(&mut self, example: impl Into<String>) {
        self.count += 1;
        if self.examples.len() < Self::SHOWN {
            self.examples.push(example.into());
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The listing, unless there is nothing in it.
    pub fn non_empty(self) -> Option<Self> {
        (!self.is_empty()).then_some(self)
    }
}

impl<T: Into<String>> FromIterator<T> for Listing {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut listing = Self::default();
        items.into_iter().for_each(|item| listing.push(item));
        listing
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.examples.join(", "))?;
        match self.count - self.examples.len() as u64 {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
