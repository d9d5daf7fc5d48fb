//! Turns logits and labels into a calibrated policy and a certificate: statistics only, no images and no models.
//!
//! # What a certificate says
//!
//! On average over images drawn like those of val_calib, the answers are wrong with rate at most α; over repeated
//! calibrations at most a share δ of such certificates is wrong. It says nothing about one image, one class (unless that
//! is a constraint), deferred images, or images drawn otherwise.
//!
//! - *Units.* The tests count independent draws. Where rows come in groups (frames of a video, images of a patient), say so
//!   by a `group` column: then the plan takes one row per unit, or bets on all rows of each, and the
//!   certificate names the rate that it controls. Rows of one unit that are counted as independent made up to half of such
//!   certificates wrong in simulation.
//! - *Attempts.* 1 − δ holds for one attempt on one val_calib. A ledger counts them; *spending*
//!   ([`Attempts`](stage1_core::certificate::Attempts)) pays for several. More rows on the same val_calib are a further
//!   attempt.
//! - *Several promises.* [`Constraint`](stage1_core::certificate::Constraint)s hold all together at δ, or nothing is
//!   certified: the largest p-value among them counts.
//! - *Several sessions.* A certificate belongs to the session that made the logits. Another precision or provider gets its
//!   own ([`certify::certify_variant`]), or all get one together ([`certify::certify_jointly`], [`certify::certify_each`]).
//!   Several certificates on one val_calib hold together with confidence 1 − Σδ; picking one of V by its certified
//!   coverage needs δ/V.
//! - *Shift.* A certificate is about images drawn like those of val_calib, and doesn't notice when others come. [`monitor`]
//!   can raise an alarm then, which withdraws no certificate and makes no new one.
//!
//! # The order of things
//!
//! 1. [`plan::plan`] on val_select fixes score, thresholds, order and start; the plan is written and entered in
//!    val_calib's ledger by its digest, *before* val_calib's labels are read;
//! 2. [`fit::fit_policy`] runs the planned tests on val_calib ([`certify`]) and fits the reported probability there
//!    ([`calibrate`]), which enters no comparison;
//! 3. [`fit::certificate`] puts it into a document, or there is a `NotCertified` that says what it would take;
//! 4. [`verdict::validate`] compares val_test with the promises: HELD, REFUTED or INCONCLUSIVE.
//!
//! The number of errors among the n rows that a *fixed* threshold answers is Bin(n, risk) exactly, so that each threshold
//! has an exact p-value (Clopper & Pearson 1934; "Learn then Test", Angelopoulos et al. 2021, 2110.01052). Thresholds are
//! fixed on val_select, and a [`procedure`] keeps the chance that any of them is certified wrongly below δ.
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
//!     PolicyFit::Certified { policy, certified, .. } => {
//!         assert!(certified.upper_bound <= 0.05);
//!         assert_eq!(policy.decide(&[9.9, 0.0, 0.0])?.outcome, Outcome::Answer { label: 0 });
//!     }
//!     PolicyFit::NotCertified(not) => panic!("{} answers are needed", not.needed_answered_if_no_error),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Two promises are of another kind, on average over calibrations and without δ: prediction sets ([`conformal`]) and
//! conformal risk control ([`crc`]). [`promise`] makes policies of either kind, as a configuration asks. After deployment, [`monitor`] raises an alarm when scores or errors are no longer
//! those of val_calib, and [`shift`] estimates how often the classes come, conditional on label shift.
//!
//! Two classes can be told other things too: at most a share α of the class-1 images may be missed, and at least half of
//! all images must be answered.
//!
//! ```
//! use stage1_calibration::certify::{Certification, certify};
//! use stage1_calibration::plan::{Target, plan};
//! use stage1_calibration::rows::{CalibRows, SelectRows};
//! use stage1_core::certificate::Constraint;
//! use stage1_core::logits::LogitSet;
//!
//! // 1000 rows whose margin says the class; every tenth of the narrow ones is wrong.
//! let rows = |first: usize| {
//!     let margin = |i: usize| (i * 37 % 200) as f32 / 10.0 - 10.0;
//!     let is_one = |i: usize| (margin(i) > 0.0) ^ (margin(i).abs() < 3.0 && i % 10 == 0);
//!     LogitSet {
//!         classes: 2,
//!         logits: (first..first + 1000).flat_map(|i| [0.0, margin(i)]).collect(),
//!         labels: (first..first + 1000).map(|i| i64::from(is_one(i))).collect(),
//!         ids: (first..first + 1000).map(|i| format!("{i}.png")).collect(),
//!         ..LogitSet::default()
//!     }
//! };
//! let select = SelectRows::new(&rows(0), 7)?;
//! let calib = CalibRows::new(&rows(1000), 7)?;
//! let mut target = Target::new(0.05, 0.1);
//! target.constraints = vec![
//!     Constraint::Fnr { alpha: 0.05, defer_as_error: false },
//!     Constraint::Coverage { at_least: 0.5 },
//! ];
//! let plan = plan(&select, calib.size().units, &target, None)?;
//! let Certification::Certified(got) = certify(&plan, &calib)? else { panic!("enough rows") };
//! assert_eq!(got.claims.len(), 2);
//! assert!(got.claims.iter().all(|claim| claim.upper_bound <= claim.constraint.alpha()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! False-positive or false-negative rates alone have a closed form ([`monotone`]). [`forecast`] tells beforehand whether
//! splits are large enough, [`comparison`] which of several trainings is better, [`flips`] how often a variant says something else; [`metrics`] describes logits; [`binomial`] and
//! [`bounds`] hold the formulas.

pub mod binomial;
pub mod bounds;
pub mod calibrate;
pub mod certify;
pub mod comparison;
pub mod conformal;
mod counter;
pub mod crc;
mod decimal;
mod error;
mod evidence;
pub mod fit;
pub mod flips;
pub mod forecast;
pub mod metrics;
pub mod monitor;
pub mod monotone;
mod parallel;
pub mod plan;
pub mod procedure;
pub mod promise;
pub mod rows;
mod scored;
pub mod shift;
#[cfg(test)]
mod testing;
pub mod verdict;

pub use error::{Error, Result};
