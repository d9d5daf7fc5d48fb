//! How likely a test is to decide, and how many rows it takes.
//!
//! Power isn't monotone in the number of rows: it falls a little until one more error is allowed, then jumps. "Rows
//! for 80 % power" is therefore the smallest n from which on the power stays at 80 %. Within a block of equal critical
//! counts power is monotone, so that only blocks need be looked at.

use super::counts::first;
use super::{cdf, max_errors, min_errors_refuting, min_rows, survival};

/// The power that "enough rows" means.
const ENOUGH: f64 = 0.8;
/// Beyond this many rows the answer is "none".
const MOST_ROWS: u64 = 1_000_000_000;
/// How far beyond the last short block to look for another one: rounding makes block ends jitter.
const LOOK_AHEAD: u64 = 32;

/// P("the risk is at least α" is rejected at `level`) with `n` rows when the risk is `rate`.
pub fn held_power(n: u64, alpha: f64, level: f64, rate: f64) -> f64 {
    max_errors(n, alpha, level).map_or(0.0, |k| cdf(k, n, rate))
}

/// P("the risk is at most α" is rejected at `level`) with `n` rows when the risk is `rate`.
pub fn refuted_power(n: u64, alpha: f64, level: f64, rate: f64) -> f64 {
    survival(min_errors_refuting(n, alpha, level), n, rate)
}

/// Rows from which on [`held_power`] stays at 80 %; none if `rate` isn't below `alpha`, or it takes over a billion.
pub fn rows_for_held(alpha: f64, level: f64, rate: f64) -> Option<u64> {
    if rate >= alpha {
        return None;
    }
    // Block k holds the n whose critical count is k; its last n has the least power.
    let last_of = |k: u64| min_rows(k + 1, alpha, level) - 1;
    let short = |k: u64| cdf(k, last_of(k), rate) < ENOUGH;
    let block = first_good_block(short, |k| last_of(k) > MOST_ROWS)?;
    Some(min_rows(block, alpha, level))
}

/// Rows from which on [`refuted_power`] stays at 80 %; none if `rate` isn't above `alpha`, or it takes over a billion.
pub fn rows_for_refuted(alpha: f64, level: f64, rate: f64) -> Option<u64> {
    if rate <= alpha {
        return None;
    }
    // Block k holds the n whose critical count is k + 1; its first n has the least power.
    let first_of = |k: u64| rows_of_refuting(k, alpha, level) + 1;
    let power = |k: u64, n: u64| survival(k + 1, n, rate);
    let short = |k: u64| power(k, first_of(k)) < ENOUGH;
    let Some(last_short) = first_good_block(short, |k| first_of(k) > MOST_ROWS)?.checked_sub(1)
    else {
        return Some(1);
    };
    let (from, to) = (first_of(last_short), first_of(last_short + 1));
    Some(first(from, to, |n| power(last_short, n) >= ENOUGH))
}

/// The most rows in which `errors` errors still refute at `level`.
fn rows_of_refuting(errors: u64, alpha: f64, level: f64) -> u64 {
    let fails = |n: u64| survival(errors, n, alpha) > level;
    let mut high = errors + 1;
    while !fails(high) {
        high *= 2;
    }
    first(errors, high, fails).saturating_sub(1)
}

/// The first block from which on none is `short`: blocks are short up to some k and then, but for jitter, no more.
/// None when a block that is `too_far` is reached before.
fn first_good_block(short: impl Fn(u64) -> bool, too_far: impl Fn(u64) -> bool) -> Option<u64> {
    let mut high = 1;
    while short(high) {
        high *= 2;
        if too_far(high) {
            return None;
        }
    }
    let good = first(0, high, |k| !short(k));
    let late = (good..good + LOOK_AHEAD).rev().find(|k| short(*k));
    Some(late.map_or(good, |k| k + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answered rows for 80 % power at γ = .05, as the binding page lists them.
    #[test]
    fn rows_for_power_are_those_of_the_table() {
        struct Line {
            alpha: f64,
            held: [u64; 4],
            refuted: [u64; 3],
        }
        let table = [
            Line {
                alpha: 0.05,
                held: [434, 1260, 2869, 11618],
                refuted: [2210, 628, 191],
            },
            Line {
                alpha: 0.01,
                held: [2185, 6434, 14814, 60342],
                refuted: [11569, 3295, 1015],
            },
            Line {
                alpha: 0.10,
                held: [203, 593, 1365, 5520],
                refuted: [1045, 299, 89],
            },
        ];
        for Line {
            alpha,
            held,
            refuted,
        } in table
        {
            for (times, want) in [0.5, 0.7, 0.8, 0.9].iter().zip(held) {
                assert_eq!(
                    rows_for_held(alpha, 0.05, times * alpha),
                    Some(want),
                    "{alpha} {times}"
                );
            }
            for (times, want) in [1.25, 1.5, 2.0].iter().zip(refuted) {
                assert_eq!(
                    rows_for_refuted(alpha, 0.05, times * alpha),
                    Some(want),
                    "{alpha} {times}"
                );
            }
        }
    }

    #[test]
    fn power_stays_from_there_on() {
        let n = rows_for_held(0.1, 0.05, 0.05).unwrap();
        assert!(held_power(n - 1, 0.1, 0.05, 0.05) < ENOUGH);
        assert!((n..n + 400).all(|n| held_power(n, 0.1, 0.05, 0.05) >= ENOUGH));
        let n = rows_for_refuted(0.1, 0.05, 0.2).unwrap();
        assert!(refuted_power(n - 1, 0.1, 0.05, 0.2) < ENOUGH);
        assert!((n..n + 400).all(|n| refuted_power(n, 0.1, 0.05, 0.2) >= ENOUGH));
    }

    #[test]
    fn no_number_of_rows_shows_what_is_not_so() {
        assert_eq!(rows_for_held(0.05, 0.05, 0.05), None);
        assert_eq!(rows_for_refuted(0.05, 0.05, 0.05), None);
        assert_eq!(rows_for_held(0.05, 0.1, 0.0), Some(45));
        assert_eq!(rows_for_held(0.05, 0.1, 0.049_999_9), None);
    }
}
