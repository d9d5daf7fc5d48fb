//! Smooth calibration error (Błasiok & Nakkiran 2023, arXiv 2309.12236).
//!
//! smECE_σ = ∫₀¹ |Σ_i (y_i − p_i)·K_σ(t, p_i)| dt / n, where K_σ is a Gaussian of width σ reflected at 0 and 1; the
//! error is the σ for which smECE_σ = σ. It has no bins to choose, and is continuous in the scores; like every plug-in
//! error it is above zero for a perfectly calibrated model on few rows.

use rayon::prelude::*;

/// Cells of the finest grid.
const FINEST: usize = 1 << 18;
/// Cells of the coarsest grid.
const COARSEST: usize = 1 << 6;
/// Grid points within one σ, at least: the error is then exact to about 1e-4 of itself.
const POINTS_PER_SIGMA: f64 = 32.0;
/// Where the kernel is cut, in σ: exp(−8.5² / 2) is 2e-16.
const REACH: f64 = 8.5;
/// How exactly the fixed point is found.
const WIDTH: f64 = 1e-9;
/// The smallest σ that the finest grid resolves. Smaller errors come out as smECE at this σ.
const SMALLEST: f64 = POINTS_PER_SIGMA / FINEST as f64;

/// The smooth calibration error of `scores` in `[0, 1]` against 0/1 `outcomes`; none without rows.
pub fn smooth_ece(scores: &[f64], outcomes: &[bool]) -> Option<f64> {
    if scores.is_empty() {
        return None;
    }
    let residuals = Residuals::new(scores, outcomes);
    let excess = |sigma: f64| residuals.error(sigma) - sigma;
    // The error is at most 1 and falls as σ rises: the fixed point lies between the error at σ = 1, and 1.
    let at_one = excess(1.0);
    let low = (at_one + 1.0).max(SMALLEST);
    let at_low = excess(low);
    if at_low <= 0.0 {
        return Some(at_low + low);
    }
    Some(falling_root(excess, (low, at_low), (1.0, at_one)))
}

/// The root of a falling function between two points (x, f(x)): false position with Illinois' halving.
fn falling_root(f: impl Fn(f64) -> f64, mut low: (f64, f64), mut high: (f64, f64)) -> f64 {
    let mut side = 0;
    while high.0 - low.0 > WIDTH && high.1 < 0.0 {
        let x = (low.0 * high.1 - high.0 * low.1) / (high.1 - low.1);
        let x = x.clamp(low.0 + WIDTH / 4.0, high.0 - WIDTH / 4.0);
        let value = f(x);
        if value > 0.0 {
            low = (x, value);
            high.1 *= if side == 1 { 0.5 } else { 1.0 };
            side = 1;
        } else {
            high = (x, value);
            low.1 *= if side == -1 { 0.5 } else { 1.0 };
            side = -1;
        }
    }
    high.0
}

/// (y − p) / n, spread linearly over the two nearest points of the finest grid.
struct Residuals(Vec<f64>);

impl Residuals {
    fn new(scores: &[f64], outcomes: &[bool]) -> Self {
        let mut grid = vec![0.0; FINEST + 1];
        for (score, outcome) in scores.iter().zip(outcomes) {
            let residual = if *outcome { 1.0 - score } else { -score };
            let place = score * FINEST as f64;
            let cell = (place as usize).min(FINEST - 1);
            let share = place - cell as f64;
            grid[cell] += (1.0 - share) * residual;
            grid[cell + 1] += share * residual;
        }
        let n = scores.len() as f64;
        grid.iter_mut().for_each(|mass| *mass /= n);
        Self(grid)
    }

    /// smECE_σ.
    fn error(&self, sigma: f64) -> f64 {
        let cells = ((POINTS_PER_SIGMA / sigma) as usize + 1)
            .next_power_of_two()
            .clamp(COARSEST, FINEST);
        let step = 1.0 / cells as f64;
        let kernel = kernel(sigma, step);
        let reach = kernel.len() - 1;
        let line = reflected(&self.coarsened(cells), reach);
        let smoothed = convolved(&line, &kernel);
        let ends = (smoothed[0].abs() + smoothed[cells].abs()) / 2.0;
        let inner: f64 = smoothed[1..cells].iter().map(|r| r.abs()).sum();
        (ends + inner) * step
    }

    /// The residuals on a grid of `cells` cells: halving a grid spreads every second point over its neighbours.
    fn coarsened(&self, cells: usize) -> Vec<f64> {
        let mut grid = self.0.clone();
        while grid.len() > cells + 1 {
            let half = (grid.len() - 1) / 2;
            let at = |i: usize| {
                let before = if i == 0 { 0.0 } else { grid[2 * i - 1] };
                let after = if i == half { 0.0 } else { grid[2 * i + 1] };
                grid[2 * i] + (before + after) / 2.0
            };
            grid = (0..=half).map(at).collect();
        }
        grid
    }
}

/// A Gaussian of width `sigma` at 0, `step`, 2·`step` …
fn kernel(sigma: f64, step: f64) -> Vec<f64> {
    let height = 1.0 / (sigma * std::f64::consts::TAU.sqrt());
    let at = |i: usize| {
        let z = i as f64 * step / sigma;
        height * libm::exp(-z * z / 2.0)
    };
    (0..=(REACH * sigma / step).ceil() as usize)
        .map(at)
        .collect()
}

/// The masses with their mirror images, `reach` points beyond both ends. A mass on the mirror itself is its own image,
/// and counts twice: half of its kernel lies outside.
fn reflected(masses: &[f64], reach: usize) -> Vec<f64> {
    let cells = masses.len() - 1;
    let at = |place: usize| {
        let period = 2 * cells;
        let i = (place + period * reach.div_ceil(period) - reach) % period;
        let mass = masses[i.min(period - i)];
        if i.is_multiple_of(cells) {
            2.0 * mass
        } else {
            mass
        }
    };
    (0..masses.len() + 2 * reach).map(at).collect()
}

/// Points that are smoothed together: enough for vector registers.
const BLOCK: usize = 64;

/// Σ_d kernel[|d|]·line[i + reach + d] for every point i.
fn convolved(line: &[f64], kernel: &[f64]) -> Vec<f64> {
    let reach = kernel.len() - 1;
    let mut out = vec![0.0; line.len() - 2 * reach];
    out.par_chunks_mut(BLOCK)
        .enumerate()
        .for_each(|(block, out)| {
            let centre = block * BLOCK + reach;
            let n = out.len();
            for (o, z) in out.iter_mut().zip(&line[centre..]) {
                *o = kernel[0] * z;
            }
            for (d, k) in kernel.iter().enumerate().skip(1) {
                let (left, right) = (&line[centre - d..][..n], &line[centre + d..][..n]);
                for ((o, l), r) in out.iter_mut().zip(left).zip(right) {
                    *o += k * (l + r);
                }
            }
        });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::uniform;

    /// The definition, by a fine midpoint rule over every row and its images.
    fn by_definition(scores: &[f64], outcomes: &[bool], sigma: f64) -> f64 {
        let points = 4000;
        let density = |d: f64| {
            (-d * d / (2.0 * sigma * sigma)).exp() / (sigma * std::f64::consts::TAU.sqrt())
        };
        let at = |t: f64| {
            let of = |(p, y): (&f64, &bool)| {
                let images = (-5..=5).map(|m| 2.0 * f64::from(m));
                let kernel: f64 = images
                    .map(|m| density(t - p + m) + density(t + p + m))
                    .sum();
                (if *y { 1.0 - p } else { -p }) * kernel
            };
            scores.iter().zip(outcomes).map(of).sum::<f64>().abs()
        };
        let sum: f64 = (0..points)
            .map(|i| at((f64::from(i) + 0.5) / f64::from(points)))
            .sum();
        sum / f64::from(points) / scores.len() as f64
    }

    #[test]
    fn smoothed_errors_are_those_of_the_definition() {
        let scores: Vec<f64> = (0..60)
            .map(|i| uniform(3, i, 0).clamp(0.3, 0.9))
            .chain([0.0, 1.0, 1.0])
            .collect();
        let outcomes: Vec<bool> = (0..63).map(|i| uniform(3, i, 1) < 0.6).collect();
        let residuals = Residuals::new(&scores, &outcomes);
        for sigma in [0.9, 0.3, 0.1, 0.03, 0.01] {
            let (got, want) = (
                residuals.error(sigma),
                by_definition(&scores, &outcomes, sigma),
            );
            assert!((got / want - 1.0).abs() < 1e-3, "{sigma}: {got} {want}");
        }
        let error = smooth_ece(&scores, &outcomes).unwrap();
        assert!(
            (by_definition(&scores, &outcomes, error) / error - 1.0).abs() < 1e-3,
            "{error}"
        );
    }

    #[test]
    fn extremes_are_finite() {
        let cases: [(&str, &[f64], &[bool], f64); 4] = [
            ("right and sure", &[1.0, 0.0], &[true, false], 0.0),
            // One mass of 1 that a reflected kernel keeps whole.
            ("wrong and sure", &[1.0], &[false], 1.0),
            ("half and half", &[0.5, 0.5], &[true, false], 0.0),
            (
                "all of one score",
                &[0.9; 4],
                &[true, true, false, false],
                0.4,
            ),
        ];
        for (name, scores, outcomes, want) in cases {
            let got = smooth_ece(scores, outcomes).unwrap();
            assert!((got - want).abs() < 1e-4, "{name}: {got}");
        }
        assert_eq!(smooth_ece(&[], &[]), None);
    }

    #[test]
    fn calibrated_scores_have_a_small_error_that_shrinks() {
        let error = |n: u64| {
            let scores: Vec<f64> = (0..n).map(|i| uniform(9, i, 0)).collect();
            let outcomes: Vec<bool> = (0..n)
                .map(|i| uniform(9, i, 1) < scores[i as usize])
                .collect();
            smooth_ece(&scores, &outcomes).unwrap()
        };
        assert!(
            error(1000) < 0.04 && error(100_000) < 0.006,
            "{} {}",
            error(1000),
            error(100_000)
        );
    }
}
