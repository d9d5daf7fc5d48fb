//! What is promised of the answers.

use crate::artifact::json::brief;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One promise: among the cases that it is about, at most a share `alpha` counts against it.
///
/// | kind | about | counts against it |
/// |---|---|---|
/// | `selective_error` | answered images | a wrong answer |
/// | `precision` | images answered as `class` | a wrong answer |
/// | `class_error` | answered images whose true class is `class` | a wrong answer |
/// | `fnr` (two classes) | images of class 1 | answered 0; deferred, if `defer_as_error` |
/// | `fpr` (two classes) | images of class 0 | answered 1; deferred, if `defer_as_error` |
/// | `coverage` | all images | deferred: at least a share `at_least` is answered |
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Constraint {
    /// The rate of wrong answers among answers.
    SelectiveError {
        /// At most this.
        alpha: f64,
    },
    /// The rate of wrong answers among answers that name one class: 1 − precision.
    Precision {
        /// Index of the class.
        class: usize,
        /// At most this.
        alpha: f64,
    },
    /// The rate of wrong answers among answered images of one true class.
    ClassError {
        /// Index of the class.
        class: usize,
        /// At most this.
        alpha: f64,
    },
    /// Two classes: the rate of images of class 1 that are answered 0.
    Fnr {
        /// At most this.
        alpha: f64,
        /// Whether a deferred image of class 1 counts as an error.
        #[serde(default)]
        defer_as_error: bool,
    },
    /// Two classes: the rate of images of class 0 that are answered 1.
    Fpr {
        /// At most this.
        alpha: f64,
        /// Whether a deferred image of class 0 counts as an error.
        #[serde(default)]
        defer_as_error: bool,
    },
    /// The share of images that are answered.
    Coverage {
        /// At least this.
        at_least: f64,
    },
}

impl Constraint {
    /// The largest rate allowed of what counts against the constraint. A floor on coverage is a ceiling on deferrals.
    pub fn alpha(&self) -> f64 {
        match *self {
            Self::SelectiveError { alpha }
            | Self::Precision { alpha, .. }
            | Self::ClassError { alpha, .. }
            | Self::Fnr { alpha, .. }
            | Self::Fpr { alpha, .. } => alpha,
            Self::Coverage { at_least } => 1.0 - at_least,
        }
    }

    /// What an image of class `label` that is answered `answer` (nothing: deferred) means here: `None` if the constraint
    /// isn't about it, else whether it counts against it.
    pub fn case(&self, answer: Option<usize>, label: usize) -> Option<bool> {
        match *self {
            Self::SelectiveError { .. } => answer.map(|answer| answer != label),
            Self::Precision { class, .. } => (answer == Some(class)).then_some(label != class),
            Self::ClassError { class, .. } if label == class => {
                answer.map(|answer| answer != label)
            }
            Self::ClassError { .. } => None,
            Self::Fnr { defer_as_error, .. } => of_class(1, defer_as_error, answer, label),
            Self::Fpr { defer_as_error, .. } => of_class(0, defer_as_error, answer, label),
            Self::Coverage { .. } => Some(answer.is_none()),
        }
    }

    /// What is promised, in words.
    pub fn statement(&self) -> String {
        let at_most = percent(self.alpha());
        match *self {
            Self::SelectiveError { .. } => {
                format!("the answers of stage 1 are wrong with rate at most {at_most}")
            }
            Self::Precision { class, .. } => {
                format!("answers that say class {class} are wrong with rate at most {at_most}")
            }
            Self::ClassError { class, .. } => {
                format!("answers to images of class {class} are wrong with rate at most {at_most}")
            }
            Self::Fnr { defer_as_error, .. } => format!(
                "images of class 1 are answered 0{} with rate at most {at_most}",
                or_deferred(defer_as_error)
            ),
            Self::Fpr { defer_as_error, .. } => format!(
                "images of class 0 are answered 1{} with rate at most {at_most}",
                or_deferred(defer_as_error)
            ),
            Self::Coverage { at_least } => {
                format!("at least {} of the images are answered", percent(at_least))
            }
        }
    }

    /// Checks the level, and the class where `classes` is known.
    ///
    /// # Errors
    /// What is wrong, and what is needed.
    pub fn validate(&self, classes: Option<usize>) -> Result<(), String> {
        let level = match *self {
            Self::Coverage { at_least } => at_least,
            _ => self.alpha(),
        };
        if !(level > 0.0 && level < 1.0) {
            return Err(format!(
                "{}: a level between 0 and 1 is needed",
                brief(self)
            ));
        }
        match (*self, classes) {
            (Self::Precision { class, .. } | Self::ClassError { class, .. }, Some(classes))
                if class >= classes =>
            {
                Err(format!(
                    "{}: the classes are 0 to {}",
                    brief(self),
                    classes - 1
                ))
            }
            (Self::Fnr { .. } | Self::Fpr { .. }, Some(classes)) if classes != 2 => Err(format!(
                "{}: false positives and negatives need two classes, there are {classes}; use class_error",
                brief(self)
            )),
            _ => Ok(()),
        }
    }
}

fn of_class(
    class: usize,
    defer_as_error: bool,
    answer: Option<usize>,
    label: usize,
) -> Option<bool> {
    (label == class).then(|| answer.map_or(defer_as_error, |answer| answer != class))
}

fn or_deferred(defer_as_error: bool) -> &'static str {
    if defer_as_error { " or deferred" } else { "" }
}

/// A share in per cent: 0.05 reads 5 %, and 0.0501 stays what it is.
pub fn percent(share: f64) -> String {
    if share > 0.0 && share < 1e-8 {
        return format!("{:.1e} %", share * 100.0);
    }
    let text = format!("{:.10}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bracket table of the binding page, row by row.
    #[test]
    fn each_constraint_counts_what_it_is_about() {
        let alpha = 0.1;
        let fnr = |defer_as_error| Constraint::Fnr {
            alpha,
            defer_as_error,
        };
        let fpr = |defer_as_error| Constraint::Fpr {
            alpha,
            defer_as_error,
        };
        let (zero, one, deferred) = (Some(0), Some(1), None);
        // In the order: answered 0, answered 1, deferred; for label 0, then for label 1.
        let cases = [
            (
                Constraint::SelectiveError { alpha },
                [Some(false), Some(true), None],
                [Some(true), Some(false), None],
            ),
            (
                Constraint::Precision { class: 1, alpha },
                [None, Some(true), None],
                [None, Some(false), None],
            ),
            (
                Constraint::ClassError { class: 1, alpha },
                [None, None, None],
                [Some(true), Some(false), None],
            ),
            (
                fnr(false),
                [None, None, None],
                [Some(true), Some(false), Some(false)],
            ),
            (
                fnr(true),
                [None, None, None],
                [Some(true), Some(false), Some(true)],
            ),
            (
                fpr(false),
                [Some(false), Some(true), Some(false)],
                [None, None, None],
            ),
            (
                fpr(true),
                [Some(false), Some(true), Some(true)],
                [None, None, None],
            ),
            (
                Constraint::Coverage { at_least: 0.9 },
                [Some(false), Some(false), Some(true)],
                [Some(false), Some(false), Some(true)],
            ),
        ];
        for (constraint, of_zero, of_one) in cases {
            for (label, want) in [(0, of_zero), (1, of_one)] {
                let got = [zero, one, deferred].map(|answer| constraint.case(answer, label));
                assert_eq!(got, want, "{constraint:?}, label {label}");
            }
        }
    }

    #[test]
    fn what_can_not_be_promised_is_refused() {
        let fnr = Constraint::Fnr {
            alpha: 0.1,
            defer_as_error: false,
        };
        let cases = [
            (Constraint::SelectiveError { alpha: 0.0 }, None),
            (Constraint::Coverage { at_least: 1.0 }, None),
            (
                Constraint::Precision {
                    class: 3,
                    alpha: 0.1,
                },
                Some(3),
            ),
            (fnr, Some(3)),
        ];
        for (constraint, classes) in cases {
            assert!(constraint.validate(classes).is_err(), "{constraint:?}");
        }
        assert_eq!(fnr.validate(Some(2)), Ok(()));
    }
}
