//! Upper bounds and p-values for the mean of bounded losses. For 0/1 losses use the exact [`binomial`](crate::binomial)
//! test, which is never worse.
//!
//! | bound | paper | for |
//! |---|---|---|
//! | Waudby-Smith & Ramdas (WSR) | 2020, 2010.09686 | groups: one loss per unit, in an order that knows nothing of them |
//! | Hoeffding–Bentkus | Bates et al. 2021, 2101.02703 | fractional losses, where only their sum is known |
//! | empirical Bernstein | Maurer & Pontil 2009, 0907.3740 | comparison |
//!
//! Each says: over draws of independent units from one distribution, the mean is above the bound with probability at most
//! `level`. That is for one bound that was asked for beforehand, not for the lowest of several, and for losses in [0, 1] of
//! units, not of the rows within them. Whoever looks again after more rows makes another attempt (WSR's wealth may be
//! looked at any time, but the losses must go in one by one, in their order).
//!
//! ```
//! use stage1_calibration::bounds::{empirical_bernstein_upper, hoeffding_bentkus_upper, wsr_upper};
//!
//! // A quarter of each of every fifth unit's images is wrong: a mean loss of 5 %.
//! let losses: Vec<f64> = (0..400).map(|i| if i % 5 == 4 { 0.25 } else { 0.0 }).collect();
//! let level = 0.1;
//! let by_betting = wsr_upper(&losses, level);
//! let by_sum = hoeffding_bentkus_upper(losses.iter().sum(), 400, level);
//! let by_variance = empirical_bernstein_upper(&losses, level);
//! assert!(0.05 < by_betting && by_betting < by_sum && by_betting < by_variance);
//! ```

mod empirical_bernstein;
mod hoeffding_bentkus;
mod wsr;

pub use empirical_bernstein::{empirical_bernstein_p, empirical_bernstein_upper};
pub use hoeffding_bentkus::{
    LnParts, hoeffding_bentkus_ln_parts, hoeffding_bentkus_p, hoeffding_bentkus_upper,
};
pub(crate) use wsr::wsr_p_down_to_level;
pub use wsr::{Wealth, wsr_p, wsr_refuting_p, wsr_upper, wsr_wealth};
