//! Symmetric positive systems of any size.

/// Pivots below this share of their diagonal entries are rounding.
const ROUNDING: f64 = 1e-14;

/// The factor of a symmetric positive matrix.
pub(super) struct Cholesky {
    n: usize,
    /// Lower triangle, row-major.
    factor: Vec<f64>,
}

impl Cholesky {
    /// Factors `matrix` `[n, n]`, of which the lower triangle is read, after raising its diagonal by as small a share
    /// as makes that possible; none if no share does.
    pub(super) fn of_nearly(matrix: &[f64], n: usize) -> Option<Self> {
        let shares = [0.0, 1e-12, 1e-9, 1e-6, 1e-3, 1.0];
        shares.into_iter().find_map(|share| {
            let mut raised = matrix.to_vec();
            for j in 0..n {
                let d = &mut raised[j * n + j];
                *d += share * *d;
                if share > 0.0 && *d <= 0.0 {
                    // Nothing depends on this parameter: it stays.
                    *d = 1.0;
                }
            }
            Self::of(raised, n)
        })
    }

    /// Factors `matrix` `[n, n]`, of which the lower triangle is read; none if a pivot is rounding beside its diagonal
    /// entry.
    pub(super) fn of(mut matrix: Vec<f64>, n: usize) -> Option<Self> {
        for j in 0..n {
            let (done, rest) = matrix.split_at_mut(j * n);
            let row = &mut rest[..n];
            for i in 0..j {
                let other = &done[i * n..i * n + i];
                let sum: f64 = row[..i].iter().zip(other).map(|(a, b)| a * b).sum();
                row[i] = (row[i] - sum) / done[i * n + i];
            }
            let sum: f64 = row[..j].iter().map(|a| a * a).sum();
            let pivot = row[j] - sum;
            if !(pivot > ROUNDING * row[j] && pivot.is_finite()) {
                return None;
            }
            row[j] = libm::sqrt(pivot);
        }
        Some(Self { n, factor: matrix })
    }

    /// x with matrix·x = `right`.
    pub(super) fn solve(&self, right: &[f64]) -> Vec<f64> {
        let (n, l) = (self.n, &self.factor);
        let mut x = right.to_vec();
        for j in 0..n {
            let sum: f64 = (0..j).map(|k| l[j * n + k] * x[k]).sum();
            x[j] = (x[j] - sum) / l[j * n + j];
        }
        for j in (0..n).rev() {
            x[j] /= l[j * n + j];
            for k in 0..j {
                x[k] -= l[j * n + k] * x[j];
            }
        }
        x
    }

    /// The pivots: what is left of each diagonal entry once the parameters before it are accounted for.
    pub(super) fn pivots(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.n).map(|j| self.factor[j * self.n + j] * self.factor[j * self.n + j])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_solved_and_singular_ones_nearly() {
        let matrix = [4.0, 0.0, 0.0, 2.0, 5.0, 0.0, -1.0, 0.5, 3.0];
        let full = [4.0, 2.0, -1.0, 2.0, 5.0, 0.5, -1.0, 0.5, 3.0];
        let want = [1.0, -2.0, 0.25];
        let right: Vec<f64> = (0..3)
            .map(|i| (0..3).map(|j| full[3 * i + j] * want[j]).sum())
            .collect();
        let cholesky = Cholesky::of_nearly(&matrix, 3).unwrap();
        for (got, want) in cholesky.solve(&right).iter().zip(want) {
            assert!((got - want).abs() < 1e-14, "{got} {want}");
        }
        // Its determinant is the product of its pivots.
        let determinant = 4.0 * (15.0 - 0.25) - 2.0 * (6.0 + 0.5) - (1.0 + 5.0);
        assert!((cholesky.pivots().product::<f64>() - determinant).abs() < 1e-12);
        let singular = Cholesky::of_nearly(&[1.0, 1.0, 1.0, 1.0], 2).unwrap();
        assert!(singular.solve(&[1.0, 1.0]).iter().all(|x| x.is_finite()));
        assert!(Cholesky::of_nearly(&[f64::NAN], 1).is_none());
    }
}
