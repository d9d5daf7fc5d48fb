//! Metrics by the field's short names, with percentile bootstrap intervals by unit.
//!
//! | name | what | conventions |
//! |---|---|---|
//! | `accuracy`, `balanced_accuracy`, `mcc`, `f1` | of the arg-max | `f1` of class 1 for two classes, else the macro mean |
//! | `auroc`, `average_precision` | of the softmax probabilities | mid-ranks; one-vs-rest mean over classes that occur for more than two |
//! | `nll`, `brier` | nats; sum over classes | `nll` from log-softmax: no clipping |
//! | `ece_debiased` | √ of the mean squared error of 15 bins of equal mass on the top label, less each bin's sampling variance | Kumar, Liang & Ma 2019; 0 where the difference is negative; ties stay in one bin |
//! | `aurc`, `e_aurc`, `augrc` | of the largest probability | ties are averaged; `augrc` by trapezoids |
//! | `coverage`, `selective_risk` | of a policy's answers | only with a policy |
//! | `ece` | 15 right-closed bins of equal width on the top label | *descriptive* |
//! | `ece_equal_mass` | 15 bins of equal mass on the top label | *descriptive*; ties stay in one bin |
//! | `ece_classwise` | 15 bins of equal width on each class's probability: class 1 of two, else the mean over classes | *descriptive* |
//! | `smooth_ece` | smECE of the top label: no bins | *descriptive*; Błasiok & Nakkiran 2023 |
//! | `brier_reliability`, `brier_resolution`, `brier_uncertainty`, `brier_within_bin_variance`, `brier_within_bin_covariance` | parts of `brier` over 10 bins of equal width | *descriptive*; Stephenson, Coelho & Jolliffe 2008: reliability − resolution + uncertainty + variance − covariance = `brier` |
//! | `brier_miscalibration`, `brier_discrimination` | parts of `brier` by isotonic regression | *descriptive*; Dimitriadis, Gneiting & Jordan 2021: miscalibration − discrimination + `brier_uncertainty` = `brier` |
//! | `coverage_at_risk_<r>` | the largest coverage of a threshold on the largest probability with an error rate ≤ r | *descriptive* |
//! | `risk_at_coverage_<c>` | the error rate of the strictest such threshold that answers a share ≥ c | *descriptive* |
//!
//! None of these is a guarantee: see [`certify`](crate::certify). *Descriptive* figures say still less of rows to come
//! ([`caveat`]): plug-in errors are above zero for a perfectly calibrated model, and a threshold that was found on the
//! rows looks better on them than elsewhere.
//!
//! Every metric with an interval is computed from row weights: a bootstrap resample is another vector of weights on the
//! same sorted rows, so that there is one definition of each. Plug-in errors have no interval, because a resample adds
//! its own bias to theirs; `ece_debiased` has one, from which the sampling variance is taken off twice. That variance is
//! a binomial one: where units hold several rows that err together, `ece_debiased` is biased upward, too.
//!
//! ```
//! use stage1_calibration::metrics::{Bootstrap, Metric, Predictions, caveat, compute};
//! use stage1_core::logits::LogitSet;
//!
//! let rows = LogitSet {
//!     classes: 2,
//!     logits: LogitSet::binary_columns(&[3.0, -2.0, -4.0, -0.5, 2.0, -1.0]),
//!     labels: vec![1, 0, 0, 1, 1, 0],
//!     ..LogitSet::default()
//! };
//! let predictions = Predictions::from_logits(&rows, None)?;
//! let table = compute(&predictions, Some(Bootstrap { resamples: Bootstrap::RESAMPLES, seed: 1 }));
//! let Some(Metric::Interval { estimate, low, high }) = table["accuracy"] else { panic!("{table:?}") };
//! assert!(estimate == 5.0 / 6.0 && low < estimate && estimate < high);
//! assert!(matches!(table["ece"], Some(Metric::Number(_))) && caveat("ece").is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod agreement;
mod bootstrap;
pub mod calibration_error;
pub mod curves;
pub mod decomposition;
mod one_vs_rest;
mod predictions;
mod prepared;
mod ranking;
pub mod selective;
mod smooth;
mod sorting;
mod table;

pub use bootstrap::Bootstrap;
pub(crate) use bootstrap::{Units, percentiles};
pub use predictions::Predictions;
pub(crate) use ranking::Marked;
pub use ranking::Ranking;
pub use smooth::smooth_ece;
pub use table::{Levels, Metric, Table, caveat, compute, compute_at};
