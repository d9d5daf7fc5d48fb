//! After deployment: two alarms that may be looked at as often as one likes.
//!
//! # What an alarm says
//!
//! - **Drift** ([`Drift`], no labels needed): the scores that come in don't look like val_calib's any more: *the
//!   distribution changed*. It doesn't say that errors rose, and errors may rise without it.
//! - **Risk** ([`Risk`], labels of a random sample of answered images): *the certified risk is exceeded*.
//!
//! Each is raised with probability at most `level`, ever, if nothing is wrong, however long and however often one looks
//! (Ville 1939: the wealth of a bettor against "nothing is wrong" exceeds 1 / level with that probability). No
//! alarm doesn't prove that nothing is wrong.
//!
//! # How
//!
//! Drift: val_select fixes [`Bins`] of the raw score; a change of the defer rate is a change of bins. A bag starts with
//! the bins of val_calib, *each new score joins it*, and then gets the p-value (#{in higher bins} + U·#{in its bin}) /
//! size with a seeded U: if all are exchangeable these are independent and uniform. (Against a fixed bag they are not:
//! 200 reference scores give false alarms in a fifth of all streams of 20,000 at level 1 %; [`simulation`] shows it.)
//! The [`SimpleJumper`] bets that they aren't uniform (Vovk, Petej, Nouretdinov, Ahlberg, Carlsson & Gammerman 2021,
//! "Retrain or not retrain: conformal test martingales for change-point detection").
//!
//! Risk: wealth Π(1 + λ(L − α)), averaged over λ ∈ {¼, ½, 1, 2, 4, 8} with λα < 1 (Waudby-Smith & Ramdas 2020,
//! 2010.09686; Podkopaev & Ramdas 2021, 2110.06177).
//!
//! Rows of one unit (a video, a patient) aren't independent: one row of each counts, see [`Monitor`]. Memory doesn't grow
//! with the stream, but for eight bytes per named unit and per labelled answer of a name.
//!
//! ```
//! use stage1_calibration::monitor::{Monitor, Settings};
//! use stage1_calibration::rows::{CalibRows, SelectRows};
//! use stage1_core::logits::LogitSet;
//! use stage1_core::policy::Score;
//!
//! // Margins spread over [0, 10).
//! let rows = |first: usize| LogitSet {
//!     classes: 2,
//!     logits: (first..first + 300).flat_map(|i| [0.0, (i * 37 % 100) as f32 / 10.0]).collect(),
//!     labels: vec![1; 300],
//!     ids: (first..first + 300).map(|i| i.to_string()).collect(),
//!     ..LogitSet::default()
//! };
//! let (select, calib) = (SelectRows::new(&rows(0), 7)?, CalibRows::new(&rows(300), 7)?);
//! let settings = Settings { level: 0.01, seed: 7, alpha: Some(0.05) };
//! let mut monitor = Monitor::start(&select, &calib, Score::BinaryMargin, &settings)?;
//! for i in 0..300 {
//!     monitor.observe(None, (i * 53 % 100) as f64 / 10.0);
//! }
//! assert!(!monitor.drift.has_alarmed());
//! for _ in 0..300 {
//!     monitor.observe(None, 0.5);
//! }
//! assert!(monitor.drift.has_alarmed());
//! # Ok::<(), stage1_calibration::monitor::MonitorError>(())
//! ```

mod bins;
mod drift;
mod fenwick;
mod jumper;
mod risk;
pub mod simulation;
mod units;

pub use bins::Bins;
pub use drift::Drift;
pub use jumper::SimpleJumper;
pub use risk::{LAMBDAS, Risk};
pub use units::Units;

use crate::rows::{CalibRows, SelectRows};
use serde::{Deserialize, Serialize};
use stage1_core::policy::Score;

/// Why there is nothing to monitor with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// The rows can't be read.
    #[error(transparent)]
    Rows(#[from] crate::Error),
    /// Nothing to fix the bins on.
    #[error("val_select has no rows: the bins of the score are fixed on it")]
    EmptySelect,
    /// A level that is no probability between 0 and 1.
    #[error("{name} is {value}: a number between 0 and 1 (both excluded) is needed")]
    Level {
        /// `level` or `alpha`.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// Reference rows and score don't go together.
    #[error("{what} has {got} classes, {want} were expected: are these logits of the same model?")]
    Classes {
        /// Whose rows.
        what: &'static str,
        /// Found.
        got: usize,
        /// Expected.
        want: usize,
    },
}

/// What a monitor is started with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Probability that an alarm is ever raised for nothing; each of the two alarms has it.
    pub level: f64,
    /// Seed of the draws that break ties.
    pub seed: u64,
    /// The certified risk; none if there is none to be held to.
    pub alpha: Option<f64>,
}

/// Both alarms, and the units that were counted. Serialising it and going on with what is read back gives the same bits
/// as never having stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    /// Without labels.
    pub drift: Drift,
    /// With labels.
    pub risk: Option<Risk>,
    /// Units of which a row was counted by `drift`.
    units: Units,
    /// Units of which an answer was counted by `risk`.
    labelled_units: Units,
}

impl Monitor {
    /// Fixes the bins on val_select and fills the bag with val_calib.
    ///
    /// # Errors
    /// [`MonitorError`].
    pub fn start(
        select: &SelectRows,
        calib: &CalibRows,
        score: Score,
        settings: &Settings,
    ) -> Result<Self, MonitorError> {
        let classes = match score {
            Score::BinaryMargin => 2,
            _ => select.classes(),
        };
        for (what, got) in [
            ("val_select", select.classes()),
            ("val_calib", calib.classes()),
        ] {
            if got != classes {
                return Err(MonitorError::Classes {
                    what,
                    got,
                    want: classes,
                });
            }
        }
        for (what, rows) in [("val_select", &select.0.kept), ("val_calib", &calib.0.kept)] {
            if score == Score::Gate && !rows.has_gate() {
                return Err(crate::Error::NoGate { what }.into());
            }
        }
        let values = |rows: &crate::rows::Block| -> Vec<f64> {
            (0..rows.n()).map(|i| score.value(rows.row(i))).collect()
        };
        let bins = Bins::new(&values(&select.0.kept))?;
        let bag = values(&calib.0.kept);
        let risk = settings.alpha.map(|alpha| Risk::new(alpha, settings.level));
        Ok(Self {
            drift: Drift::new(bins, &bag, settings.level, settings.seed)?,
            risk: risk.transpose()?,
            units: Units::default(),
            labelled_units: Units::default(),
        })
    }

    /// Takes the raw score of a new row; of a named unit the first row alone counts. Says whether this one did.
    pub fn observe(&mut self, unit: Option<u64>, score: f64) -> bool {
        let counts = self.units.is_first(unit);
        if counts {
            self.drift.observe(score);
        }
        counts
    }

    /// Takes whether an answer was wrong; of a named unit the first labelled answer alone counts. Says whether this one
    /// did.
    pub fn observe_answer(&mut self, unit: Option<u64>, wrong: bool) -> bool {
        let Some(risk) = &mut self.risk else {
            return false;
        };
        let counts = self.labelled_units.is_first(unit);
        if counts {
            risk.observe(f64::from(u8::from(wrong)));
        }
        counts
    }

    /// Whether a labelled answer of this unit was counted.
    pub fn has_answer_of(&self, unit: u64) -> bool {
        self.labelled_units.contains(unit)
    }

    /// Whether one of the alarms was ever raised.
    pub fn has_alarmed(&self) -> bool {
        self.drift.has_alarmed() || self.risk.as_ref().is_some_and(Risk::has_alarmed)
    }

    /// Checks what was read from a file.
    ///
    /// # Errors
    /// The broken rule, with the values.
    pub fn validate(&self) -> Result<(), String> {
        self.drift.validate()?;
        self.risk.as_ref().map_or(Ok(()), Risk::validate)
    }
}

fn check_level(name: &'static str, value: f64) -> Result<(), MonitorError> {
    if value > 0.0 && value < 1.0 {
        return Ok(());
    }
    Err(MonitorError::Level { name, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::uniform;
    use crate::testing::{binary_set, multi_set};

    fn started() -> Monitor {
        let select = SelectRows::new(&multi_set(500, 1), 1).unwrap();
        let calib = CalibRows::new(&multi_set(500, 2), 1).unwrap();
        let score = Score::MaxProbability { temperature: 1.5 };
        let settings = Settings {
            level: 0.01,
            seed: 3,
            alpha: Some(0.05),
        };
        Monitor::start(&select, &calib, score, &settings).unwrap()
    }

    fn feed(monitor: &mut Monitor, rows: std::ops::Range<u64>) {
        for i in rows {
            monitor.observe(Some(i % 700), uniform(5, 0, i));
            monitor.observe_answer(None, uniform(5, 1, i) < 0.07);
        }
    }

    #[test]
    fn stopping_and_going_on_gives_the_same_bits() {
        let mut straight = started();
        feed(&mut straight, 0..3000);
        let mut stopped = started();
        for from in (0..3000).step_by(250) {
            feed(&mut stopped, from..from + 250);
            let json = serde_json::to_string(&stopped).unwrap();
            stopped = serde_json::from_str(&json).unwrap();
            stopped.validate().unwrap();
        }
        assert_eq!(stopped, straight);
        let bits = |monitor: &Monitor| {
            let risk = monitor.risk.as_ref().unwrap();
            [monitor.drift.ln_wealth(), risk.ln_wealth()].map(f64::to_bits)
        };
        assert_eq!(bits(&stopped), bits(&straight));
    }

    #[test]
    fn one_row_of_a_unit_counts() {
        let mut monitor = started();
        assert!(monitor.observe(Some(4), 0.5));
        assert!(!monitor.observe(Some(4), 0.9));
        assert!(monitor.observe(None, 0.5) && monitor.observe(None, 0.5));
        assert_eq!(monitor.drift.rows(), 3);
        // A unit's answer counts although another row of it was counted for drift.
        assert!(monitor.observe_answer(Some(4), true));
        assert!(!monitor.observe_answer(Some(4), true));
        assert!(monitor.has_answer_of(4) && !monitor.has_answer_of(5));
        assert_eq!(monitor.risk.as_ref().unwrap().rows(), 1);
    }

    #[test]
    fn what_cannot_be_monitored_is_refused() {
        let rows = multi_set(50, 1);
        let select = SelectRows::new(&rows, 1).unwrap();
        let calib = CalibRows::new(&rows, 1).unwrap();
        let none = SelectRows::new(&multi_set(0, 1), 1).unwrap();
        let binary = CalibRows::new(&binary_set(50, 1), 1).unwrap();
        let fine = Settings {
            level: 0.01,
            seed: 1,
            alpha: None,
        };
        let start = |select, calib, score: &Score, settings| {
            Monitor::start(select, calib, score.clone(), settings).map(|_| ())
        };
        let score = &Score::MaxProbability { temperature: 1.0 };
        let cases = [
            ("val_select has no rows", start(&none, &calib, score, &fine)),
            (
                "val_calib has 2 classes, 3",
                start(&select, &binary, score, &fine),
            ),
            (
                "val_select has 3 classes, 2",
                start(&select, &calib, &Score::BinaryMargin, &fine),
            ),
            (
                "level is 0",
                start(&select, &calib, score, &Settings { level: 0.0, ..fine }),
            ),
            (
                "alpha is 1",
                start(
                    &select,
                    &calib,
                    score,
                    &Settings {
                        alpha: Some(1.0),
                        ..fine
                    },
                ),
            ),
        ];
        for (want, got) in cases {
            let got = got.unwrap_err().to_string();
            assert!(got.contains(want), "{got}");
        }
    }
}
