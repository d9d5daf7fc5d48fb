//! What depends on the size of the image: rotary tables and interpolated learned positions.

use super::{Positions, Role, RopePeriods, VitSpec, Weights};
use half::bf16;
use std::f64::consts::PI;

/// Cosines and sines of the rotary embedding, `[grid_h * grid_w, head_dim]` each, patches only.
///
/// A row is `[y angles | x angles]` (a quarter of `head_dim` each), written twice: `q' = q * cos + rotate(q) * sin` with
/// `rotate([a, b]) = [-b, a]` on halves.
///
/// # Panics
/// When the backbone has learned positions.
pub fn rope_tables(spec: &VitSpec, grid_h: usize, grid_w: usize) -> (Vec<f32>, Vec<f32>) {
    let Positions::Rope { theta, periods } = spec.positions else {
        panic!("rotary tables asked of a backbone with learned positions");
    };
    let periods = rope_periods(theta, periods, spec.head_dim());
    let angles = rope_angles(&periods, grid_h, grid_w);
    let table = |f: fn(f64) -> f64| angles.iter().map(|a| f(*a) as f32).collect();
    (table(f64::cos), table(f64::sin))
}

/// A quarter of `head_dim`, from 1 up to almost `theta`.
fn rope_periods(theta: f64, precision: RopePeriods, head_dim: usize) -> Vec<f64> {
    let exact = |i: usize| theta.powf((4 * i) as f64 / head_dim as f64);
    let rounded = |period: f64| match precision {
        RopePeriods::Fp32 => period,
        // Through float32, as torch computes a power in bfloat16.
        RopePeriods::Bf16 => bf16::from_f32(period as f32).to_f64(),
    };
    (0..head_dim / 4).map(exact).map(rounded).collect()
}

fn rope_angles(periods: &[f64], grid_h: usize, grid_w: usize) -> Vec<f64> {
    let centre = |index: usize, count: usize| 2.0 * (index as f64 + 0.5) / count as f64 - 1.0;
    let mut angles = Vec::with_capacity(grid_h * grid_w * 4 * periods.len());
    for y in 0..grid_h {
        for x in 0..grid_w {
            let coordinates = [centre(y, grid_h), centre(x, grid_w)];
            for coordinate in [coordinates, coordinates].concat() {
                angles.extend(periods.iter().map(|period| 2.0 * PI * coordinate / period));
            }
        }
    }
    angles
}

/// The learned positions for a grid of patches, `[1 + grid_h * grid_w, D]`: the class token's, then the patches' row by
/// row, interpolated bicubically as transformers does it (half-pixel centres, edges repeated).
///
/// # Panics
/// When the backbone has rotary positions.
pub fn position_embeddings(
    spec: &VitSpec,
    weights: &Weights,
    grid_h: usize,
    grid_w: usize,
) -> Vec<f32> {
    let Positions::Learned { grid, antialias } = spec.positions else {
        panic!("learned positions asked of a backbone with rotary ones");
    };
    let (class, patches) = weights.get(Role::PositionEmbeddings).split_at(spec.hidden);
    let filter = if antialias { antialiased } else { four_taps };
    let rows = filter(grid, grid_h);
    let columns = filter(grid, grid_w);
    let mut out = class.to_vec();
    for row in &rows {
        for column in &columns {
            out.extend(blend(patches, grid, spec.hidden, row, column));
        }
    }
    out
}

/// The input positions that make one output position, with their weights.
type Taps = Vec<(usize, f64)>;

fn blend(patches: &[f32], grid: usize, width: usize, rows: &Taps, columns: &Taps) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for (y, row_weight) in rows {
        for (x, column_weight) in columns {
            let token = &patches[(y * grid + x) * width..][..width];
            let weight = row_weight * column_weight;
            sum.iter_mut()
                .zip(token)
                .for_each(|(s, v)| *s += weight * f64::from(*v));
        }
    }
    sum.into_iter().map(|s| s as f32).collect()
}

/// PyTorch's plain bicubic interpolation: four neighbours, Keys' kernel with a = -0.75.
fn four_taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let taps = |i: usize| {
        let centre = (i as f64 + 0.5) * scale - 0.5;
        let first = centre.floor() as isize - 1;
        (first..first + 4)
            .map(|at| {
                let inside = at.clamp(0, from as isize - 1) as usize;
                (inside, cubic(centre - at as f64, -0.75))
            })
            .collect()
    };
    (0..to).map(taps).collect()
}

/// PyTorch's antialiased bicubic interpolation: the kernel (a = -0.5) is as wide as the shrinkage, cut at the edges
/// and normalised.
fn antialiased(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let taps = |i: usize| {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let weight = |at: usize| cubic((at as f64 + 0.5 - centre) / stretch, -0.5);
        let total: f64 = (first..end).map(weight).sum();
        (first..end).map(|at| (at, weight(at) / total)).collect()
    };
    (0..to).map(taps).collect()
}

/// Keys' cubic convolution kernel.
fn cubic(distance: f64, a: f64) -> f64 {
    let x = distance.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ffn, spec::tests::dinov3};
    use super::*;

    #[test]
    fn rope_has_the_published_check_numbers() {
        let (cos, sin) = rope_tables(&dinov3(384, 6, Ffn::Mlp), 14, 14);
        assert_eq!((cos.len(), sin.len()), (196 * 64, 196 * 64));
        let columns = [0, 1, 15, 16, 17, 31];
        let want = [
            (
                &cos,
                [0.900969, -0.330862, 0.996975, 0.222521, -0.847002, 0.997834],
            ),
            (
                &sin,
                [0.433884, 0.943679, -0.077724, 0.974928, 0.531590, -0.065786],
            ),
        ];
        for (table, want) in want {
            for (column, want) in columns.into_iter().zip(want) {
                // Patch (0, 1); the second half of a row repeats the first.
                for got in [table[64 + column], table[64 + 32 + column]] {
                    assert!(
                        (got - want).abs() < 1e-6,
                        "column {column}: {got} for {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn periods_are_rounded_when_asked() {
        let exact = rope_periods(100.0, RopePeriods::Fp32, 64);
        let rounded = rope_periods(100.0, RopePeriods::Bf16, 64);
        assert_eq!((exact.len(), rounded.len()), (16, 16));
        // bfloat16 keeps 8 bits: 100^(1/16) = 1.333521 lies between 170/128 and 171/128.
        assert!((exact[1] - 1.333_521).abs() < 1e-6);
        assert!((rounded[1] - 171.0 / 128.0).abs() < 1e-12, "{}", rounded[1]);
        assert!((rounded[15] - 75.0).abs() < 1e-12, "{}", rounded[15]);
        for (a, b) in exact.iter().zip(&rounded) {
            assert!((a - b).abs() <= a / 256.0);
        }
    }

    #[test]
    fn filters_keep_constants_and_are_exact_at_the_same_size() {
        for filter in [four_taps, antialiased] {
            for (from, to) in [(8, 8), (8, 12), (8, 5), (37, 16), (3, 1)] {
                for taps in filter(from, to) {
                    let total: f64 = taps.iter().map(|(_, weight)| weight).sum();
                    assert!((total - 1.0).abs() < 1e-12, "{from} -> {to}: {total}");
                }
            }
            for (i, taps) in filter(8, 8).iter().enumerate() {
                let at_centre: f64 = taps.iter().filter(|(at, _)| *at == i).map(|(_, w)| w).sum();
                assert!((at_centre - 1.0).abs() < 1e-12, "{i}: {taps:?}");
            }
        }
    }
}
