//! Minima of smooth convex functions of many parameters: L-BFGS (Liu & Nocedal 1989) from a curvature that the caller
//! knows, with a backtracking line search.

use super::cholesky::Cholesky;
use std::collections::VecDeque;

const MOST_STEPS: usize = 500;
/// Steps after which an exact curvature is taken anew: near a border of the data the old one is of no use.
const FRESH: usize = 8;
/// Pairs of steps and gradient changes that are remembered.
const MEMORY: usize = 20;
/// The value that is estimated to be left to gain at the end, relative to 1 or the value.
const CLOSE_ENOUGH: f64 = 1e-15;
/// If a search finds nothing better from here, rounding is all that is left.
const ROUNDING: f64 = 1e-10;

/// What is known of the second derivatives at a point.
pub(super) enum Curvature {
    /// All of them: they are worth asking for again.
    Exact(Cholesky),
    /// Those of single parameters, positive.
    Diagonal(Vec<f64>),
}

impl Curvature {
    fn solve(&self, gradient: &[f64]) -> Vec<f64> {
        match self {
            Self::Exact(cholesky) => cholesky.solve(gradient),
            Self::Diagonal(d) => gradient.iter().zip(d).map(|(g, d)| g / d).collect(),
        }
    }
}

/// A point, the value there and the gradient.
#[derive(Clone)]
pub(super) struct Point {
    pub(super) x: Vec<f64>,
    pub(super) value: f64,
    gradient: Vec<f64>,
}

/// The minimum of a convex function, searched from `start`, or the point where the search got stuck. `function` gives value
/// and gradient.
pub(super) fn minimise(
    start: Vec<f64>,
    function: impl Fn(&[f64]) -> (f64, Vec<f64>),
    curvature: impl Fn(&[f64]) -> Option<Curvature>,
) -> Result<Point, Point> {
    let at = |x: Vec<f64>| {
        let (value, gradient) = function(&x);
        Point { x, value, gradient }
    };
    let mut here = at(start);
    let Some(mut known) = curvature(&here.x) else {
        return Err(here);
    };
    let mut memory = Memory::default();
    for step in 1..=MOST_STEPS {
        let direction = memory.direction(&here.gradient, &known);
        let slope = dot(&direction, &here.gradient);
        let gain = -slope / 2.0;
        // Not `gain < 0`: NaN must not pass.
        if !(here.value.is_finite() && gain >= 0.0) {
            return Err(here);
        }
        if gain <= CLOSE_ENOUGH * here.value.abs().max(1.0) {
            return Ok(here);
        }
        let Some(next) = search(&here, &direction, slope, at) else {
            return if gain <= ROUNDING * here.value.abs().max(1.0) {
                Ok(here)
            } else {
                Err(here)
            };
        };
        if step % FRESH == 0 && matches!(known, Curvature::Exact(_)) {
            let Some(fresh) = curvature(&next.x) else {
                return Err(next);
            };
            (known, memory) = (fresh, Memory::default());
        } else {
            memory.remember(&here, &next);
        }
        here = next;
    }
    Err(here)
}

/// Goes along `direction`, halving it until the value falls enough, or, where rounding hides the value, until the slope
/// flattens (Hager & Zhang 2005).
fn search(
    here: &Point,
    direction: &[f64],
    slope: f64,
    at: impl Fn(Vec<f64>) -> Point,
) -> Option<Point> {
    let shares = std::iter::successors(Some(1.0), |share| Some(share / 2.0)).take(60);
    let points = shares.map(|share| {
        let x = here.x.iter().zip(direction);
        (share, at(x.map(|(x, d)| x + share * d).collect()))
    });
    let rounding = 1e-13 * here.value.abs().max(1.0);
    points
        .filter(|(_, next)| next.value.is_finite())
        .find(|(share, next)| {
            let falls = next.value <= here.value + 1e-4 * share * slope;
            let flattens = dot(&next.gradient, direction).abs() <= 0.9 * slope.abs();
            falls || (flattens && next.value <= here.value + rounding)
        })
        .map(|(_, next)| next)
}

/// Steps s and the changes y of the gradient over them, with 1 / s·y.
#[derive(Default)]
struct Memory(VecDeque<(Vec<f64>, Vec<f64>, f64)>);

impl Memory {
    fn remember(&mut self, here: &Point, next: &Point) {
        let s = difference(&next.x, &here.x);
        let y = difference(&next.gradient, &here.gradient);
        let product = dot(&s, &y);
        // Convexity makes it positive; rounding may not.
        if product > 0.0 && (1.0 / product).is_finite() {
            if self.0.len() == MEMORY {
                self.0.pop_front();
            }
            self.0.push_back((s, y, 1.0 / product));
        }
    }

    /// −H·gradient by the two-loop recursion.
    fn direction(&self, gradient: &[f64], known: &Curvature) -> Vec<f64> {
        let mut q: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut shares = Vec::with_capacity(self.0.len());
        for (s, y, rho) in self.0.iter().rev() {
            let share = rho * dot(s, &q);
            add(&mut q, -share, y);
            shares.push(share);
        }
        let mut direction = known.solve(&q);
        if let Some((_, y, rho)) = self.0.back() {
            let scale = 1.0 / (rho * dot(y, &known.solve(y)));
            direction.iter_mut().for_each(|d| *d *= scale);
        }
        for ((s, y, rho), share) in self.0.iter().zip(shares.into_iter().rev()) {
            let back = rho * dot(y, &direction);
            add(&mut direction, share - back, s);
        }
        direction
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn add(to: &mut [f64], share: f64, what: &[f64]) {
    for (t, w) in to.iter_mut().zip(what) {
        *t += share * w;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Σ c_j (cosh(x_j − j) − 1), with curvatures from 1 to 1e6: the minimum is at x_j = j.
    fn valley(x: &[f64]) -> (f64, Vec<f64>) {
        let c = |j: usize| 10f64.powi(2 * j as i32);
        let values = x.iter().enumerate();
        let value = values
            .clone()
            .map(|(j, x)| c(j) * ((x - j as f64).cosh() - 1.0))
            .sum();
        (
            value,
            values.map(|(j, x)| c(j) * (x - j as f64).sinh()).collect(),
        )
    }

    #[test]
    fn the_minimum_is_found_with_any_curvature() {
        let exact = |x: &[f64]| {
            let d = |j: usize| 10f64.powi(2 * j as i32) * (x[j] - j as f64).cosh();
            let at = |i: usize| if i / 4 == i % 4 { d(i / 4) } else { 0.0 };
            let matrix: Vec<f64> = (0..16).map(at).collect();
            Cholesky::of_nearly(&matrix, 4).map(Curvature::Exact)
        };
        let poor = |_: &[f64]| Some(Curvature::Diagonal(vec![1.0; 4]));
        let start = vec![2.0, -2.0, 2.5, 1.0];
        for minimum in [
            minimise(start.clone(), valley, exact).ok().unwrap(),
            minimise(start.clone(), valley, poor).ok().unwrap(),
        ] {
            for (j, x) in minimum.x.iter().enumerate() {
                assert!((x - j as f64).abs() < 1e-6, "{:?}", minimum.x);
            }
            assert!(minimum.value < 1e-14);
        }
    }

    #[test]
    fn what_has_no_minimum_is_not_found() {
        let falls = |x: &[f64]| (-x[0], vec![-1.0]);
        let nan = |_: &[f64]| (f64::NAN, vec![f64::NAN]);
        let flat = |_: &[f64]| Some(Curvature::Diagonal(vec![1.0]));
        assert!(minimise(vec![0.0], falls, flat).is_err());
        assert!(minimise(vec![0.0], nan, flat).is_err());
    }
}
