//! Before any model exists: can val_calib certify, and can val_test decide?

use crate::binomial;
use crate::error::{Result, level};

/// The share of images answered that a forecast assumes where nothing is known.
pub const ASSUMED_SHARE: f64 = 0.7;
/// No split has more units than this.
const MOST_UNITS: u64 = 1 << 40;

/// What can be expected of splits of a given size.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Forecast {
    /// Answers assumed on val_calib: share × units, rounded.
    pub calib_answered: u64,
    /// The most errors among them with which a threshold is still certified; none: nothing can be certified.
    pub max_errors: Option<u64>,
    /// The risk assumed of the certified policy: (max_errors + ½) / (calib_answered + 1). The planned sequence goes on
    /// until a threshold fails, so that the policy it takes lies near the edge of what val_calib can certify.
    pub assumed_risk: Option<f64>,
    /// P(HELD) on val_test at that risk; 0 if nothing can be certified.
    pub held: f64,
    /// The fewest units of val_test for which P(HELD) is at least one half; none if nothing can be certified.
    pub test_units_for_one_half: Option<u64>,
    /// The fewest units of val_calib that could certify anything, without an error.
    pub calib_units_needed: u64,
}

/// Forecasts the verdict for `calib_units` and `test_units` units, of which `share` are answered, with the certificate
/// at `alpha`, `delta` and the verdict at `gamma`. `split` warns when `held` is below one half.
///
/// # Errors
/// [`Error::Level`](crate::Error::Level).
pub fn forecast(
    calib_units: u64,
    test_units: u64,
    alpha: f64,
    delta: f64,
    gamma: f64,
    share: f64,
) -> Result<Forecast> {
    level("alpha", alpha)?;
    level("delta", delta)?;
    level("gamma", gamma)?;
    if share < 1.0 {
        level("share", share)?;
    }
    let answered = |units: u64| (units as f64 * share.min(1.0)).round() as u64;
    let calib_answered = answered(calib_units);
    let max_errors = binomial::max_errors(calib_answered, alpha, delta);
    let assumed_risk = max_errors.map(|k| (k as f64 + 0.5) / (calib_answered as f64 + 1.0));
    let held_at = |risk: f64, units: u64| binomial::held_power(answered(units), alpha, gamma, risk);
    Ok(Forecast {
        calib_answered,
        max_errors,
        assumed_risk,
        held: assumed_risk.map_or(0.0, |risk| held_at(risk, test_units)),
        test_units_for_one_half: assumed_risk
            .and_then(|risk| fewest(|units| held_at(risk, units) >= 0.5)),
        calib_units_needed: (binomial::min_rows(0, alpha, delta) as f64 / share.min(1.0)).ceil()
            as u64,
    })
}

/// The fewest units that are enough: about, because power falls a little before each jump.
fn fewest(enough: impl Fn(u64) -> bool) -> Option<u64> {
    let mut high = 1;
    while !enough(high) {
        high *= 2;
        if high > MOST_UNITS {
            return None;
        }
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(calib: u64, test: u64) -> Forecast {
        forecast(calib, test, 0.05, 0.1, 0.05, ASSUMED_SHARE).unwrap()
    }

    #[test]
    fn an_equal_val_test_seldom_decides_and_a_threefold_one_mostly_does() {
        for calib in [500, 1000, 2000, 5000] {
            assert!(at(calib, calib).held < 0.5, "{:?}", at(calib, calib));
            assert!(
                at(calib, 3 * calib).held > 0.6,
                "{:?}",
                at(calib, 3 * calib)
            );
        }
    }

    #[test]
    fn one_half_is_reached_at_the_number_told() {
        let needed = at(1000, 1).test_units_for_one_half.unwrap();
        assert!(at(1000, needed).held >= 0.5 && at(1000, needed - 1).held < 0.5);
        assert!((1000..3000).contains(&needed), "{needed}");
    }

    #[test]
    fn a_val_calib_that_can_certify_nothing_says_so() {
        let got = at(60, 10_000);
        assert_eq!(
            (
                got.max_errors,
                got.calib_units_needed,
                got.test_units_for_one_half
            ),
            (None, 65, None)
        );
        assert!(got.held.abs() < 1e-15);
        assert!(at(65, 10_000).max_errors.is_some());
    }
}
