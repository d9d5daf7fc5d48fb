//! Critical counts: integers, found by asking the exact p-value, never by rounding a product of floats.

use super::{cdf, survival};

/// The most errors among `n` rows with which "the risk is at least `alpha`" is still rejected at `level`:
/// max {k : P(Bin(n, α) ≤ k) ≤ level}; none if not even zero errors suffice.
pub fn max_errors(n: u64, alpha: f64, level: f64) -> Option<u64> {
    first(0, n, |k| cdf(k, n, alpha) > level).checked_sub(1)
}

/// The fewest errors among `n` rows with which "the risk is at most `alpha`" is rejected at `level`:
/// min {k : P(Bin(n, α) ≥ k) ≤ level}; `n + 1` if no count suffices.
pub fn min_errors_refuting(n: u64, alpha: f64, level: f64) -> u64 {
    first(0, n + 1, |k| survival(k, n, alpha) <= level)
}

/// The fewest rows that reject "the risk is at least `alpha`" at `level` although `errors` of them are wrong:
/// min {n : P(Bin(n, α) ≤ errors) ≤ level}, or `u64::MAX` if that is larger. For no error it is ⌈ln level / ln(1 − α)⌉.
pub fn min_rows(errors: u64, alpha: f64, level: f64) -> u64 {
    let enough = |n: u64| cdf(errors, n, alpha) <= level;
    let mut high = errors + 1;
    while !enough(high) {
        // Beyond all numbers of rows: so large a number is as good as none.
        let Some(twice) = high.checked_mul(2) else {
            return u64::MAX;
        };
        high = twice;
    }
    first(high / 2, high, enough)
}

/// The first number in `[low, high)` for which `is` holds, else `high`; `is` must be false, then true.
pub(super) fn first(mut low: u64, mut high: u64, is: impl Fn(u64) -> bool) -> u64 {
    while low < high {
        let middle = low + (high - low) / 2;
        if is(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn critical_counts_are_the_last_that_reject() {
        for n in [1, 44, 45, 46, 200, 1001] {
            for (alpha, level) in [(0.05, 0.1), (0.01, 0.05), (0.5, 0.2)] {
                match max_errors(n, alpha, level) {
                    None => assert!(cdf(0, n, alpha) > level),
                    Some(k) => {
                        assert!(
                            cdf(k, n, alpha) <= level && cdf(k + 1, n, alpha) > level,
                            "{n} {alpha} {level}"
                        );
                        assert!(
                            min_rows(k, alpha, level) <= n && min_rows(k + 1, alpha, level) > n
                        );
                    }
                }
                let k = min_errors_refuting(n, alpha, level);
                assert!(survival(k, n, alpha) <= level && survival(k - 1, n, alpha) > level);
            }
        }
    }

    #[test]
    fn rows_needed_without_an_error_are_those_of_the_formula() {
        let cases = [
            (0.05, 0.1, 45),
            (0.01, 0.1, 230),
            (0.05, 0.05, 59),
            (0.01, 0.05, 299),
        ];
        for (alpha, level, want) in cases {
            assert_eq!(min_rows(0, alpha, level), want);
        }
    }
}
