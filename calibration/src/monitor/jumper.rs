use libm::log;
use serde::{Deserialize, Serialize};

/// Bets ε·(p − ½) for ε = −1, 0, 1.
const BETS: [f64; 3] = [-1.0, 0.0, 1.0];

/// The simple jumper: three bettors on whether p-values are small, uniform or large; before each round a share J of all
/// capital is dealt out anew. Its wealth is a martingale if p-values are independent and uniform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimpleJumper {
    /// J.
    jump: f64,
    /// The bettors' shares of the wealth.
    shares: [f64; 3],
    ln_wealth: f64,
    /// The largest after any round.
    ln_max: Option<f64>,
}

impl SimpleJumper {
    /// A jumper with capital 1 that deals out the share `jump` in `[0, 1]` every round; usually .01.
    pub fn new(jump: f64) -> Self {
        Self {
            jump,
            shares: [1.0 / 3.0; 3],
            ln_wealth: 0.0,
            ln_max: None,
        }
    }

    /// Bets on one p-value in `[0, 1]`; returns the logarithm of the wealth.
    pub fn bet(&mut self, p: f64) -> f64 {
        let dealt = self.jump / 3.0;
        for (share, bet) in self.shares.iter_mut().zip(BETS) {
            *share = ((1.0 - self.jump) * *share + dealt) * (1.0 + bet * (p - 0.5));
        }
        // Between ½ and 1½: no bettor's factor is outside.
        let sum: f64 = self.shares.iter().sum();
        self.shares.iter_mut().for_each(|share| *share /= sum);
        self.ln_wealth += log(sum);
        self.ln_max = Some(
            self.ln_max
                .map_or(self.ln_wealth, |max| max.max(self.ln_wealth)),
        );
        self.ln_wealth
    }

    /// Logarithm of the wealth.
    pub fn ln_wealth(&self) -> f64 {
        self.ln_wealth
    }

    /// Logarithm of the largest wealth after a round; none before the first.
    pub fn ln_max(&self) -> Option<f64> {
        self.ln_max
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let sum: f64 = self.shares.iter().sum();
        let numbers = [self.ln_wealth, self.ln_max.unwrap_or(0.0)];
        let fine = (0.0..=1.0).contains(&self.jump)
            && self.shares.iter().all(|share| *share >= 0.0)
            && (sum - 1.0).abs() < 1e-9
            && numbers.iter().all(|x| x.is_finite());
        if fine {
            return Ok(());
        }
        Err(format!(
            "jumper: jump {} must be in 0..=1, shares {:?} must be positive and add up to one, wealth must be finite",
            self.jump, self.shares
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_p_values_make_it_rich_and_uniform_ones_do_not() {
        for p in [0.02, 0.98] {
            let mut jumper = SimpleJumper::new(0.01);
            (0..200).for_each(|_| {
                jumper.bet(p);
            });
            assert!(jumper.ln_wealth() > 50.0, "{p}");
            jumper.validate().unwrap();
        }
        let mut jumper = SimpleJumper::new(0.01);
        for i in 0..1000 {
            jumper.bet(f64::from(i * 377 % 1000) / 1000.0);
        }
        assert!(jumper.ln_max().unwrap() < 4.0, "{jumper:?}");
    }

    #[test]
    fn a_million_rounds_neither_overflow_nor_underflow() {
        let mut jumper = SimpleJumper::new(0.01);
        (0..1_000_000).for_each(|_| {
            jumper.bet(0.0);
        });
        assert!(jumper.ln_wealth() > 3e5);
        jumper.validate().unwrap();
    }
}
