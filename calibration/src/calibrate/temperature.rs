//! Temperature scaling (Guo et al. 2017) by a search that can't get lost: the likelihood is convex in 1/T.

use crate::parallel::chunked_sums;
use crate::rows::Labelled;
use libm::{exp, fabs, log};
use stage1_core::policy::{Fallback, Mixture, argmax, exp_of_nonpositive};
use std::ops::Range;

/// The search's border: T between e⁻¹⁶ and e¹⁶.
const BORDER: f64 = 16.0;
/// The search ends when u = ln(1/T) is known to this.
const WIDTH: f64 = 1e-13;
/// A search over many rows starts where one on this share of them ends, and so on,
const SHARE: usize = 4;
/// down to that many.
const SOME: usize = 1 << 12;

/// The temperature T that maximises the likelihood of `labels` under softmax(z / T).
///
/// # Errors
/// A [`Fallback`]: no rows, one class only, every row right (T → 0), logits that rank nothing (T → ∞), or an optimum
/// beyond the search's border.
pub fn temperature(rows: Labelled<'_>) -> Result<f64, Fallback> {
    temperature_near(rows, None)
}

/// As [`temperature`], searched first near the temperature of similar rows: the optimum is the same.
pub(super) fn temperature_near(rows: Labelled<'_>, near: Option<f64>) -> Result<f64, Fallback> {
    check(rows)?;
    let all = Every { rows, step: 1 };
    let start = near.map(|t| -log(t)).or_else(|| start(rows));
    match start.and_then(|u| polished(all, u)) {
        Some(u) => Ok(exp(-u)),
        None => in_bracket(all),
    }
}

/// Every `step`-th row.
#[derive(Clone, Copy)]
struct Every<'a> {
    rows: Labelled<'a>,
    step: usize,
}

impl<'a> Every<'a> {
    fn n(self) -> usize {
        self.rows.n().div_ceil(self.step)
    }

    /// The logits of the `i`-th of these rows, and its label.
    fn row(self, i: usize) -> (&'a [f32], usize) {
        (
            self.rows.row(i * self.step),
            self.rows.labels[i * self.step],
        )
    }
}

/// Near the optimum: that of ever more rows. None if there are so few that it saves no work.
fn start(rows: Labelled<'_>) -> Option<f64> {
    let mut step = 1;
    while rows.n() / step >= SHARE * SOME {
        step *= SHARE;
    }
    if step == 1 {
        return None;
    }
    let mut u = -log(in_bracket(Every { rows, step }).ok()?);
    while step > SHARE {
        step /= SHARE;
        u += Expansion::at(Every { rows, step }, u).zero()?.0;
    }
    Some(u)
}

/// Steps from `u` to where g's expansion there is zero; none if they don't soon end inside the border.
fn polished(rows: Every<'_>, mut u: f64) -> Option<f64> {
    for _ in 0..8 {
        let (step, uncertainty) = Expansion::at(rows, u).zero()?;
        u += step;
        if fabs(u) >= BORDER {
            return None;
        }
        if uncertainty <= 1e-10 {
            return Some(u);
        }
    }
    None
}

/// g(s) = mean over rows of Σ_k z_k·softmax(s·z)_k − z_label around s = 1/T: its value and its derivatives are the mean
/// cumulants of the logits under the softmax.
struct Expansion {
    s: f64,
    /// g, g′, g″, g‴.
    derivatives: [f64; 4],
}

impl Expansion {
    fn at(rows: Every<'_>, u: f64) -> Self {
        let s = exp(u);
        let sums = chunked_sums(rows.n(), |range| {
            let mut block = Block::new(rows.rows.classes);
            let mut sums = [0.0; 4];
            for start in range.clone().step_by(LANES) {
                block.read(rows, start..range.end.min(start + LANES));
                block.add_to(&mut sums, s);
            }
            sums
        });
        Self {
            s,
            derivatives: sums.map(|sum| sum / rows.n() as f64),
        }
    }

    /// The step in u to the zero that Newton's method finds from here, and about how far the true zero may lie beyond;
    /// none without one nearby.
    fn zero(&self) -> Option<(f64, f64)> {
        let [value, first, second, third] = self.derivatives;
        let mut h = 0.0;
        for _ in 0..16 {
            let at = value + h * (first + h * (second / 2.0 + h * third / 6.0));
            let slope = first + h * (second + h * third / 2.0);
            h -= at / slope;
        }
        // Not the opposite: NaN must not pass.
        let is_near = fabs(h) < self.s / 2.0;
        if !is_near {
            return None;
        }
        let step = libm::log1p(h / self.s);
        // The first term that was left out is to the last one as that one is to the one before; where these happen to be
        // small, terms are taken to fall as powers of h / s.
        let ratio = fabs(h / self.s);
        let before = fabs(second * h * h / (2.0 * first * self.s));
        let last = fabs(third * h * h * h / (6.0 * first * self.s));
        let last = last.max(before * ratio).max(ratio * ratio * ratio);
        Some((step, last * (last / before).min(1.0)))
    }
}

fn in_bracket(rows: Every<'_>) -> Result<f64, Fallback> {
    let (at_low, _) = slope(rows, -BORDER);
    let (at_high, _) = slope(rows, BORDER);
    if at_high <= 0.0 {
        let all_right = (0..rows.n())
            .map(|i| rows.row(i))
            .all(|(z, label)| argmax(z) == label);
        return Err(if all_right && at_low < 0.0 {
            Fallback::Separable
        } else {
            Fallback::AtBoundary
        });
    }
    if at_low >= 0.0 {
        return Err(if ranks(rows) {
            Fallback::AtBoundary
        } else {
            Fallback::SlopeNotPositive
        });
    }
    Ok(exp(-root(rows)))
}

/// Temperature scaling mixed with the uniform distribution, whose share is 1/(n + 1) (Laplace's rule): no class of any
/// row is reported as impossible. As `ts-mix` of the package probmetrics, which goes with Berta, Holzmüller, Jordan & Bach
/// 2025, "Rethinking early stopping: refine, then calibrate" (2501.19195).
///
/// # Errors
/// As [`temperature`].
pub fn ts_mix(rows: Labelled<'_>) -> Result<Mixture, Fallback> {
    ts_mix_near(rows, None)
}

/// As [`ts_mix`], searched first near the temperature of similar rows.
pub(super) fn ts_mix_near(rows: Labelled<'_>, near: Option<f64>) -> Result<Mixture, Fallback> {
    Ok(Mixture::new(temperature_near(rows, near)?, rows.n()))
}

fn check(rows: Labelled<'_>) -> Result<(), Fallback> {
    let first = rows.labels.first().ok_or(Fallback::NoRows)?;
    if rows.labels.iter().all(|label| label == first) {
        return Err(Fallback::OneClass);
    }
    Ok(())
}

/// Whether labels have larger logits than the mean class: the sign of g's limit for T → ∞, beyond its rounding.
fn ranks(rows: Every<'_>) -> bool {
    let [limit, size] = chunked_sums(rows.n(), |range| {
        let mut sums = [0.0; 2];
        for i in range {
            let (row, label) = rows.row(i);
            let mean = row.iter().map(|z| f64::from(*z)).sum::<f64>() / row.len() as f64;
            let own = f64::from(row[label]);
            sums[0] += mean - own;
            sums[1] += fabs(mean) + fabs(own);
        }
        sums
    });
    limit < -1e-12 * size
}

/// Bisection on u, taking Newton's step where it stays inside the bracket.
fn root(rows: Every<'_>) -> f64 {
    let (mut low, mut high, mut u) = (-BORDER, BORDER, 0.0);
    while high - low > WIDTH {
        let (value, derivative) = slope(rows, u);
        if value < 0.0 {
            low = u;
        } else {
            high = u;
        }
        let newton = u - value / derivative;
        if fabs(newton - u) <= WIDTH {
            return newton;
        }
        u = if low < newton && newton < high {
            newton
        } else {
            low + (high - low) / 2.0
        };
    }
    u
}

/// g as a function of u, which rises and is 0 at the optimum; and its derivative.
fn slope(rows: Every<'_>, u: f64) -> (f64, f64) {
    let Expansion {
        s,
        derivatives: [value, derivative, ..],
    } = Expansion::at(rows, u);
    (value, derivative * s)
}

/// Rows that are worked on together: loops over them become vector code.
const LANES: usize = 32;

/// Logits by class, each class's of a few rows side by side.
struct Block {
    /// z_k less the largest of the row: moments of these keep their digits. Lanes without a row hold zeros.
    logits: Vec<[f64; LANES]>,
    /// The largest of a row less its label's; 0 without a row, which then adds nothing.
    above_label: [f64; LANES],
}

impl Block {
    fn new(classes: usize) -> Self {
        Self {
            logits: vec![[0.0; LANES]; classes],
            above_label: [0.0; LANES],
        }
    }

    fn read(&mut self, rows: Every<'_>, range: Range<usize>) {
        if range.len() < LANES {
            self.logits.fill([0.0; LANES]);
            self.above_label = [0.0; LANES];
        }
        for (lane, i) in range.enumerate() {
            let (row, label) = rows.row(i);
            let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            for (class, z) in self.logits.iter_mut().zip(row) {
                class[lane] = f64::from(*z) - largest;
            }
            self.above_label[lane] = largest - f64::from(row[label]);
        }
    }

    /// Adds, for each row, the mean of its logits under their softmax, less the label's logit, and the second to fourth
    /// cumulants.
    fn add_to(&self, sums: &mut [f64; 4], scale: f64) {
        let mut moments = [[0.0; LANES]; 5];
        for class in &self.logits {
            for lane in 0..LANES {
                let z = class[lane];
                let mut term = exp_of_nonpositive(z * scale);
                for moment in &mut moments {
                    moment[lane] += term;
                    term *= z;
                }
            }
        }
        for (lane, above_label) in self.above_label.iter().enumerate() {
            let [whole, others @ ..] = moments.each_ref().map(|moment| moment[lane]);
            let [m1, m2, m3, m4] = others.map(|moment| moment / whole);
            let variance = m2 - m1 * m1;
            let third = m3 - m1 * (m2 + 2.0 * variance);
            let fourth = m4 - m1 * (4.0 * m3 - m1 * (6.0 * m2 - 3.0 * m1 * m1));
            sums[0] += m1 + above_label;
            sums[1] += variance;
            sums[2] += third;
            sums[3] += fourth - 3.0 * variance * variance;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::uniform;

    #[test]
    fn logits_that_were_scaled_get_their_temperature_back() {
        // Two classes, one margin m: of 100 rows, 73 are right: sigmoid(m/T) = .73.
        let labels: Vec<usize> = (0..200)
            .map(|i| usize::from(!(73..173).contains(&i)))
            .collect();
        let logits: Vec<f32> = (0..200)
            .flat_map(|i| if i < 100 { [0.0, 3.0] } else { [3.0, 0.0] })
            .collect();
        let t = temperature(Labelled {
            logits: &logits,
            classes: 2,
            labels: &labels,
        })
        .unwrap();
        let want = 3.0 / (0.73_f64 / 0.27).ln();
        assert!((t - want).abs() < 1e-10, "{t} {want}");
    }

    /// Subsamples may mislead, or have no optimum at all: it is that of all rows that counts.
    #[test]
    fn many_rows_have_the_optimum_that_bisection_finds() {
        /// How large the best logit of a row is, and whether it isn't the label's.
        type Rule = (&'static str, fn(usize) -> f64, fn(usize) -> bool);
        let n = 4 * SHARE * SOME;
        let noisy = |i: usize| uniform(1, 1, i as u64) < 0.2;
        let cases: [Rule; 9] = [
            ("alike", |_| 1.0, noisy),
            (
                "every fourth much surer",
                |i| if i.is_multiple_of(4) { 50.0 } else { 1.0 },
                noisy,
            ),
            (
                "every fourth hardly sure",
                |i| if i.is_multiple_of(4) { 1e-3 } else { 1.0 },
                noisy,
            ),
            ("every sixteenth wrong", |_| 1.0, |i| i.is_multiple_of(16)),
            ("one wrong, in no subsample", |_| 1.0, |i| i == 1),
            ("all right", |_| 1.0, |_| false),
            ("all wrong", |_| 1.0, |_| true),
            ("all equal", |_| 0.0, noisy),
            (
                "extreme",
                |i| if i.is_multiple_of(2) { 1e30 } else { 1e-30 },
                noisy,
            ),
        ];
        for (name, size, is_wrong) in cases {
            let labels: Vec<usize> = (0..n).map(|i| i % 3).collect();
            let mut logits = vec![0.0; 3 * n];
            for (i, label) in labels.iter().enumerate() {
                let best = label + usize::from(is_wrong(i));
                logits[3 * i + best % 3] = (size(i) * (1.0 + uniform(1, 0, i as u64))) as f32;
            }
            let rows = Labelled {
                logits: &logits,
                classes: 3,
                labels: &labels,
            };
            match (temperature(rows), in_bracket(Every { rows, step: 1 })) {
                (Ok(got), Ok(want)) => {
                    assert!((got / want - 1.0).abs() < 1e-9, "{name}: {got} {want}");
                }
                (got, want) => assert_eq!(got, want, "{name}"),
            }
        }
    }
}
