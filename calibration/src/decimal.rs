//! Levels are written as decimals, and the binary number beside 0.1 isn't a tenth: where a count is rounded, the decimal
//! that the number is printed as is meant, and integers do the arithmetic.

/// ⌊`n` · `share`⌋ for a `share` in `[0, 1]`, taken as the shortest decimal that reads back as that number.
pub(crate) fn floor_times(n: u64, share: f64) -> u64 {
    let (product, scale) = product(n, share);
    u64::try_from(product / scale).unwrap_or(u64::MAX)
}

/// ⌈`n` · `share`⌉, as [`floor_times`].
pub(crate) fn ceil_times(n: u64, share: f64) -> u64 {
    let (product, scale) = product(n, share);
    u64::try_from(product.div_ceil(scale)).unwrap_or(u64::MAX)
}

/// `n` · `share` as a fraction.
fn product(n: u64, share: f64) -> (u128, u128) {
    // Never in exponential form: that is how Rust shows a float.
    let text = share.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let scale = u32::try_from(fraction.len())
        .ok()
        .and_then(|digits| 10_u128.checked_pow(digits));
    let digits = format!("{whole}{fraction}").parse::<u128>();
    match (scale, digits) {
        (Some(scale), Ok(digits)) => (u128::from(n) * digits, scale),
        // Seventeen digits are the most that count: more than 38 places mean a share below 1e-21, of a u64 less than one.
        _ => (u128::from(n > 0 && share > 0.0), u128::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decimal_is_meant() {
        let cases = [
            (10, 0.1, 1),
            (9, 0.1, 0),
            (301, 0.05, 15),
            (u64::MAX, 0.5, u64::MAX / 2),
            (1000, 1e-300, 0),
            (1000, 0.0, 0),
            (7, 1.0, 7),
            (1_000_000, 0.000_001, 1),
        ];
        for (n, share, want) in cases {
            assert_eq!(floor_times(n, share), want, "{n} · {share}");
        }
        let cases = [
            (100, 0.07, 7),
            (10, 0.05, 1),
            (0, 0.5, 0),
            (7, 1.0, 7),
            (1000, 1e-300, 1),
        ];
        for (n, share, want) in cases {
            assert_eq!(ceil_times(n, share), want, "{n} · {share}");
        }
    }

    #[test]
    fn integers_and_floats_differ_somewhere() {
        let mut differ = 0;
        for thousandths in 1..1000 {
            let share = thousandths as f64 / 1000.0;
            for n in 1..300_u64 {
                let want = n * thousandths / 1000;
                assert_eq!(floor_times(n, share), want, "{n} · {share}");
                differ += u32::from((n as f64 * share).floor() as u64 != want);
            }
        }
        assert!(differ > 0, "then there would be no trap");
    }
}
