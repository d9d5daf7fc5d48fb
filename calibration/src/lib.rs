//! Turns logits and labels into a calibrated policy and a certificate: statistics only, no images and no models.
//!
//! # What a certificate says
//!
//! On average over images drawn like those of val_calib, the answers are wrong with rate at most α; over repeated
//! calibrations at most a share δ of such certificates is wrong. It says nothing about one image, one class, deferred
//! images, or images drawn otherwise. It holds for one attempt on one val_calib unless attempts are *spending*
//! ([`Attempts`](stage1_core::certificate::Attempts)), and it counts units, not rows ([`rows`]).
//!
//! # The order of things
//!
//! 1. [`plan::plan`] on val_select fixes score, thresholds, order and start; the plan is written and entered in
//!    val_calib's ledger by its digest, *before* val_calib's labels are read;
//! 2. [`fit::fit_policy`] runs the planned exact tests on val_calib ([`certify`]) and fits the reported probability
//!    there ([`calibrate`]), which enters no comparison;
//! 3. [`fit::certificate`] puts it into a document, or there is a `NotCertified` that says what it would take;
//! 4. [`verdict::validate`] compares val_test with the promise: HELD, REFUTED or INCONCLUSIVE.
//!
//! ```
//! use stage1_calibration::fit::{PolicyFit, fit_policy};
//! use stage1_calibration::plan::{Target, plan};
//! use stage1_calibration::rows::{CalibRows, SelectRows};
//! use stage1_core::config::CalibratorChoice;
//! use stage1_core::logits::LogitSet;
//! use stage1_core::policy::Outcome;
//!
//! // 200 rows of three classes; every eighth of the unsure ones is wrong.
//! let rows = |first: usize| LogitSet {
//!     classes: 3,
//!     logits: (first..first + 200).flat_map(|i| [(i % 100) as f32 / 10.0, 0.0, 0.0]).collect(),
//!     labels: (first..first + 200).map(|i| i64::from(i % 100 < 40 && i % 8 == 0)).collect(),
//!     ids: (first..first + 200).map(|i| format!("{i}.png")).collect(),
//!     ..LogitSet::default()
//! };
//! let seed = 7;
//! let select = SelectRows::new(&rows(0), seed)?;
//! let calib = CalibRows::new(&rows(200), seed)?;
//! let plan = plan(&select, calib.size().units, &Target::new(0.05, 0.1), None)?;
//! match fit_policy(&plan, &calib, CalibratorChoice::Auto)? {
//!     PolicyFit::Certified { policy, certified } => {
//!         assert!(certified.upper_bound <= 0.05);
//!         assert_eq!(policy.decide(&[9.9, 0.0, 0.0])?.outcome, Outcome::Answer { label: 0 });
//!     }
//!     PolicyFit::NotCertified(not) => panic!("{} answers are needed", not.needed_answered_if_no_error),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Two promises are of another kind, on average over calibrations and without δ: prediction sets ([`conformal`]) and
//! conformal risk control ([`crc`]). After deployment, [`monitor`] raises an alarm when scores or errors are no longer
//! those of val_calib, and [`shift`] estimates how often the classes come, conditional on label shift.
//!
//! [`forecast`] tells beforehand whether splits are large enough; [`metrics`] describes logits; [`binomial`] and
//! [`bounds`] hold the formulas.

pub mod binomial;
pub mod bounds;
pub mod calibrate;
pub mod certify;
pub mod conformal;
mod counter;
pub mod crc;
mod decimal;
mod error;
mod exponential;
pub mod fit;
pub mod forecast;
pub mod metrics;
pub mod monitor;
mod parallel;
pub mod plan;
pub mod rows;
mod scored;
pub mod shift;
#[cfg(test)]
mod testing;
pub mod verdict;

pub use error::{Error, Result};
