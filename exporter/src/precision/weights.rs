//! Weights as small integers: symmetric, with one scale for each output.

/// Integers and scales of a matrix `[inputs, outputs]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantised {
    pub(super) values: Vec<i8>,
    pub(super) scales: Vec<f32>,
}

/// Shares of the largest weight that the integers' range may be cut to: with few bits a finer grid is worth more than
/// the extremes.
const CUTS: [f32; 7] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7];

/// Rounds to `bits` bits, the sign among them; each output's scale is the one of [`CUTS`] with the smallest squared
/// error.
pub(super) fn quantise(weights: &[f32], outputs: usize, bits: u8) -> Quantised {
    let limit = f32::from((1_i16 << (bits - 1)) - 1);
    let mut largest = vec![0.0_f32; outputs];
    for row in weights.chunks_exact(outputs) {
        for (max, weight) in largest.iter_mut().zip(row) {
            *max = max.max(weight.abs());
        }
    }
    let mut best: Vec<(f64, f32)> = vec![(f64::INFINITY, 1.0); outputs];
    for cut in CUTS {
        let scales: Vec<f32> = largest.iter().map(|max| scale(max * cut, limit)).collect();
        for ((best, error), scale) in best
            .iter_mut()
            .zip(errors(weights, &scales, limit))
            .zip(&scales)
        {
            if error < best.0 {
                *best = (error, *scale);
            }
        }
    }
    let scales: Vec<f32> = best.into_iter().map(|(_, scale)| scale).collect();
    let round = |row: &[f32]| -> Vec<i8> {
        row.iter()
            .zip(&scales)
            .map(|(weight, scale)| rounded(*weight, *scale, limit) as i8)
            .collect()
    };
    Quantised {
        values: weights.chunks_exact(outputs).flat_map(round).collect(),
        scales,
    }
}

/// An output without weights still needs a scale that can be divided by.
fn scale(max: f32, limit: f32) -> f32 {
    (max / limit).max(f32::MIN_POSITIVE)
}

fn rounded(weight: f32, scale: f32, limit: f32) -> f32 {
    (weight / scale).round_ties_even().clamp(-limit, limit)
}

/// The squared error of each output.
fn errors(weights: &[f32], scales: &[f32], limit: f32) -> Vec<f64> {
    let mut errors = vec![0.0; scales.len()];
    for row in weights.chunks_exact(scales.len()) {
        for ((error, weight), scale) in errors.iter_mut().zip(row).zip(scales) {
            let off = f64::from(weight - rounded(*weight, *scale, limit) * scale);
            *error += off * off;
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::quantise;

    #[test]
    fn integers_stay_within_their_bits_and_near_the_weights() {
        // Two outputs of different size, a third without weights.
        let weights: Vec<f32> = (0..30_i16)
            .flat_map(|i| {
                let x = (f32::from(i) - 14.5) / 15.0;
                [x, 100.0 * x, 0.0]
            })
            .collect();
        for (bits, limit) in [(7, 63), (8, 127)] {
            let quantised = quantise(&weights, 3, bits);
            assert!(quantised.values.iter().all(|v| v.abs() <= limit), "{bits}");
            for (i, (weight, value)) in weights.iter().zip(&quantised.values).enumerate() {
                let scale = quantised.scales[i % 3];
                let off = (weight - f32::from(*value) * scale).abs();
                // Half a step, or what the range was cut by.
                let cut = 0.3 * [1.0, 100.0, 0.0][i % 3];
                assert!(
                    off <= (0.5001 * scale).max(cut),
                    "{bits}: {weight} {value} {scale}"
                );
            }
        }
    }
}
