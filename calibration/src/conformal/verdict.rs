use super::ConformalError;
use super::predictor::{SetPredictor, Thresholds};
use super::quantile::{Quantile, check_level};
use crate::binomial::ln_pmf;
use crate::rows::TestRows;
use libm::{exp, log1p};
use serde::{Deserialize, Serialize};
use stage1_core::certificate::SampleSize;

/// What val_test says about prediction sets. It can't say that the promise was kept: the promise is one on average over
/// calibrations, and this is one calibration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SetVerdict {
    /// So many misses are nothing unusual.
    Consistent,
    /// So many misses come with probability at most γ if val_test is drawn like val_calib.
    Refuted,
}

/// Misses under one threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPart {
    /// The class whose rows these are; none: all rows.
    pub class: Option<usize>,
    /// Rows.
    pub n: u64,
    /// Rows whose set lacks the true label.
    pub misses: u64,
    /// P(at least so many misses), see [`misses_tail`].
    pub p_value: f64,
}

/// Prediction sets on val_test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetValidation {
    /// The verdict: REFUTED if some part's p-value is at most γ divided by the number of parts.
    pub verdict: SetVerdict,
    /// Its level.
    pub gamma: f64,
    /// val_test.
    pub test: SampleSize,
    /// Rows that got a set; fewer than all if the predictor selects.
    pub judged: u64,
    /// Share of sets that hold the true label; none if there are no sets.
    pub coverage: Option<f64>,
    /// Mean number of labels in a set; none if there are no sets.
    pub mean_size: Option<f64>,
    /// Sets without any label.
    pub empty: u64,
    /// One part for all rows, or one for each class.
    pub parts: Vec<SetPart>,
}

impl SetPredictor {
    /// Counts the misses on val_test at level `gamma`.
    ///
    /// # Errors
    /// [`ConformalError::Level`] or [`ConformalError::Classes`].
    pub fn validate(&self, test: &TestRows, gamma: f64) -> Result<SetValidation, ConformalError> {
        check_level("gamma", gamma)?;
        self.check_classes("val_test", test.classes())?;
        let rows = test.0.labelled();
        let mut parts = self.parts();
        let (mut judged, mut sizes, mut empty) = (0, 0, 0);
        for i in 0..rows.n() {
            let Some(set) = self.predict(rows.row(i))? else {
                continue;
            };
            judged += 1;
            sizes += set.len();
            empty += u64::from(set.is_empty());
            let part = parts.len().saturating_sub(1).min(rows.labels[i]);
            parts[part].n += 1;
            parts[part].misses += u64::from(!set.contains(&rows.labels[i]));
        }
        for (part, quantile) in parts.iter_mut().zip(self.quantiles()) {
            part.p_value = misses_tail(part.misses, part.n, quantile);
        }
        let level = gamma / parts.len() as f64;
        let refuted = parts.iter().any(|part| part.p_value <= level);
        let misses: u64 = parts.iter().map(|part| part.misses).sum();
        Ok(SetValidation {
            verdict: if refuted {
                SetVerdict::Refuted
            } else {
                SetVerdict::Consistent
            },
            gamma,
            test: test.size(),
            judged,
            coverage: (judged > 0).then(|| 1.0 - misses as f64 / judged as f64),
            mean_size: (judged > 0).then(|| sizes as f64 / judged as f64),
            empty,
            parts,
        })
    }

    fn parts(&self) -> Vec<SetPart> {
        let part = |class| SetPart {
            class,
            n: 0,
            misses: 0,
            p_value: 1.0,
        };
        match &self.thresholds {
            Thresholds::Marginal { .. } => vec![part(None)],
            Thresholds::PerClass { quantiles } => (0..quantiles.len())
                .map(|class| part(Some(class)))
                .collect(),
        }
    }

    fn quantiles(&self) -> &[Quantile] {
        match &self.thresholds {
            Thresholds::Marginal { quantile } => std::slice::from_ref(quantile),
            Thresholds::PerClass { quantiles } => quantiles,
        }
    }
}

/// P(X ≥ `misses`) of X ~ BetaBin(`n`; n_calib + 1 − r, r): the misses among `n` new rows under a threshold that is the
/// r-th smallest of n_calib scores without ties (with ties there are fewer misses).
pub fn misses_tail(misses: u64, n: u64, quantile: &Quantile) -> f64 {
    if misses == 0 {
        return 1.0;
    }
    if misses > n || quantile.rank > quantile.n {
        return 0.0;
    }
    let count = BetaBinomial {
        n,
        a: quantile.n + 1 - quantile.rank,
        b: quantile.rank,
    };
    if misses as f64 > count.mean() {
        return exp(count.ln_pmf(misses)) * count.sum_up(misses);
    }
    let below = exp(count.ln_pmf(misses - 1)) * count.sum_down(misses - 1);
    1.0 - below.min(1.0)
}

/// A binomial count whose rate is a draw from Beta(`a`, `b`); whole `a`, `b` ≥ 1.
struct BetaBinomial {
    n: u64,
    a: u64,
    b: u64,
}

/// Terms smaller than this share of the sum no longer change it.
const NEGLIGIBLE: f64 = 1e-18;

impl BetaBinomial {
    fn mean(&self) -> f64 {
        self.n as f64 * self.a as f64 / (self.a + self.b) as f64
    }

    /// As a quotient of binomial probabilities, which lose no digits for large counts:
    /// C(j+a−1, j)·C(n−j+b−1, n−j) / C(n+a+b−1, n), in which any rate cancels.
    fn ln_pmf(&self, j: u64) -> f64 {
        let Self { n, a, b } = *self;
        let rate = n as f64 / (n + a + b - 1) as f64;
        ln_pmf(j, j + a - 1, rate) + ln_pmf(n - j, n - j + b - 1, rate)
            - ln_pmf(n, n + a + b - 1, rate)
            + log1p(-rate)
    }

    /// pmf(j + 1) / pmf(j).
    fn ratio(&self, j: u64) -> f64 {
        let Self { n, a, b } = *self;
        ((n - j) as f64 * (j + a) as f64) / ((j + 1) as f64 * (n - j - 1 + b) as f64)
    }

    /// Σ_{i ≥ j} pmf(i) / pmf(j).
    fn sum_up(&self, j: u64) -> f64 {
        let (mut term, mut sum) = (1.0, 1.0);
        for i in j..self.n {
            term *= self.ratio(i);
            sum += term;
            if term < NEGLIGIBLE * sum {
                break;
            }
        }
        sum
    }

    /// Σ_{i ≤ j} pmf(i) / pmf(j).
    fn sum_down(&self, j: u64) -> f64 {
        let (mut term, mut sum) = (1.0, 1.0);
        for i in (0..j).rev() {
            term /= self.ratio(i);
            sum += term;
            if term < NEGLIGIBLE * sum {
                break;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantile(n: u64, rank: u64) -> Quantile {
        Quantile {
            n,
            rank,
            value: Some(0.0),
        }
    }

    /// C(n, k) exactly.
    fn choose(n: u64, k: u64) -> f64 {
        (0..k).fold(1.0, |c, i| c * (n - i) as f64 / (i + 1) as f64)
    }

    #[test]
    fn tails_equal_the_definition() {
        for (n_calib, rank, n) in [(9, 9, 5), (19, 18, 30), (40, 30, 25), (3, 1, 8)] {
            let (a, b) = (n_calib + 1 - rank, rank);
            let pmf = |j: u64| {
                choose(j + a - 1, j) * choose(n - j + b - 1, n - j) / choose(n + a + b - 1, n)
            };
            for misses in 0..=n + 1 {
                let want: f64 = (misses..=n).map(pmf).sum();
                let got = misses_tail(misses, n, &quantile(n_calib, rank));
                assert!((got - want).abs() < 1e-12, "{misses} {n} {got} {want}");
            }
        }
    }

    #[test]
    fn one_new_row_is_missed_at_the_promised_rate() {
        // P(miss) = (n + 1 − r) / (n + 1) ≤ α, also for a million rows.
        for (n, rank) in [(9, 9), (199, 190), (1_000_000, 950_001)] {
            let want = (n + 1 - rank) as f64 / (n + 1) as f64;
            let got = misses_tail(1, 1, &quantile(n, rank));
            assert!((got - want).abs() < 1e-12 * n as f64, "{n} {got} {want}");
        }
    }

    #[test]
    fn an_infinite_threshold_never_misses() {
        let q = quantile(8, 9);
        let cases = [(0, 1.0_f64), (1, 0.0)];
        for (misses, want) in cases {
            assert_eq!(misses_tail(misses, 100, &q).to_bits(), want.to_bits());
        }
    }
}
