//! What the Brier score of one class consists of.

use super::Ranking;
use super::calibration_error::EqualWidth;
use super::ranking::{Marked, Once};

/// REL − RES + UNC + WBV − WBC over bins (Stephenson, Coelho & Jolliffe 2008): with the two within-bin terms the sum is
/// the Brier score exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Binned {
    /// Mean squared distance of bin means from bin rates.
    pub reliability: f64,
    /// Mean squared distance of bin rates from the base rate.
    pub resolution: f64,
    /// Variance of the outcome.
    pub uncertainty: f64,
    /// Mean within-bin variance of the probabilities.
    pub within_variance: f64,
    /// Twice the mean within-bin covariance of probabilities and outcomes.
    pub within_covariance: f64,
    /// Mean (p − outcome)².
    pub brier: f64,
}

impl Binned {
    /// What the identity leaves: zero, but for rounding.
    pub fn residual(&self) -> f64 {
        let sum = self.reliability - self.resolution + self.uncertainty + self.within_variance
            - self.within_covariance;
        self.brier - sum
    }
}

/// Decomposes over `count` right-closed bins of equal width; none without rows.
pub fn binned(p: &[f64], outcome: &[bool], count: usize) -> Option<Binned> {
    let width = EqualWidth::new(count);
    let mut sums = vec![BinSums::default(); count];
    for (p, y) in p.iter().zip(outcome) {
        let bin = width.bin(*p);
        sums[bin].add(p - width.lower(bin));
        if *y {
            sums[bin].add_hit(p - width.lower(bin));
        }
    }
    let bins = sums.iter().enumerate();
    let bins: Vec<Bin> = bins.map(|(i, sums)| sums.bin(width.lower(i))).collect();
    Binned::of(&bins, square_errors(p, outcome))
}

impl Binned {
    /// From bins and Σ (p − outcome)² over all rows; none without rows.
    pub(super) fn of(bins: &[Bin], square_errors: f64) -> Option<Self> {
        let n: f64 = bins.iter().map(|bin| bin.rows).sum();
        if n == 0.0 {
            return None;
        }
        let base = bins.iter().map(|bin| bin.hits).sum::<f64>() / n;
        let mut parts = Self {
            reliability: 0.0,
            resolution: 0.0,
            uncertainty: base * (1.0 - base),
            within_variance: 0.0,
            within_covariance: 0.0,
            brier: square_errors / n,
        };
        for bin in bins {
            let (score, rate) = (bin.score, bin.rate());
            parts.reliability += bin.rows * (score - rate) * (score - rate) / n;
            parts.resolution += bin.rows * (rate - base) * (rate - base) / n;
            parts.within_variance += bin.variance / n;
            parts.within_covariance += 2.0 * bin.covariance / n;
        }
        Some(parts)
    }
}

/// Σ (p − outcome)².
fn square_errors(p: &[f64], outcome: &[bool]) -> f64 {
    let square = |(p, y): (&f64, &bool)| (p - f64::from(*y)) * (p - f64::from(*y));
    p.iter().zip(outcome).map(square).sum()
}

/// Sums over the rows of a bin, of probabilities less the bin's lower edge: so small that differences of their sums keep
/// their digits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BinSums {
    rows: f64,
    above: f64,
    squares: f64,
    hits: f64,
    /// Over rows whose outcome is 1.
    hits_above: f64,
}

impl BinSums {
    #[inline]
    pub(super) fn add(&mut self, above: f64) {
        self.rows += 1.0;
        self.above += above;
        self.squares += above * above;
    }

    /// Adds the outcome of a row that was added.
    #[inline]
    pub(super) fn add_hit(&mut self, above: f64) {
        self.hits += 1.0;
        self.hits_above += above;
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.rows += other.rows;
        self.above += other.above;
        self.squares += other.squares;
        self.hits += other.hits;
        self.hits_above += other.hits_above;
    }

    pub(super) fn bin(&self, lower: f64) -> Bin {
        let mean = self.above / self.rows.max(1.0);
        Bin {
            rows: self.rows,
            hits: self.hits,
            score: lower + mean,
            variance: self.squares - self.above * mean,
            covariance: self.hits_above - self.hits * mean,
        }
    }
}

/// What the rows of a bin come to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bin {
    pub(super) rows: f64,
    pub(super) hits: f64,
    /// Mean probability.
    pub(super) score: f64,
    /// Σ (p − score)².
    variance: f64,
    /// Σ (p − score)·(outcome − rate).
    covariance: f64,
}

impl Bin {
    fn rate(&self) -> f64 {
        self.hits / self.rows.max(1.0)
    }

    /// All the rows of `bins`.
    pub(super) fn joined(bins: &[Self]) -> Self {
        let mut all = Self::default();
        for bin in bins {
            all.rows += bin.rows;
            all.hits += bin.hits;
            all.score += bin.rows * bin.score;
        }
        all.score /= all.rows.max(1.0);
        for bin in bins {
            let off = bin.score - all.score;
            all.variance += bin.variance + bin.rows * off * off;
            all.covariance += bin.covariance + bin.rows * off * (bin.rate() - all.rate());
        }
        all
    }
}

/// MCB − DSC + UNC (Dimitriadis, Gneiting & Jordan 2021): miscalibration and discrimination against the isotonic fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Corp {
    /// Brier score minus that of the isotonic fit.
    pub miscalibration: f64,
    /// Brier score of the base rate minus that of the isotonic fit.
    pub discrimination: f64,
    /// Brier score of the base rate.
    pub uncertainty: f64,
}

/// Decomposes by pooling adjacent violators; none without rows.
pub fn corp(p: &[f64], outcome: &[bool]) -> Option<Corp> {
    let mut pool = Pool::default();
    let ranked = Marked::new(&Ranking::new(p), outcome);
    ranked.each_group(Once, |rows, hits| pool.add(rows, hits));
    pool.corp(square_errors(p, outcome))
}

/// The isotonic fit to groups of equal probabilities, from the largest one.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// (rows, hits): within a block the fit is hits / rows.
    blocks: Vec<(f64, f64)>,
}

impl Pool {
    #[inline]
    pub(super) fn add(&mut self, rows: f64, hits: f64) {
        let mut block = (rows, hits);
        // Compared crosswise, in whole numbers: no rounding decides a tie.
        while let Some(above) = self
            .blocks
            .pop_if(|above| above.1 * block.0 <= block.1 * above.0)
        {
            block = (block.0 + above.0, block.1 + above.1);
        }
        self.blocks.push(block);
    }

    /// From Σ (p − outcome)² over all rows; none without rows.
    pub(super) fn corp(&self, square_errors: f64) -> Option<Corp> {
        let blocks = self.blocks.iter();
        let (n, hits) = blocks.fold((0.0, 0.0), |(n, all), (rows, hits)| (n + rows, all + hits));
        if n == 0.0 {
            return None;
        }
        let of_block = |(rows, hits): &(f64, f64)| hits * (1.0 - hits / rows);
        let isotonic = self.blocks.iter().map(of_block).sum::<f64>() / n;
        let uncertainty = hits / n * (1.0 - hits / n);
        Some(Corp {
            miscalibration: square_errors / n - isotonic,
            discrimination: uncertainty - isotonic,
            uncertainty,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_close() {
        let p: Vec<f64> = (0..97).map(|i| f64::from(i * 37 % 97) / 96.0).collect();
        let y: Vec<bool> = (0..97).map(|i| i * 53 % 97 < i).collect();
        let parts = binned(&p, &y, 10).unwrap();
        assert!(parts.residual().abs() < 1e-12);
        let corp = corp(&p, &y).unwrap();
        assert!(
            (corp.miscalibration - corp.discrimination + corp.uncertainty - parts.brier).abs()
                < 1e-12
        );
        assert!(corp.miscalibration >= 0.0 && corp.discrimination >= 0.0);
    }

    #[test]
    fn violators_are_pooled() {
        let mut pool = Pool::default();
        for hits in [1.0, 0.0, 0.0, 1.0] {
            pool.add(1.0, hits);
        }
        assert_eq!(pool.blocks, [(1.0, 1.0), (3.0, 1.0)]);
    }
}
