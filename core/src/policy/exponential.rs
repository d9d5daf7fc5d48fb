//! An exponential that compilers turn into vector code: a loop over rows, or over classes, calls nothing.
//!
//! Additions and multiplications only, so that the bits are the same on every platform.

use std::f64::consts::LOG2_E;

/// ln 2 in two parts, the first with so few digits that its multiples are exact (as in fdlibm).
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
/// Adding it leaves whole numbers in the last bits: 1.5·2⁵².
const WHOLE: f64 = 6_755_399_441_055_744.0;
/// Below, the result isn't a normal number any more, and counts as 0.
const LEAST: f64 = -708.0;
/// 1/13!, …, 1/2!, 1, 1: to 1e-17 for |r| ≤ ln 2 / 2.
const TAYLOR: [f64; 14] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// exp(`x`) for x ≤ 0, to two units in the last place; 0 below −708.
#[inline]
pub fn exp_of_nonpositive(x: f64) -> f64 {
    // x = k·ln 2 + r.
    let shifted = x * LOG2_E + WHOLE;
    let k = shifted - WHOLE;
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    let mut power = TAYLOR[0];
    for coefficient in &TAYLOR[1..] {
        power = power * r + coefficient;
    }
    // 2^k: k sits in the last bits of `shifted`, an exponent in the first ones.
    let scale = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1.0_f64.to_bits()));
    if x < LEAST { 0.0 } else { power * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_libms_to_two_units() {
        let mut x = 0.0;
        while x > LEAST {
            let (got, want) = (exp_of_nonpositive(x), libm::exp(x));
            assert!(
                (got / want - 1.0).abs() <= 2.0 * f64::EPSILON,
                "{x}: {got} {want}"
            );
            x -= 0.000_731 + x.abs() * 1e-4;
        }
        for x in [-0.0, -1e-300, -1e-17] {
            assert_eq!(exp_of_nonpositive(x).to_bits(), 1.0_f64.to_bits(), "{x}");
        }
        for x in [-708.1, -745.0, -1e30, -1e300, f64::NEG_INFINITY] {
            assert_eq!(exp_of_nonpositive(x).to_bits(), 0.0_f64.to_bits(), "{x}");
        }
    }
}
