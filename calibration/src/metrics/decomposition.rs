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
    if p.is_empty() {
        return None;
    }
    let n = p.len() as f64;
    let bins = Bin::all(p, outcome, count);
    let base = outcome.iter().filter(|y| **y).count() as f64 / n;
    let mut parts = Binned {
        reliability: 0.0,
        resolution: 0.0,
        uncertainty: base * (1.0 - base),
        within_variance: 0.0,
        within_covariance: 0.0,
        brier: bins.iter().map(|bin| bin.square_error).sum::<f64>() / n,
    };
    for bin in bins.iter().filter(|bin| bin.rows > 0.0) {
        parts.reliability += bin.rows * (bin.score - bin.rate) * (bin.score - bin.rate) / n;
        parts.resolution += bin.rows * (bin.rate - base) * (bin.rate - base) / n;
        parts.within_variance += bin.variance / n;
        parts.within_covariance += 2.0 * bin.covariance / n;
    }
    Some(parts)
}

/// Sums and means over the rows of a bin.
#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    rows: f64,
    /// Mean probability.
    score: f64,
    /// Mean outcome.
    rate: f64,
    /// Σ (p − outcome)².
    square_error: f64,
    /// Σ (p − score)².
    variance: f64,
    /// Σ (p − score)·(outcome − rate).
    covariance: f64,
}

impl Bin {
    /// In two passes: differences from the means keep the digits that differences of sums lose.
    fn all(p: &[f64], outcome: &[bool], count: usize) -> Vec<Self> {
        let width = EqualWidth::new(count);
        let bin_of: Vec<u32> = p.iter().map(|p| width.bin(*p) as u32).collect();
        let rows = || {
            let rows = bin_of.iter().zip(p).zip(outcome);
            rows.map(|((bin, p), y)| (*bin as usize, *p, f64::from(*y)))
        };
        let mut bins = vec![Self::default(); count];
        for (bin, p, y) in rows() {
            bins[bin].rows += 1.0;
            bins[bin].score += p;
            bins[bin].rate += y;
        }
        for bin in bins.iter_mut().filter(|bin| bin.rows > 0.0) {
            bin.score /= bin.rows;
            bin.rate /= bin.rows;
        }
        for (bin, p, y) in rows() {
            let bin = &mut bins[bin];
            bin.square_error += (p - y) * (p - y);
            bin.variance += (p - bin.score) * (p - bin.score);
            bin.covariance += (p - bin.score) * (y - bin.rate);
        }
        bins
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
    corp_of_ranked(&Marked::new(&Ranking::new(p), outcome), p, outcome)
}

/// [`corp`] of probabilities that are ranked already, with the outcomes as marks.
pub(super) fn corp_of_ranked(ranked: &Marked, p: &[f64], outcome: &[bool]) -> Option<Corp> {
    if p.is_empty() {
        return None;
    }
    let n = p.len() as f64;
    let rate = outcome.iter().filter(|y| **y).count() as f64 / n;
    let square = |(p, y): (&f64, &bool)| (p - f64::from(*y)) * (p - f64::from(*y));
    let brier = p.iter().zip(outcome).map(square).sum::<f64>() / n;
    let of_block = |(rows, hits): &(f64, f64)| hits * (1.0 - hits / rows);
    let isotonic = pooled(ranked).iter().map(of_block).sum::<f64>() / n;
    let uncertainty = rate * (1.0 - rate);
    Some(Corp {
        miscalibration: brier - isotonic,
        discrimination: uncertainty - isotonic,
        uncertainty,
    })
}

/// Blocks (rows, hits) of the isotonic fit, from the largest probability; within a block its value is hits / rows.
fn pooled(ranked: &Marked) -> Vec<(f64, f64)> {
    let mut blocks: Vec<(f64, f64)> = Vec::new();
    ranked.each_group(Once, |rows, hits| {
        let mut block = (rows, hits);
        // Compared crosswise, in whole numbers: no rounding decides a tie.
        while let Some(above) = blocks.pop_if(|above| above.1 * block.0 <= block.1 * above.0) {
            block = (block.0 + above.0, block.1 + above.1);
        }
        blocks.push(block);
    });
    blocks
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
        let ranked = Marked::new(
            &Ranking::new(&[0.1, 0.2, 0.3, 0.4]),
            &[true, false, false, true],
        );
        assert_eq!(pooled(&ranked), [(1.0, 1.0), (3.0, 1.0)]);
    }
}
