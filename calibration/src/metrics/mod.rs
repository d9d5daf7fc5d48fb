//! Metrics by the field's short names, with percentile bootstrap intervals by unit.
//!
//! | name | what | conventions |
//! |---|---|---|
//! | `accuracy`, `balanced_accuracy`, `mcc`, `f1` | of the arg-max | `f1` of class 1 for two classes, else the macro mean |
//! | `auroc`, `average_precision` | of the softmax probabilities | mid-ranks; one-vs-rest mean over classes that occur for more than two |
//! | `nll`, `brier` | nats; sum over classes | `nll` from log-softmax: no clipping |
//! | `ece` | 15 right-closed bins of equal width on the top label | *descriptive*: biased upward for few rows |
//! | `aurc`, `e_aurc`, `augrc` | of the largest probability | ties are averaged; `augrc` by trapezoids |
//! | `coverage`, `selective_risk` | of a policy's answers | only with a policy |
//!
//! Every metric is computed from row weights: a bootstrap resample is another vector of weights on the same sorted
//! rows, so that there is one definition of each.

pub mod agreement;
mod bootstrap;
pub mod calibration_error;
pub mod curves;
pub mod decomposition;
mod predictions;
mod ranking;
pub mod selective;
mod table;

pub use bootstrap::Bootstrap;
pub use predictions::Predictions;
pub use ranking::Ranking;
pub use table::{Metric, Table, compute};
