//! Upper bounds and p-values for the mean of bounded losses. For 0/1 losses use the exact [`binomial`](crate::binomial)
//! test, which is never worse.

mod empirical_bernstein;
mod hoeffding_bentkus;
mod wsr;

pub use empirical_bernstein::{empirical_bernstein_p, empirical_bernstein_upper};
pub use hoeffding_bentkus::{
    LnParts, hoeffding_bentkus_ln_parts, hoeffding_bentkus_p, hoeffding_bentkus_upper,
};
pub(crate) use wsr::wsr_p_down_to_level;
pub use wsr::{Wealth, wsr_p, wsr_refuting_p, wsr_upper, wsr_wealth};
