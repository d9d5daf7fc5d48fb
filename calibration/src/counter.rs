//! Randomness by counting: a number depends on its seed and its place alone, whichever thread asks.

/// 64 random bits for (`seed`, `stream`, `index`): SplitMix64's finaliser, once per word.
pub(crate) fn bits(seed: u64, stream: u64, index: u64) -> u64 {
    let word = |state: u64, word: u64| mix(state ^ mix(word.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    word(word(mix(seed), stream), index)
}

/// A number in `[0, 1)`.
pub(crate) fn uniform(seed: u64, stream: u64, index: u64) -> f64 {
    (bits(seed, stream, index) >> 11) as f64 / (1u64 << 53) as f64
}

/// A number below `n`, n > 0; its bias is below n / 2⁶⁴.
pub(crate) fn below(n: u64, seed: u64, stream: u64, index: u64) -> u64 {
    ((u128::from(bits(seed, stream, index)) * u128::from(n)) >> 64) as u64
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_and_streams_differ() {
        let n = 20_000;
        for (seed, stream) in [(0, 0), (0, 1), (1, 0)] {
            let mean: f64 = (0..n).map(|i| uniform(seed, stream, i)).sum::<f64>() / n as f64;
            assert!((mean - 0.5).abs() < 0.01, "{seed} {stream} {mean}");
        }
        assert_ne!(bits(0, 1, 0), bits(0, 0, 1));
        assert_ne!(bits(1, 0, 0), bits(0, 1, 0));
        assert!((0..n).all(|i| below(7, 3, 0, i) < 7));
    }
}
