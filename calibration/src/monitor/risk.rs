use super::{MonitorError, check_level};
use libm::{exp, log, log1p};
use serde::{Deserialize, Serialize};

/// What is bet on "the risk is above α", in units of the stake; those with λ·α ≥ 1 are left out.
pub const LAMBDAS: [f64; 6] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0];

/// The alarm with labels: a mixture of bettors against "the risk is at most α".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Risk {
    alpha: f64,
    level: f64,
    bettors: Vec<Bettor>,
    rows: u64,
    losses: f64,
    /// The largest after any row.
    ln_max: Option<f64>,
    alarm_at: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bettor {
    lambda: f64,
    ln_wealth: f64,
}

impl Risk {
    /// Bets [`LAMBDAS`] against a risk of at most `alpha`, with an alarm at 1 / `level`.
    ///
    /// # Errors
    /// [`MonitorError::Level`].
    pub fn new(alpha: f64, level: f64) -> Result<Self, MonitorError> {
        Self::with_lambdas(alpha, level, &LAMBDAS)
    }

    /// As [`Risk::new`] with other positive bets, of which one at least must have λ·α < 1.
    ///
    /// # Errors
    /// [`MonitorError::Level`].
    pub fn with_lambdas(alpha: f64, level: f64, lambdas: &[f64]) -> Result<Self, MonitorError> {
        check_level("alpha", alpha)?;
        check_level("level", level)?;
        let allowed = lambdas.iter().filter(|lambda| **lambda * alpha < 1.0);
        Ok(Self {
            alpha,
            level,
            bettors: allowed
                .map(|lambda| Bettor {
                    lambda: *lambda,
                    ln_wealth: 0.0,
                })
                .collect(),
            rows: 0,
            losses: 0.0,
            ln_max: None,
            alarm_at: None,
        })
    }

    /// Takes one loss in `[0, 1]`: 1 for a wrong answer, 0 for a right one.
    pub fn observe(&mut self, loss: f64) {
        for bettor in &mut self.bettors {
            bettor.ln_wealth += log1p(bettor.lambda * (loss - self.alpha));
        }
        self.rows += 1;
        self.losses += loss;
        let wealth = self.ln_wealth();
        self.ln_max = Some(self.ln_max.map_or(wealth, |max| max.max(wealth)));
        if wealth >= -log(self.level) && self.alarm_at.is_none() {
            self.alarm_at = Some(self.rows);
        }
    }

    /// Logarithm of the mean wealth; an alarm is raised at −ln(level).
    pub fn ln_wealth(&self) -> f64 {
        let all = || self.bettors.iter().map(|bettor| bettor.ln_wealth);
        let largest = all().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = all().map(|x| exp(x - largest)).sum();
        largest + log(sum / self.bettors.len() as f64)
    }

    /// Logarithm of the largest mean wealth so far; none before the first row.
    pub fn ln_max(&self) -> Option<f64> {
        self.ln_max
    }

    /// Whether the wealth ever was 1 / level: what was raised stays raised.
    pub fn has_alarmed(&self) -> bool {
        self.alarm_at.is_some()
    }

    /// The labelled row, from 1, at which the alarm was raised.
    pub fn alarm_at(&self) -> Option<u64> {
        self.alarm_at
    }

    /// Labelled rows observed.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Sum of their losses: wrong answers.
    pub fn losses(&self) -> f64 {
        self.losses
    }

    /// The risk that is bet against.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Probability that an alarm is ever raised for nothing.
    pub fn level(&self) -> f64 {
        self.level
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        check_level("alpha", self.alpha).map_err(|error| error.to_string())?;
        check_level("level", self.level).map_err(|error| error.to_string())?;
        let fine = |bettor: &Bettor| {
            bettor.lambda > 0.0 && bettor.lambda * self.alpha < 1.0 && bettor.ln_wealth.is_finite()
        };
        if !self.bettors.is_empty()
            && self.bettors.iter().all(fine)
            && self.losses <= self.rows as f64
        {
            return Ok(());
        }
        Err(format!(
            "risk: {} losses of {} rows, bettors {:?}: bets must be positive, below 1/alpha, and of finite wealth",
            self.losses, self.rows, self.bettors
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::uniform;

    fn after(rate: f64, rows: u64, stream: u64) -> Risk {
        let mut risk = Risk::new(0.05, 0.05).unwrap();
        for i in 0..rows {
            risk.observe(f64::from(u8::from(uniform(1, stream, i) < rate)));
        }
        risk
    }

    #[test]
    fn a_doubled_risk_is_found_and_a_kept_one_is_not() {
        let alarms = |rate| {
            (0..400)
                .filter(|stream| after(rate, 2000, *stream).has_alarmed())
                .count()
        };
        assert!(alarms(0.1) >= 390);
        // At the bound itself: 20 of 400 are promised, 38 come once in 10,000 times.
        assert!(alarms(0.05) <= 38, "{}", alarms(0.05));
        assert_eq!(alarms(0.02), 0);
    }

    #[test]
    fn large_targets_leave_out_large_bets() {
        let risk = Risk::new(0.3, 0.1).unwrap();
        let bets: Vec<f64> = risk.bettors.iter().map(|bettor| bettor.lambda).collect();
        assert_eq!(bets, [0.25, 0.5, 1.0, 2.0]);
        assert!((risk.ln_wealth()).abs() < 1e-15);
        risk.validate().unwrap();
    }
}
